//! What `--check-config` is tried with: configuration files with mistakes in them, servers with TLS
//! and logins before the real ones, and the check itself as a user runs it.

pub mod certificates;
pub mod front;
pub mod run;
