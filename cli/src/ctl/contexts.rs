//! Named contexts: which gateway is meant, and how to log in there, kept in a file. No password is
//! ever in it, only where one is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CtlError;
use super::options::Connection;

/// Whoever may write the file says where passwords are sent.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The file of contexts.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One gateway, and how to log in there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

impl Context {
    /// This context with what the command line says instead. Another way to log in takes the place
    /// of the one before as a whole, so that no password goes with another user's name.
    pub(super) fn with(mut self, connection: &Connection) -> Self {
        let connection_has_login = connection.user.is_some() || connection.token_file.is_some();
        if connection_has_login {
            self.user = connection.user.clone();
            self.password_file = None;
            self.token_file = connection.token_file.clone();
        }
        let replace = |own: &mut Option<PathBuf>, given: &Option<PathBuf>| {
            if given.is_some() {
                own.clone_from(given);
            }
        };
        replace(&mut self.password_file, &connection.password_file);
        replace(&mut self.ca_certificate, &connection.ca_certificate);
        replace(&mut self.client_certificate, &connection.client_certificate);
        replace(&mut self.client_key, &connection.client_key);
        if let Some(url) = &connection.url {
            self.url.clone_from(url);
        }
        self
    }

    /// The same, with files named from the root on: the command line is used in any folder.
    pub(super) fn absolute(mut self) -> std::io::Result<Self> {
        let files = [
            &mut self.password_file,
            &mut self.token_file,
            &mut self.ca_certificate,
            &mut self.client_certificate,
            &mut self.client_key,
        ];
        for file in files.into_iter().flatten() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(self)
    }
}

/// Where the file is: `SHARDLINE_CONTEXTS`, or in the user's folder of configuration.
pub(super) fn location(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(file) = variable("SHARDLINE_CONTEXTS") {
        return Some(PathBuf::from(file));
    }
    let folder = match variable("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&variable("HOME")?).join(".config"),
    };
    Some(folder.join("shardline/contexts.toml"))
}

impl Contexts {
    /// Reads the file; there are no contexts where there is no file.
    pub(super) fn read(file: &Path) -> Result<Self, CtlError> {
        let refused = |reason: String| CtlError::Contexts {
            file: file.to_owned(),
            reason,
        };
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            let reason =
                "others may write it, and so choose where passwords are sent: chmod 600 it";
            return Err(refused(reason.to_owned()));
        }
        let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
        toml::from_str(&text).map_err(|error| refused(error.message().to_owned()))
    }

    /// Writes the file anew, so that nobody reads half of it, and readable by its owner only.
    pub(super) fn write(&self, file: &Path) -> Result<(), CtlError> {
        let refused = |reason: String| CtlError::Contexts {
            file: file.to_owned(),
            reason,
        };
        let text = toml::to_string(self).map_err(|error| refused(error.to_string()))?;
        let written = || -> std::io::Result<()> {
            if let Some(folder) = file.parent().filter(|it| !it.as_os_str().is_empty()) {
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700).create(folder)?;
            }
            let new = file.with_extension(format!("{}.new", std::process::id()));
            let mut options = std::fs::OpenOptions::new();
            let mut output = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            output.write_all(text.as_bytes())?;
            output.sync_all()?;
            std::fs::rename(&new, file)
        };
        written().map_err(|error| refused(error.to_string()))
    }

    pub(super) fn named(&self, name: &str) -> Result<&Context, CtlError> {
        self.contexts
            .get(name)
            .ok_or_else(|| CtlError::NoContext(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn contexts_are_kept_and_readable_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/contexts.toml");
        assert_eq!(Contexts::read(&file).unwrap(), Contexts::default());
        let context = Context {
            url: "https://a:9200".to_owned(),
            user: Some("ops".to_owned()),
            password_file: Some("/p".into()),
            ..Context::default()
        };
        let contexts = Contexts {
            current: Some("prod".to_owned()),
            contexts: BTreeMap::from([("prod".to_owned(), context)]),
        };
        contexts.write(&file).unwrap();
        contexts.write(&file).unwrap();
        assert_eq!(Contexts::read(&file).unwrap(), contexts);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contexts.toml");
        std::fs::write(&file, "").unwrap();
        for (mode, is_read) in [(0o600, true), (0o644, true), (0o660, false), (0o602, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Contexts::read(&file).is_ok(), is_read, "{mode:o}");
        }
    }

    #[test]
    fn a_password_in_the_file_is_an_unknown_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contexts.toml");
        std::fs::write(
            &file,
            "[contexts.a]\nurl = \"http://a\"\npassword = \"hunter2\"\n",
        )
        .unwrap();
        let error = Contexts::read(&file).unwrap_err().to_string();
        assert!(
            error.contains("password") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn another_login_leaves_nothing_of_the_one_before() {
        let context = Context {
            url: "https://a".to_owned(),
            user: Some("ops".to_owned()),
            password_file: Some("/ops".into()),
            ..Context::default()
        };
        let other = Connection {
            user: Some("eve".to_owned()),
            ..Connection::default()
        };
        assert_eq!(context.clone().with(&other).password_file, None);
        let token = Connection {
            token_file: Some("/t".into()),
            ..Connection::default()
        };
        let with_token = context.with(&token);
        assert_eq!((with_token.user, with_token.password_file), (None, None));
    }
}
