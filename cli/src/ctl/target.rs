//! Which gateway a command is meant for, and how to log in there: from options, from the
//! environment, or from a context, and never from two of them together.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use console::Term;
use http::HeaderValue;
use shardline_common::config::Secret;

use super::CtlError;
use super::contexts::{Context, Contexts, location};
use super::options::Connection;

const DEFAULT_URL: &str = "http://127.0.0.1:9200";

/// What the rest of the world may read is no secret.
const READABLE_BY_ALL: u32 = 0o007;

/// Reads a variable of the environment.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment, in which an empty variable counts as none.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The context that a command is meant for.
pub(super) fn resolve(connection: &Connection, variable: Variable) -> Result<Context, CtlError> {
    let context = match named(connection, variable)? {
        Some(context) => context,
        None => from_environment(variable)?,
    };
    let context = context.with(connection);
    match &context.user {
        Some(user) if user.contains(':') => Err(CtlError::PasswordInName),
        _ => Ok(context),
    }
}

/// The context that is named, or else the current one; `None` where an address is given instead.
fn named(connection: &Connection, variable: Variable) -> Result<Option<Context>, CtlError> {
    let read =
        || location(variable).map_or_else(|| Ok(Contexts::default()), |it| Contexts::read(&it));
    if let Some(name) = &connection.context {
        return read()?.named(name).cloned().map(Some);
    }
    if connection.url.is_some() {
        return Ok(None);
    }
    match (variable("SHARDLINE_CONTEXT"), variable("SHARDLINE_URL")) {
        (Some(_), Some(_)) => Err(CtlError::ContextAndAddress),
        (Some(name), None) => read()?.named(&name).cloned().map(Some),
        (None, Some(_)) => Ok(None),
        (None, None) => {
            let contexts = read()?;
            let current = contexts.current.as_deref();
            current
                .map(|name| contexts.named(name).cloned())
                .transpose()
        }
    }
}

fn from_environment(variable: Variable) -> Result<Context, CtlError> {
    let file = |name: &str| variable(name).map(PathBuf::from);
    let context = Context {
        url: variable("SHARDLINE_URL").unwrap_or_else(|| DEFAULT_URL.to_owned()),
        user: variable("SHARDLINE_USER"),
        password_file: file("SHARDLINE_PASSWORD_FILE"),
        token_file: file("SHARDLINE_TOKEN_FILE"),
        ca_certificate: file("SHARDLINE_CA_CERTIFICATE"),
        client_certificate: file("SHARDLINE_CLIENT_CERTIFICATE"),
        client_key: file("SHARDLINE_CLIENT_KEY"),
    };
    if context.user.is_some() && context.token_file.is_some() {
        return Err(CtlError::TwoLogins);
    }
    Ok(context)
}

