//! Whether callers are asked who they are, as the cluster makes possible or necessary.

use shardline_common::preflight::{Probe, Problem};

use crate::config::SecurityMode;

const AUTHINFO: &str = "/_plugins/_security/authinfo";

/// Finds what would keep the agent from starting.
pub(super) async fn check(mode: Option<SecurityMode>, probe: &Probe) -> Result<String, Problem> {
    let has_plugin = probe
        .get(AUTHINFO)
        .await
        .map_err(|reason| {
            let what =
                format!("the cluster does not say whether it has the security plugin: {reason}");
            Problem::new(what, format!("ask it for {AUTHINFO}"))
        })?
        .status
        .is_success();
    match (mode, has_plugin) {
        (None, true) => Err(Problem::new(
            "the cluster has the security plugin, and nothing says whether the gateway asks it",
            "gateway.security.mode = \"plugin\", or \"off\" to let everybody control replication",
        )),
        (Some(SecurityMode::Plugin), false) => Err(Problem::new(
            "the cluster has no security plugin that could be asked who calls",
            "take gateway.security.mode away, or set up the plugin",
        )),
        (Some(SecurityMode::Plugin), true) => Ok("the security plugin is asked".to_owned()),
        _ => Ok("nobody is asked: whoever reaches the gateway controls replication".to_owned()),
    }
}
