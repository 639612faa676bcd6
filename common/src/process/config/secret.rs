//! Passwords and the like: never printed, and read from a file where that is said.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use http::HeaderValue;
use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;

/// How a path begins that lies in the folder of the systemd credentials.
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A password or token; never printed.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a file holds, without the line break at its end.
    pub fn from_file(key: &'static str, file: &Path) -> Result<Self, ConfigError> {
        let file = located(key, file)?;
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ConfigError::file(key, &file, &source))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(ConfigError::File {
                key,
                file,
                reason: "it is empty".to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where a file of the configuration is: `$CREDENTIALS_DIRECTORY/` at the beginning stands for the
/// folder that systemd gives a unit its credentials in.
pub fn located(key: &'static str, file: &Path) -> Result<PathBuf, ConfigError> {
    let Some(name) = file
        .to_str()
        .and_then(|path| path.strip_prefix(CREDENTIALS))
    else {
        return Ok(file.to_owned());
    };
    match std::env::var_os(CREDENTIALS_VARIABLE) {
        Some(folder) => Ok(Path::new(&folder).join(name)),
        None => Err(ConfigError::BadValue {
            key,
            expected: "no $CREDENTIALS_DIRECTORY where systemd has not set it: give the unit \
                       LoadCredential=",
        }),
    }
}

/// The `Authorization` with which an agent talks to its cluster. Clones share it, so that a reload
/// reaches every client that was made of the same configuration.
#[derive(Clone, Default)]
pub struct Authorization(Arc<RwLock<Option<HeaderValue>>>);

impl Authorization {
    pub fn header(&self) -> Option<HeaderValue> {
        self.0.read().clone()
    }

    pub fn replace(&self, header: Option<HeaderValue>) {
        *self.0.write() = header;
    }
}

impl From<HeaderValue> for Authorization {
    fn from(mut header: HeaderValue) -> Self {
        header.set_sensitive(true);
        Self(Arc::new(RwLock::new(Some(header))))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Basic authentication.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, ConfigError> {
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let mut header =
        HeaderValue::try_from(format!("Basic {login}")).map_err(|_| ConfigError::BadValue {
            key: "opensearch.username",
            expected: "a name that fits into an HTTP header",
        })?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_text_without_the_line_break() {
        let folder = std::env::temp_dir().join(format!("shardline-secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("password");
        for text in ["0042", "0042\n", "0042\r\n"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(Secret::from_file("k", &file).unwrap().reveal(), "0042");
        }
        std::fs::write(&file, "\n").unwrap();
        let error = Secret::from_file("k", &file).unwrap_err().to_string();
        assert!(error.contains("empty"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
        let error = Secret::from_file("k", &file).unwrap_err().to_string();
        assert!(error.contains("password") && error.contains('k'), "{error}");
    }

    #[test]
    fn a_login_is_the_same_for_all_clones_and_never_shown() {
        let login = Authorization::default();
        let clone = login.clone();
        clone.replace(Some(basic("user", "hunter2").unwrap()));
        assert_eq!(login.header().unwrap(), "Basic dXNlcjpodW50ZXIy");
        assert!(!format!("{login:?} {:?}", login.header()).contains("dXNl"));
    }
}
