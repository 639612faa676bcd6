//! A configuration without what nobody else should read.

use toml::{Table, Value};

/// What stands for a value that is left out.
const REDACTED: &str = "[redacted]";

/// Parts of the names of keys whose values are secret, or hold a secret.
const SECRET: [&str; 8] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "jaas",
    "credential",
    "key",
    "pem",
];

/// The same TOML with the values of secret keys left out. Comments go, too, since nobody knows what
/// is in them.
pub(super) fn configuration(text: &str) -> Result<String, String> {
    let mut table: Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    table.iter_mut().for_each(|(key, value)| redact(key, value));
    toml::to_string(&table).map_err(|error| error.to_string())
}

fn redact(key: &str, value: &mut Value) {
    match value {
        Value::Table(table) => table.iter_mut().for_each(|(key, value)| redact(key, value)),
        Value::Array(values) => values.iter_mut().for_each(|value| redact(key, value)),
        _ if is_secret(key) => *value = Value::String(REDACTED.to_owned()),
        Value::String(text) => {
            if let Some(shown) = without_user(text) {
                *text = shown;
            }
        }
        _ => {}
    }
}

/// Where a secret is, such as the path in `password_file`, is none.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let is_path = ["_file", "_files", ".location", "_location"];
    !is_path.iter().any(|end| key.ends_with(end)) && SECRET.iter().any(|part| key.contains(part))
}

/// An address without the user and password in it, if they are there.
fn without_user(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (_, host) = rest.rsplit_once('@')?;
    Some(format!("{scheme}://{REDACTED}@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand() {
        let text = r#"
# hunter2 in a comment
[opensearch]
url = "https://ops:hunter2@node:9200"
username = "ops"
password = "hunter2"
password_file = "/etc/shardline/password"
[kafka]
bootstrap_servers = "k:9092"
[kafka.properties]
"sasl.password" = "hunter2"
"ssl.key.password" = "hunter2"
"ssl.key.pem" = "hunter2"
"ssl.key.location" = "/etc/key.pem"
"sasl.oauthbearer.config" = "principal=x"
"sasl.oauthbearer.client.secret" = "hunter2"
sasl_password = ["hunter2"]
[[users]]
token = 12345
"#;
        let shown = configuration(text).unwrap();
        assert!(
            !shown.contains("hunter2") && !shown.contains("12345"),
            "{shown}"
        );
        for kept in [
            "node:9200",
            "/etc/shardline/password",
            "/etc/key.pem",
            "k:9092",
            "\"ops\"",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn what_is_no_toml_is_not_shown() {
        let error = configuration("password = hunter2").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
