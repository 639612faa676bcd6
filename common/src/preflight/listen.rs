//! Addresses that the agent listens on.

use std::net::{SocketAddr, TcpListener};

use super::{Problem, Report};

/// Whether nobody else listens there. An agent that runs already is somebody else, too.
pub fn check_free(key: &str, address: SocketAddr, report: &mut Report) {
    let found = TcpListener::bind(address)
        .map(|_| address.to_string())
        .map_err(|error| {
            let port = address.port();
            let mend = format!(
                "see who has it with `ss -ltnp 'sport = :{port}'` and end that (perhaps this \
                 agent, which runs already), or set {key} to another address of this machine"
            );
            Problem::new(format!("cannot listen on {address}: {error}"), mend)
        });
    report.add(key, found);
}