/// The header that logs in, if the context says how. The password of a user whose file is not named
/// is in `SHARDLINE_PASSWORD`, or asked for.
pub(super) fn login(
    context: &Context,
    variable: Variable,
    ask: impl FnOnce(&str) -> Result<String, CtlError>,
) -> Result<Option<HeaderValue>, CtlError> {
    let header = if let Some(file) = &context.token_file {
        format!("Bearer {}", secret("--token-file", file)?.reveal())
    } else if let Some(user) = &context.user {
        let password = match &context.password_file {
            Some(file) => secret("--password-file", file)?.reveal().to_owned(),
            None => variable("SHARDLINE_PASSWORD").map_or_else(|| ask(user), Ok)?,
        };
        let login = format!("{user}:{password}");
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        format!("Basic {login}")
    } else {
        return Ok(None);
    };
    let mut header = HeaderValue::try_from(header).map_err(|_| CtlError::NoHeader)?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// What a file holds that only its owner, or the owner's group, may read.
pub(super) fn secret(option: &'static str, file: &Path) -> Result<Secret, CtlError> {
    check_secret(option, file)?;
    Ok(Secret::from_file(option, file)?)
}

pub(super) fn check_secret(option: &'static str, file: &Path) -> Result<(), CtlError> {
    let refused = |reason: String| CtlError::Secret {
        option,
        file: file.to_owned(),
        reason,
    };
    let metadata = std::fs::metadata(file).map_err(|error| refused(error.to_string()))?;
    if metadata.mode() & READABLE_BY_ALL != 0 {
        return Err(refused("everybody may use it: chmod 600 it".to_owned()));
    }
    Ok(())
}

/// Asks for a password on the terminal, without showing it.
pub(super) fn ask_for_password(user: &str) -> Result<String, CtlError> {
    let term = Term::stderr();
    if !term.is_term() {
        return Err(CtlError::NoPassword(user.to_owned()));
    }
    term.write_str(&format!("password of {user}: "))?;
    Ok(term.read_secure_line()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Contexts `prod` (current) and `test`, in a folder of their own.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = "current = \"prod\"\n[contexts.prod]\nurl = \"https://prod\"\n\
                        user = \"ops\"\n[contexts.test]\nurl = \"https://test\"\n";
            std::fs::write(folder.path().join("contexts.toml"), text).unwrap();
            Self(folder)
        }

        fn resolve(
            &self,
            given: &[(&str, &str)],
            connection: Connection,
        ) -> Result<Context, CtlError> {
            let file = self.0.path().join("contexts.toml");
            resolve(&connection, &|name| match name {
                "SHARDLINE_CONTEXTS" => file.to_str().map(str::to_owned),
                _ => {
                    let found = given.iter().find(|(key, _)| *key == name);
                    found.map(|(_, value)| (*value).to_owned())
                }
            })
        }
    }

    fn of_url(url: &str) -> Connection {
        Connection {
            url: Some(url.to_owned()),
            ..Connection::default()
        }
    }

    fn of_context(name: &str) -> Connection {
        Connection {
            context: Some(name.to_owned()),
            ..Connection::default()
        }
    }

    #[test]
    fn what_is_nearest_wins_and_a_login_stays_with_its_gateway() {
        let world = World::new();
        let url = |given: &[(&str, &str)], connection| world.resolve(given, connection).unwrap();
        let current = url(&[], Connection::default());
        assert_eq!(
            (current.url.as_str(), current.user.as_deref()),
            ("https://prod", Some("ops"))
        );
        let env = [("SHARDLINE_URL", "http://env"), ("SHARDLINE_USER", "env")];
        let from_env = url(&env, Connection::default());
        assert_eq!(
            (from_env.url.as_str(), from_env.user.as_deref()),
            ("http://env", Some("env"))
        );
        // An option names a gateway: neither the environment's user nor its address goes there.
        let named = url(&env, of_context("test"));
        assert_eq!((named.url.as_str(), named.user), ("https://test", None));
        assert_eq!(
            url(&[("SHARDLINE_CONTEXT", "test")], Connection::default()).url,
            "https://test"
        );
        assert_eq!(
            url(&[("SHARDLINE_CONTEXT", "test")], of_url("http://given")).url,
            "http://given"
        );
        assert_eq!(url(&env, of_url("http://given")).url, "http://given");
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_refused() {
        let world = World::new();
        let both = [("SHARDLINE_URL", "http://a"), ("SHARDLINE_CONTEXT", "test")];
        let refusal =
            |given: &[(&str, &str)], connection| world.resolve(given, connection).unwrap_err();
        assert!(matches!(
            refusal(&both, Connection::default()),
            CtlError::ContextAndAddress
        ));
        assert!(matches!(
            refusal(&[], of_context("stage")),
            CtlError::NoContext(_)
        ));
        let user = [
            ("SHARDLINE_USER", "a:hunter2"),
            ("SHARDLINE_URL", "http://a"),
        ];
        let refused = refusal(&user, Connection::default());
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
        let two = [
            ("SHARDLINE_URL", "u"),
            ("SHARDLINE_USER", "a"),
            ("SHARDLINE_TOKEN_FILE", "/t"),
        ];
        assert!(matches!(
            refusal(&two, Connection::default()),
            CtlError::TwoLogins
        ));
    }

    #[test]
    fn secrets_come_from_files_that_are_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "s3cret\n").unwrap();
        let none = |_: &str| None;
        let never = |_: &str| -> Result<String, CtlError> { unreachable!() };
        let with = |user: Option<&str>, password: bool| Context {
            user: user.map(str::to_owned),
            password_file: password.then(|| file.clone()),
            token_file: (!password).then(|| file.clone()),
            ..Context::default()
        };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
        let refused = login(&with(None, false), &none, never).unwrap_err();
        assert!(refused.to_string().contains("chmod"), "{refused}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let header = |context: &Context| login(context, &none, never).unwrap().unwrap();
        assert_eq!(header(&with(None, false)), "Bearer s3cret");
        assert_eq!(header(&with(Some("ops"), true)), "Basic b3BzOnMzY3JldA==");
        assert!(header(&with(None, false)).is_sensitive());
    }

    #[test]
    fn a_password_that_no_file_has_is_in_the_environment_or_asked_for() {
        let context = Context {
            user: Some("ops".to_owned()),
            ..Context::default()
        };
        let asked = login(&context, &|_| None, |user| Ok(format!("of {user}"))).unwrap();
        assert_eq!(asked.unwrap(), "Basic b3BzOm9mIG9wcw==");
        let never = |_: &str| -> Result<String, CtlError> { unreachable!() };
        let env = |name: &str| (name == "SHARDLINE_PASSWORD").then(|| "s3cret".to_owned());
        assert_eq!(
            login(&context, &env, never).unwrap().unwrap(),
            "Basic b3BzOnMzY3JldA=="
        );
    }
}
