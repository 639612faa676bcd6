//! Which clusters the agents work with.

use serde::Deserialize;

use crate::words::types::ClusterUuid;

/// Points in time, which scans use, came with this version.
const OLDEST: (u32, u32) = (2, 4);

/// The answer of `GET /`.
#[derive(Clone, Debug, Deserialize)]
pub struct Root {
    pub cluster_name: String,
    pub cluster_uuid: ClusterUuid,
    version: Version,
}

#[derive(Clone, Debug, Deserialize)]
struct Version {
    number: String,
    /// Elasticsearch has none.
    #[serde(default)]
    distribution: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSupported {
    #[error(
        "{distribution} {number} is no OpenSearch, which the agents need (2.4 or newer): point \
         opensearch.url at an OpenSearch cluster"
    )]
    Distribution {
        distribution: String,
        number: String,
    },
    #[error("OpenSearch {0} is too old: upgrade the cluster to 2.4 or newer")]
    TooOld(String),
    #[error(
        "OpenSearch calls itself {0}: set compatibility.override_main_response_version to false, \
         or upgrade the cluster to 2.4 or newer if it really is of that version"
    )]
    Disguised(String),
}

impl Root {
    /// The distribution and its version, such as `opensearch 3.8.0`.
    pub fn version(&self) -> String {
        let distribution = self.version.distribution.as_deref();
        format!(
            "{} {}",
            distribution.unwrap_or("elasticsearch"),
            self.version.number
        )
    }

    /// Whether the agents work with this cluster.
    pub fn supported(&self) -> Result<(), NotSupported> {
        let number = self.version.number.clone();
        match self.version.distribution.as_deref() {
            Some("opensearch") => {}
            other => {
                return Err(NotSupported::Distribution {
                    distribution: other.unwrap_or("Elasticsearch").to_owned(),
                    number,
                });
            }
        }
        if number == "7.10.2" {
            return Err(NotSupported::Disguised(number));
        }
        let mut parts = number
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < OLDEST {
            return Err(NotSupported::TooOld(number));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(number: &str, distribution: Option<&str>) -> Root {
        Root {
            cluster_name: "c".to_owned(),
            cluster_uuid: "u".into(),
            version: Version {
                number: number.to_owned(),
                distribution: distribution.map(str::to_owned),
            },
        }
    }

    #[test]
    fn what_is_no_opensearch_or_too_old_is_refused_by_name() {
        for number in ["2.4.0", "2.19.3", "3.0.0-beta1", "3.8.0", "10.0.0"] {
            assert_eq!(
                root(number, Some("opensearch")).supported(),
                Ok(()),
                "{number}"
            );
        }
        let refused = |number, distribution| {
            root(number, distribution)
                .supported()
                .unwrap_err()
                .to_string()
        };
        assert!(refused("8.15.0", None).contains("Elasticsearch 8.15.0"));
        assert!(refused("1.3.20", Some("opensearch")).contains("OpenSearch 1.3.20 is too old"));
        assert!(refused("2.3.0", Some("opensearch")).contains("2.3.0"));
        assert!(refused("7.10.2", Some("opensearch")).contains("override_main_response_version"));
    }
}
