//! What the agent's user may do, asked of the security plugin, which evaluates a request's
//! permissions without running it (`perform_permission_check=true`).

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use super::probe::{Answer, Probe};
use super::{Problem, Report};

const CHECK: &str = "perform_permission_check=true";

/// A request whose permissions the agent needs.
#[derive(Clone, Debug)]
pub struct Permission {
    pub method: Method,
    /// `{index}` in it stands for an index.
    pub path: String,
    /// A valid body; `{index}` in it stands for an index, too.
    pub body: Option<&'static str>,
    /// Whether the request, if a cluster ran it all the same, would destroy something: asked only
    /// of indices that do not exist.
    pub destroys: bool,
}

impl Permission {
    pub fn new(method: Method, path: &str, body: Option<&'static str>) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body,
            destroys: false,
        }
    }

    pub fn destroying(method: Method, path: &str) -> Self {
        Self {
            destroys: true,
            ..Self::new(method, path, None)
        }
    }

    fn is_of_index(&self) -> bool {
        self.path.contains("{index}") || self.body.is_some_and(|body| body.contains("{index}"))
    }

    async fn ask(&self, probe: &Probe, index: &str) -> Result<Answer, String> {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let path = self.path.replace("{index}", index);
        let body = self.body.map(|body| {
            let content_type = if body.ends_with('\n') {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            (content_type, body.replace("{index}", index))
        });
        let path = format!("{path}{separator}{CHECK}");
        probe.send(self.method.clone(), &path, body).await
    }
}

/// Checks permissions for the cluster, and for each of the indices. `is_sample` says that the
/// indices are only examples, of which one has to be allowed.
pub async fn check_permissions(
    probe: &Probe,
    needed: &[Permission],
    indices: &[String],
    is_sample: bool,
    report: &mut Report,
) {
    if !is_plugin_there(probe).await {
        report.ok(
            "permissions",
            "the cluster has no security plugin: all is allowed",
        );
        return;
    }
    let cluster: Vec<&Permission> = needed.iter().filter(|one| !one.is_of_index()).collect();
    let missing = missing_of(probe, &cluster, "", false).await;
    report.add(
        "cluster permissions",
        found(missing, "cluster_permissions", None),
    );
    let of_index: Vec<&Permission> = needed.iter().filter(|one| one.is_of_index()).collect();
    let mut least: Option<(BTreeSet<String>, &String)> = None;
    for index in indices {
        let exists = exists(probe, index).await;
        let missing = missing_of(probe, &of_index, index, exists).await;
        if is_sample {
            if least
                .as_ref()
                .is_none_or(|(fewest, _)| missing.len() < fewest.len())
            {
                least = Some((missing, index));
            }
        } else {
            let check = format!("permissions on {index}");
            report.add(check, found(missing, "index_permissions", Some(index)));
        }
    }
    if let Some((missing, index)) = least {
        let check = format!("index permissions (as for {index})");
        report.add(check, found(missing, "index_permissions", Some(index)));
    }
}

fn found(missing: BTreeSet<String>, section: &str, index: Option<&str>) -> Result<String, Problem> {
    if missing.is_empty() {
        return Ok("all that is needed".to_owned());
    }
    let names = missing.into_iter().collect::<Vec<_>>().join(", ");
    let mut mend = format!("add to a role of the agent's user, under {section}: {names}");
    if let Some(index) = index {
        mend.push_str(&format!(
            " (for a pattern that matches {index}; if the role is for other names, pass one of \
             them with --check-index)"
        ));
    }
    Err(Problem::new(format!("missing: {names}"), mend))
}

/// Whether the check is understood. It has to be before anything is asked that would change
/// something: a user of the plugin's administration bypasses the check, and its requests would run.
async fn is_plugin_there(probe: &Probe) -> bool {
    let harmless = Permission::new(Method::GET, "/_cluster/health", None);
    let answer = harmless.ask(probe, "").await;
    answer.is_ok_and(|answer| answer.json().get("accessAllowed").is_some())
}

async fn exists(probe: &Probe, index: &str) -> bool {
    let answer = probe.send(Method::HEAD, &format!("/{index}"), None).await;
    // One that may not be looked at may be there.
    !answer.is_ok_and(|answer| answer.status.as_u16() == 404)
}

async fn missing_of(
    probe: &Probe,
    needed: &[&Permission],
    index: &str,
    exists: bool,
) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for permission in needed.iter().filter(|one| !(one.destroys && exists)) {
        if let Ok(answer) = permission.ask(probe, index).await {
            missing.extend(missing_privileges(&answer));
        }
    }
    missing
}

fn missing_privileges(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    if json.get("accessAllowed") != Some(&Value::Bool(false)) {
        return Vec::new();
    }
    let missing = json.get("missingPrivileges").and_then(Value::as_array);
    let names = missing.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}
