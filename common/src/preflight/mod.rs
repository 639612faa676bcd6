//! What an agent needs before it can do its work, checked one by one: the configuration, this
//! machine, OpenSearch and Kafka. Nothing is started, and nothing is left behind.

mod clock;
mod control;
mod disk;
mod kafka;
mod limits;
mod listen;
mod opensearch;
mod permissions;
mod probe;
mod report;
mod settings;
mod topics;
mod version;

use std::path::Path;

pub use clock::check_clock;
pub use control::{ControlEntries, SideTopics, check_prefix, read_control};
pub use disk::{Space, Temporary, check_folder, locked_by, space_of};
pub use kafka::{KafkaSide, check_kafka};
pub use limits::{check_inotify, check_open_files};
pub use listen::check_free;
pub use opensearch::{ClusterIdentity, check_opensearch};
pub use permissions::{Permission, check_permissions};
pub use probe::Probe;
pub use report::{Problem, Report};
pub use version::{NotSupported, Root};

use crate::process::config::{AgentConfig, load};

/// What an agent can find out before it starts.
pub trait Preflight: AgentConfig {
    /// Checks what the agent needs of this machine, without a network.
    fn check_machine(&self, report: &mut Report);

    /// Checks what the agent needs of OpenSearch, Kafka and this machine, and changes nothing.
    /// `indices` are names of indices that are to be followed, for permissions that hold for some
    /// names only.
    fn check_servers(
        &self,
        indices: &[String],
        report: &mut Report,
    ) -> impl Future<Output = ()> + Send;
}

/// Checks a configuration, and with `indices` also the servers that it names.
pub async fn check<C: Preflight>(file: Option<&Path>, indices: Option<&Vec<String>>) -> Report {
    let mut report = Report::default();
    let config = match load::<C>(file) {
        Ok(loaded) => loaded.config,
        Err(error) => {
            let mend = "correct the file, or the variable that is named; docs/operations.md and \
                        --config-schema have all keys";
            report.failed("configuration", error, mend);
            return report;
        }
    };
    settings::check_settings(&config, &mut report);
    config.check_machine(&mut report);
    if let Some(indices) = indices {
        config.check_servers(indices, &mut report).await;
    }
    report
}
