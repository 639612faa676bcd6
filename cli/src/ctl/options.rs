//! Options that every command has: which gateway is asked, as whom, and how answers are shown.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub connection: Connection,
    /// How answers are printed
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        conflicts_with = "json"
    )]
    output: Format,
    /// The same as --output json
    #[arg(long, global = true)]
    json: bool,
    /// Do not ask before what cannot be undone
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Print the request instead of sending it
    #[arg(long, global = true)]
    pub dry_run: bool,
}

impl Options {
    pub(super) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// The agent's answers as they are
    Json,
    /// The agent's answers as YAML
    Yaml,
}

/// What leads to a gateway. Without any of it, the current context is used.
#[derive(Args, Default)]
pub(super) struct Connection {
    /// Context that says which gateway is asked, and as whom [env: SHARDLINE_CONTEXT]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Connection",
        conflicts_with = "url"
    )]
    pub context: Option<String>,
    /// Gateway of any of the follower cluster's agents [env: SHARDLINE_URL] [default: the current
    /// context's, or http://127.0.0.1:9200]
    #[arg(long, global = true, help_heading = "Connection")]
    pub url: Option<String>,
    /// User to log in as; the password is asked for, unless it is in a file or in
    /// SHARDLINE_PASSWORD [env: SHARDLINE_USER]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Connection",
        conflicts_with = "token_file"
    )]
    pub user: Option<String>,
    /// File that holds the user's password and nothing else [env: SHARDLINE_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub password_file: Option<PathBuf>,
    /// File that holds a bearer token and nothing else [env: SHARDLINE_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that sign the gateway's certificate, beside the system's own
    /// [env: SHARDLINE_CA_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub ca_certificate: Option<PathBuf>,
    /// PEM file of the certificate to show to the gateway [env: SHARDLINE_CLIENT_CERTIFICATE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub client_certificate: Option<PathBuf>,
    /// PEM file (PKCS #8) of that certificate's key [env: SHARDLINE_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub client_key: Option<PathBuf>,
}
