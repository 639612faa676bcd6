//! What can be said on the command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::documents::{Completions, Man};
use super::options::Options;
use super::statuses::Order;

#[derive(Args)]
pub struct CtlArguments {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// How far indices are
    Status(Status),
    /// Follow a leader index
    Start(Start),
    /// Pause a replication; the index stays read-only
    Pause {
        index: String,
        /// Shown in the status
        #[arg(long)]
        reason: Option<String>,
    },
    /// Go on with a paused replication
    Resume {
        index: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// End a replication; the index becomes an ordinary one
    Stop { index: String },
    /// Replace the settings that win over the leader's; without any, all go
    Update {
        index: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Prove that an index is equal to its leader's, or name what differs; fails if it is not
    Verify(Verify),
    /// Documents that the follower index refuses
    DeadLetters {
        index: String,
        /// Have the leader's agents deliver them again, as they are now
        #[arg(long)]
        replay: bool,
    },
    /// Rules that follow indices by themselves
    #[command(subcommand)]
    Autofollow(Autofollow),
    /// Statistics
    Stats { of: StatsOf },
    /// Start, pause, resume or stop every index that matches, in the background
    #[command(subcommand)]
    Bulk(Bulk),
    /// Bulk tasks that were begun
    #[command(subcommand)]
    Task(Task),
    /// Named gateways, with how to log in there, to choose among
    #[command(subcommand)]
    Context(ContextCommand),
    /// Collect what a report of a fault needs
    #[command(subcommand)]
    Debug(Debug),
    /// Print completions of a shell
    Completions(Completions),
    /// Print this program's manual page
    Man(Man),
}

#[derive(Args)]
pub(super) struct Status {
    /// A follower index or a pattern of them; all that are followed if there is none
    pub index: Option<String>,
    /// Each shard too
    #[arg(long)]
    pub shards: bool,
    /// Which index comes first
    #[arg(long, value_name = "ORDER", default_value = "name")]
    pub sort: Order,
    /// Ask again and again; on a terminal this is a screen with keys to scroll, filter and sort
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = seconds
    )]
    pub watch: Option<Duration>,
}

#[derive(Args)]
pub(super) struct Start {
    /// The follower index, which must not be there yet
    pub index: String,
    /// Connection alias of the leader cluster
    #[arg(long)]
    pub leader_alias: String,
    /// Like the follower index if it is not given
    #[arg(long)]
    pub leader_index: Option<String>,
    /// Snapshot repository, on both clusters, through which the index is copied; empty: through
    /// Kafka
    #[arg(long)]
    pub repository: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub roles: Roles,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Args)]
pub(super) struct Verify {
    pub index: String,
    /// Compare sources too, not only ids, routing and versions
    #[arg(long)]
    pub content: bool,
    /// Copy the index anew if it differs
    #[arg(long)]
    pub repair: bool,
    /// Read on either side at most; 0 is no limit
    #[arg(long, value_name = "NUMBER")]
    pub documents_per_second: Option<u64>,
    /// Show the last one, or the one under way, instead of beginning one
    #[arg(long, conflicts_with_all = ["content", "repair", "documents_per_second"])]
    pub last: bool,
}

#[derive(Subcommand)]
pub(super) enum ContextCommand {
    /// The contexts there are; the current one is marked
    List,
    /// Make a context the current one
    Use { name: String },
    /// Make a context, or change it, from --url, --user, --password-file and the like
    Set { name: String },
    /// Forget a context
    Delete { name: String },
}

#[derive(Subcommand)]
pub(super) enum Debug {
    /// Status, statistics, metrics, versions, configuration without secrets and the end of logs, in
    /// one archive
    Bundle(Bundle),
}

