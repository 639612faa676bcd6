//! Reaching OpenSearch: address, scheme, certificate, login, version.

use super::probe::{Answer, Probe, anybody_answers};
use super::version::Root;
use super::{Problem, Report, check_clock};
use crate::process::config::OpenSearchConfig;

/// A cluster that was reached, and the probe that reached it.
pub struct ClusterIdentity {
    pub root: Root,
    pub probe: Probe,
}

/// Checks all that is needed to talk to the cluster; `None` if that is not possible.
pub async fn check_opensearch(
    config: &OpenSearchConfig,
    report: &mut Report,
) -> Option<ClusterIdentity> {
    // Why it cannot be made stands among the settings.
    let probe = Probe::new(config).ok()?;
    let answer = match probe.get("/").await {
        Ok(answer) => answer,
        Err(reason) => {
            let problem = why_unreachable(&config.url, &reason).await;
            report.add("OpenSearch", Err(problem));
            return None;
        }
    };
    report.ok("OpenSearch", format!("{} answers", config.url));
    check_login(config, &answer, report)?;
    let root = check_root(&answer, report)?;
    check_clock(&probe, &answer, report).await;
    Some(ClusterIdentity { root, probe })
}

/// Says what is wrong with the way to the cluster, as far as the failure shows it.
async fn why_unreachable(url: &str, reason: &str) -> Problem {
    let what = format!("{url} does not answer: {reason}");
    let has = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    if has(&["has expired", "not yet valid"]) {
        let mend = "give the cluster's node a certificate that is valid now, or correct the clock";
        return Problem::new(
            format!("{what} (the node's certificate is not valid now)"),
            mend,
        );
    }
    if has(&[
        "ostname mismatch",
        "IP address mismatch",
        "address mismatch",
    ]) {
        let mend = "write the name that the node's certificate is for into opensearch.url; \
                    see them with: openssl s_client -connect HOST:PORT </dev/null | openssl x509 \
                    -noout -ext subjectAltName";
        return Problem::new(
            format!("{what} (the certificate is for another name)"),
            mend,
        );
    }
    if has(&["certificate"]) {
        let mend = "let opensearch.ca_certificate be the PEM file of the authority that signed \
                    the node's certificate";
        return Problem::new(
            format!("{what} (the certificate is of an authority that is not trusted)"),
            mend,
        );
    }
    let other = match url.split_once("://") {
        Some(("https", rest)) => format!("http://{rest}"),
        Some((_, rest)) => format!("https://{rest}"),
        None => return Problem::new(what, "correct opensearch.url"),
    };
    let refused = has(&["refused", "unreachable", "resolve", "lookup", "no answer"]);
    if !refused && anybody_answers(&other).await {
        let scheme = other.split(':').next().unwrap_or_default().to_owned();
        let mend = format!("opensearch.url = \"{other}\"");
        return Problem::new(format!("{what} (it speaks {scheme})"), mend);
    }
    let mend = if has(&["resolve", "lookup"]) {
        "correct the host in opensearch.url, or the name service: getent hosts HOST"
    } else {
        "start the node, or correct host and port in opensearch.url: curl -sk it from this machine"
    };
    Problem::new(what, mend)
}

fn check_login(config: &OpenSearchConfig, answer: &Answer, report: &mut Report) -> Option<()> {
    let user = config.username.as_deref().unwrap_or_default();
    match (answer.status.as_u16(), &config.username) {
        (401, None) => {
            let mend = "set opensearch.username and opensearch.password_file";
            report.failed("login", "the cluster wants a user and a password", mend);
            None
        }
        (401, Some(_)) => {
            let what = format!("the cluster refuses the user {user} or the password (401)");
            let mend = "correct opensearch.username or the password; with many failed logins the \
                        cluster may refuse this address for a while";
            report.failed("login", what, mend);
            None
        }
        (403, _) => {
            let mend = format!(
                "give a role of the user {user} the cluster permission cluster:monitor/main"
            );
            report.failed("login", answer.reason(), mend);
            None
        }
        (200..=299, None) => {
            report.ok("login", "none is needed");
            Some(())
        }
        (200..=299, Some(_)) => {
            report.ok("login", user);
            Some(())
        }
        _ => {
            let mend = "let opensearch.url be the REST address of an OpenSearch node";
            report.failed("login", answer.reason(), mend);
            None
        }
    }
}

fn check_root(answer: &Answer, report: &mut Report) -> Option<Root> {
    let Ok(root) = serde_json::from_slice::<Root>(&answer.body) else {
        let mend = "let opensearch.url be the REST address of an OpenSearch node";
        report.failed("version", "the answer to GET / is not OpenSearch's", mend);
        return None;
    };
    if let Err(error) = root.supported() {
        report.failed("version", &error, "see the line above");
        return None;
    }
    report.ok("version", root.version());
    if !root.cluster_uuid.is_formed() {
        let mend = "wait until the cluster has elected its manager: \
                    cluster.initial_cluster_manager_nodes and discovery.seed_hosts say of whom";
        report.failed("cluster", "it has not formed yet", mend);
        return None;
    }
    report.ok(
        "cluster",
        format!("{} ({})", root.cluster_name, root.cluster_uuid),
    );
    Some(root)
}
