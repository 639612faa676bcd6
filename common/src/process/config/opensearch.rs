//! How an agent reaches its cluster.

use std::path::PathBuf;

use http::HeaderValue;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;

use super::secret::{Authorization, Secret, basic};
use super::{ConfigError, located};

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenSearchConfig {
    /// REST address of the node beside a leader agent, or of the follower cluster, such as
    /// `http://127.0.0.1:9200`. It holds no user and no password.
    pub url: String,
    /// The user that the agent logs in as (basic authentication).
    pub username: Option<String>,
    /// The user's password. Better: `password_file`.
    pub password: Option<Secret>,
    /// A file that holds the password and nothing else; read again on SIGHUP. A path that begins
    /// with `$CREDENTIALS_DIRECTORY/` is a systemd credential.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities (one or several) that sign the cluster's certificates, trusted
    /// beside the system's own.
    pub ca_certificate: Option<PathBuf>,
    /// The login that was made of the keys above.
    #[serde(skip)]
    pub authorization: Authorization,
}

impl OpenSearchConfig {
    pub fn validate(&self) -> Result<(), ConfigError> {
        base_url("opensearch.url", &self.url)?;
        if self.password.is_some() && self.password_file.is_some() {
            return Err(ConfigError::Twice {
                first: "opensearch.password".to_owned(),
                second: "opensearch.password_file".to_owned(),
            });
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        match self.username {
            None if has_password => Err(ConfigError::BadValue {
                key: "opensearch.username",
                expected: "the user that the password is of",
            }),
            Some(_) if !has_password => Err(ConfigError::BadValue {
                key: "opensearch.password_file",
                expected: "a file with the user's password, or opensearch.password",
            }),
            _ => Ok(()),
        }
    }

    /// Reads the password anew. Every client that was made of this configuration, or of a clone,
    /// logs in with it from then on.
    pub fn refresh_login(&self) -> Result<(), ConfigError> {
        self.authorization.replace(self.login()?);
        Ok(())
    }

    /// The login as the keys, and the file of the password, say now.
    pub fn login(&self) -> Result<Option<HeaderValue>, ConfigError> {
        let Some(username) = &self.username else {
            return Ok(None);
        };
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => password.clone(),
            (None, Some(file)) => Secret::from_file("opensearch.password_file", file)?,
            (None, None) => Secret::from(String::new()),
        };
        basic(username, password.reveal()).map(Some)
    }

    /// The certificates in `ca_certificate`.
    pub fn authorities(&self) -> Result<Vec<reqwest::Certificate>, ConfigError> {
        const KEY: &str = "opensearch.ca_certificate";
        let Some(file) = &self.ca_certificate else {
            return Ok(Vec::new());
        };
        let file = located(KEY, file)?;
        let pem = std::fs::read(&file).map_err(|source| ConfigError::file(KEY, &file, &source))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            return Err(ConfigError::File {
                key: KEY,
                file,
                reason: "it holds no certificates in PEM".to_owned(),
            });
        }
        Ok(found)
    }
}

/// Parses an address of the configuration that paths are put behind.
pub fn base_url(key: &'static str, text: &str) -> Result<Url, ConfigError> {
    let refused = |expected| ConfigError::BadValue { key, expected };
    let address = "an address such as https://node-1:9200";
    let url = Url::parse(text).map_err(|_| refused(address))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refused(address));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "an address without a user and a password: they have keys of their own, and an \
             address is logged",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("an address without ? and #"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        for url in [
            "http://",
            "https://",
            "nonsense",
            "ftp://a",
            "http://a:99999",
            "http://a b",
            "a:9200",
            "http://a?x=1",
            "",
        ] {
            assert!(base_url("k", url).is_err(), "{url}");
        }
        for url in [
            "http://a",
            "https://a:9200/",
            "http://[::1]:9200",
            "http://a/base",
        ] {
            assert!(base_url("k", url).is_ok(), "{url}");
        }
    }

    #[test]
    fn user_info_is_refused_and_not_shown() {
        for url in [
            "https://user:hunter2@a",
            "https://hunter2@a",
            "https://:hunter2@a",
        ] {
            let error = base_url("opensearch.url", url).unwrap_err().to_string();
            assert!(
                error.contains("opensearch.url") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_password_has_one_source_and_a_user() {
        let config = OpenSearchConfig {
            url: "http://a".to_owned(),
            username: Some("u".to_owned()),
            password: Some("p".to_owned().into()),
            ..OpenSearchConfig::default()
        };
        assert!(config.validate().is_ok());
        let twice = OpenSearchConfig {
            password_file: Some("/p".into()),
            ..config.clone()
        };
        assert!(matches!(twice.validate(), Err(ConfigError::Twice { .. })));
        let nobodys = OpenSearchConfig {
            username: None,
            ..config.clone()
        };
        assert!(nobodys.validate().is_err());
        let without = OpenSearchConfig {
            password: None,
            ..config
        };
        assert!(without.validate().is_err());
    }
}
