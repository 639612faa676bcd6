//! Configuration that both agents have, and how it is read: a TOML file, then the environment.

mod agent;
mod kafka;
mod opensearch;
mod secret;
mod tree;
mod typed;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use agent::{AdminConfig, AgentConfig, LogConfig, LogFormat, same_address};
pub use kafka::KafkaConfig;
pub use opensearch::{OpenSearchConfig, base_url};
pub use secret::{Authorization, Secret, located};
use tree::Node;
use typed::KeyError;

/// A configuration, and what it was made of.
pub struct Loaded<T> {
    pub config: T,
    tree: Node,
}

impl<T> Loaded<T> {
    /// The keys whose values differ from another's, with dots.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        self.tree.changed(&other.tree)
    }
}

/// Reads `T` from a file and from `SHARDLINE_<SECTION>__<KEY>` variables, which win. Unknown keys
/// are errors; no error shows a value.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<Loaded<T>, ConfigError> {
    let mut tree = Node::default();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file.to_owned()));
        }
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::file("--config", file, &source))?;
        tree = Node::from_toml(&text)?;
    }
    tree.overlay(std::env::vars_os())?;
    let config = typed::from_tree(tree.clone())?;
    Ok(Loaded { config, tree })
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {0} does not exist or is no file: pass another with --config")]
    NoFile(PathBuf),
    #[error("the configuration file is no TOML from line {line}, column {column} on")]
    Syntax { line: usize, column: usize },
    #[error("the variable {0} is no UTF-8")]
    NotText(String),
    #[error("configuration: {0}")]
    Invalid(#[from] KeyError),
    #[error("configuration key {key}: expected {expected}")]
    BadValue {
        key: &'static str,
        expected: &'static str,
    },
    #[error("configuration key {key}: {file} cannot be used: {reason}")]
    File {
        key: &'static str,
        file: PathBuf,
        reason: String,
    },
    #[error("configuration keys {first} and {second}: only one of them may be set")]
    Twice { first: String, second: String },
    #[error("configuration key kafka.properties: {property} {problem}")]
    Property { property: String, problem: String },
    #[error("configuration keys {first} and {second}: they listen on the same address")]
    SameAddress {
        first: &'static str,
        second: &'static str,
    },
    #[error("the Kafka client cannot be made of these settings: {0}")]
    KafkaClient(String),
}

impl ConfigError {
    pub(crate) fn file(key: &'static str, file: &Path, source: &std::io::Error) -> Self {
        Self::File {
            key,
            file: file.to_owned(),
            reason: source.to_string(),
        }
    }
}