#[derive(Args)]
pub(super) struct Bundle {
    /// The archive (.tar.gz), which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Admin address of an agent of either cluster, such as http://127.0.0.1:9600, for its metrics
    /// and readiness; can be given more than once
    #[arg(long, value_name = "URL")]
    pub admin: Vec<String>,
    /// Configuration file of an agent; values of secret keys are left out; can be given more than
    /// once
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Log of an agent, the last 4 MiB of it; can be given more than once
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum Autofollow {
    /// Follow the leader's indices that match, those that are there and those to come
    Create {
        name: String,
        /// Connection alias of the leader cluster
        #[arg(long)]
        leader_alias: String,
        /// Of names or aliases of leader indices
        #[arg(long)]
        pattern: String,
        /// Names the follower indices; has to contain {{leader_index}}
        #[arg(long, value_name = "PATTERN")]
        follower_index_pattern: Option<String>,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        roles: Roles,
    },
    /// End a rule, but not the replications that it began
    Delete {
        name: String,
        /// Connection alias of the leader cluster
        #[arg(long)]
        leader_alias: String,
    },
    /// The rules, and what came of them
    List,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum StatsOf {
    /// Of this cluster as a leader
    Leader,
    Follower,
    Autofollow,
}

#[derive(Subcommand)]
pub(super) enum Bulk {
    /// Follow the leader's indices that match, under their own names
    Start {
        #[command(flatten)]
        indices: Indices,
        /// Connection alias of the leader cluster
        #[arg(long)]
        leader_alias: String,
        #[command(flatten)]
        roles: Roles,
        #[command(flatten)]
        wait: Wait,
    },
    /// Pause the replications that match
    Pause {
        #[command(flatten)]
        indices: Indices,
        #[command(flatten)]
        wait: Wait,
    },
    /// Resume the replications that match
    Resume {
        #[command(flatten)]
        indices: Indices,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop the replications that match
    Stop {
        #[command(flatten)]
        indices: Indices,
        #[command(flatten)]
        wait: Wait,
    },
    /// Status of every index of the follower cluster that matches, followed or not
    Status { pattern: String },
}

#[derive(Subcommand)]
pub(super) enum Task {
    /// How far a task is
    Status {
        id: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Begin nothing more of a task
    Cancel { id: String },
}

#[derive(Args)]
pub(super) struct Indices {
    /// Of index names; * stands for any run of characters
    pub pattern: String,
    /// Leave out; can be given more than once
    #[arg(long, value_name = "INDEX")]
    exclude: Vec<String>,
}

impl fmt::Display for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)?;
        if !self.exclude.is_empty() {
            write!(f, " (without {})", self.exclude.join(", "))?;
        }
        Ok(())
    }
}

impl Indices {
    pub(super) fn body(&self) -> Map<String, Value> {
        let mut body = Map::from_iter([("pattern".to_owned(), json!(self.pattern))]);
        if !self.exclude.is_empty() {
            body.insert("filters".to_owned(), json!({"exclude_index": self.exclude}));
        }
        body
    }
}

#[derive(Args)]
pub(super) struct Wait {
    /// Show progress until it is done; fail if it fails
    #[arg(long)]
    pub wait: bool,
}

#[derive(Args)]
pub(super) struct Settings {
    /// Index setting that wins over the leader's, such as index.number_of_replicas=0; can be given
    /// more than once
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl Settings {
    pub(super) fn json(&self) -> Option<Value> {
        let settings = self
            .settings
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)));
        (!self.settings.is_empty()).then(|| Value::Object(settings.collect()))
    }
}

#[derive(Args)]
pub(super) struct Roles {
    /// Role of the security plugin on the leader cluster
    #[arg(long, value_name = "ROLE", requires = "follower_role")]
    leader_role: Option<String>,
    /// Role of the security plugin on the follower cluster
    #[arg(long, value_name = "ROLE", requires = "leader_role")]
    follower_role: Option<String>,
}

impl Roles {
    pub(super) fn json(&self) -> Option<Value> {
        let (leader, follower) = (self.leader_role.as_ref()?, self.follower_role.as_ref()?);
        Some(json!({"leader_cluster_role": leader, "follower_cluster_role": follower}))
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds")?;
    Duration::try_from_secs_f64(seconds.max(0.1)).map_err(|error| error.to_string())
}
