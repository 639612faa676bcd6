//! The security plugin on both clusters: certificates, the plugin's own files, and how to log in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agents::AgentConfig;
use crate::jars::Jars;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The plugin's files that the stack takes as they come in its zip.
const ITS_OWN: [&str; 5] = ["action_groups", "allowlist", "audit", "nodes_dn", "tenants"];

/// A login at a cluster, and the authority that its certificate is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub ca_certificate: PathBuf,
    pub user: String,
    pub password: String,
}

impl Access {
    /// A client that trusts the authority; the login is for each request to bring.
    pub fn client(&self, timeout: Duration) -> Result<reqwest::Client> {
        let pem = fs::read(&self.ca_certificate)
            .with_context(|| format!("cannot read {}", self.ca_certificate.display()))?;
        reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .timeout(timeout)
            .add_root_certificate(reqwest::Certificate::from_pem(&pem)?)
            .build()
            .context("cannot make an HTTPS client")
    }

    pub(crate) fn quick_client(&self) -> Result<reqwest::Client> {
        self.client(REQUEST_TIMEOUT)
    }
}

/// The folder of a secured stack's certificates.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    folder: PathBuf,
    /// What comes with the plugin.
    plugin_config: PathBuf,
}

impl Security {
    /// Makes an authority and a certificate for all nodes, unless an earlier run has.
    pub fn prepare(run_dir: &Path, jars: &Jars) -> Result<Self> {
        let security = Self {
            folder: run_dir.join("security"),
            plugin_config: jars.folder("opensearch-security").join("config"),
        };
        fs::create_dir_all(&security.folder)
            .with_context(|| format!("cannot create {}", security.folder.display()))?;
        if !security.folder.join("node.pem").exists() {
            security.certificate("ca", &["-subj", "/CN=shardline-dev"])?;
            for (name, subject) in [("node", "/CN=node"), ("agent", "/CN=agent")] {
                let signed = [
                    "-CA",
                    "ca.pem",
                    "-CAkey",
                    "ca.key",
                    "-subj",
                    subject,
                    "-addext",
                    "subjectAltName=IP:127.0.0.1,DNS:localhost",
                    "-addext",
                    "basicConstraints=critical,CA:FALSE",
                ];
                security.certificate(name, &signed)?;
            }
        }
        Ok(security)
    }

    fn certificate(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let output = Command::new("openssl")
            .current_dir(&self.folder)
            .args("req -x509 -nodes -days 3650 -newkey ec".split(' '))
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-keyout", &key, "-out", &pem])
            .args(arguments)
            .output()
            .context("cannot run openssl: install it, for example with deploy/dev/install")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("openssl made no certificate {pem}: {said}");
        }
        Ok(())
    }

    pub fn access(&self, user: &str) -> Access {
        Access {
            ca_certificate: self.folder.join("ca.pem"),
            user: user.to_owned(),
            password: format!("{user}-password"),
        }
    }

    /// Puts the certificates and the plugin's files into a node's folder. `side` is `leader` or
    /// `follower`.
    pub fn configure_node(&self, side: &str, home: &Path) -> Result<()> {
        let config = home.join("config");
        let files = config.join("opensearch-security");
        fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
        for name in ["ca.pem", "node.pem", "node.key"] {
            copy(&self.folder.join(name), &config.join(name))?;
        }
        for name in ITS_OWN {
            let name = format!("{name}.yml");
            copy(&self.plugin_config.join(&name), &files.join(&name))?;
        }
        let dev = Path::new(env!("CARGO_MANIFEST_DIR")).join("security");
        for name in ["config.yml", "internal_users.yml"] {
            copy(&dev.join(name), &files.join(name))?;
        }
        // What people are told to use, with the stack's own behind it.
        let templates = dev.join("../../security").join(side);
        for name in ["roles.yml", "roles_mapping.yml"] {
            let mut text = read(&templates.join(name))?;
            text.push_str(&read(&dev.join(name))?);
            fs::write(files.join(name), text)
                .with_context(|| format!("cannot write {}", files.join(name).display()))?;
        }
        Ok(())
    }

    /// Settings of every node.
    pub fn node_settings() -> Vec<(String, String)> {
        let mut settings = Vec::new();
        for layer in ["http", "transport"] {
            for (key, file) in [
                ("pemcert_filepath", "node.pem"),
                ("pemkey_filepath", "node.key"),
                ("pemtrustedcas_filepath", "ca.pem"),
            ] {
                settings.push((format!("plugins.security.ssl.{layer}.{key}"), file.into()));
            }
        }
        let others = [
            ("plugins.security.ssl.http.enabled", "true"),
            ("plugins.security.ssl.http.clientauth_mode", "OPTIONAL"),
            (
                "plugins.security.ssl.transport.enforce_hostname_verification",
                "false",
            ),
            ("plugins.security.nodes_dn", "CN=node"),
            ("plugins.security.allow_default_init_securityindex", "true"),
            ("plugins.security.restapi.roles_enabled", "all_access"),
        ];
        settings.extend(others.map(|(key, value)| (key.to_owned(), value.to_owned())));
        settings
    }

    /// What an agent needs for reaching its cluster as `user`.
    pub fn agent_config(&self, config: AgentConfig, user: &str) -> AgentConfig {
        let access = self.access(user);
        let authority = access.ca_certificate.display().to_string();
        config
            .set_text("opensearch", "username", &access.user)
            .set_text("opensearch", "password", &access.password)
            .set_text("opensearch", "ca_certificate", &authority)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_certificates_on_both_layers() {
        let settings = Security::node_settings();
        for key in ["http.pemcert_filepath", "transport.pemkey_filepath"] {
            let key = format!("plugins.security.ssl.{key}");
            assert!(settings.iter().any(|(found, _)| *found == key), "{key}");
        }
    }
}
