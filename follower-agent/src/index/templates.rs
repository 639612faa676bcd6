//! Keeps the follower cluster's own templates from shaping a follower index, which is to be as the
//! leader's index and nothing else.
//!
//! A composable template for exactly the index's name, with the highest priority and nothing in it,
//! shuts all others out while the index is made. Where the cluster does not take it, what other
//! templates have given the index is taken back afterwards, or the index refused.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use shardline_common::clock::now_ms;
use shardline_common::metadata::{IndexMetadata, copied_aliases};
use shardline_common::opensearch::{OpenSearch, OpenSearchError, path_segment};
use shardline_common::types::IndexName;
use shardline_common::wildcard::wildcard_match;
use tracing::{info, warn};

use super::admin::IndexAdmin;
use super::aliases::RefusedAliases;

/// How the names of our own begin; the index's name follows.
const PREFIX: &str = "shardline-making-";
/// One that is older was left by an agent that was ended meanwhile.
const ABANDONED: Duration = Duration::from_secs(300);

/// Settings that every index has by itself.
const OF_EVERY_INDEX: &[&str] = &[
    "index.uuid",
    "index.creation_date",
    "index.provided_name",
    "index.version.",
    "index.history.",
    "index.number_of_shards",
    "index.number_of_routing_shards",
    "index.number_of_replicas",
    "index.replication.type",
    "index.final_pipeline",
    "index.mapping.",
];

fn template_name(index: &IndexName) -> String {
    format!("{PREFIX}{index}")
}

fn template_path(name: &str) -> String {
    format!("/_index_template/{}", path_segment(name))
}

impl IndexAdmin {
    /// Makes the index as the leader's, whatever templates the follower cluster has; gives the
    /// aliases that the cluster refuses.
    pub(crate) async fn make(
        &self,
        metadata: &IndexMetadata,
    ) -> Result<RefusedAliases, OpenSearchError> {
        let is_alone = self.shut_templates_out().await?;
        let made = self.create(metadata).await;
        if is_alone {
            self.let_templates_in().await;
        }
        made?;
        if !is_alone {
            self.take_back(metadata).await?;
        }
        // Limits that the mapping is beyond are not those that it was made with.
        self.sync_settings(metadata).await?;
        self.set_aliases(&copied_aliases(&metadata.aliases)).await
    }

    /// Whether the cluster takes the template that shuts the others out.
    async fn shut_templates_out(&self) -> Result<bool, OpenSearchError> {
        let body = json!({
            "index_patterns": [self.name],
            "priority": i64::MAX,
            "template": {},
            "_meta": {
                "description": "shuts other templates out while this follower index is made",
                "made_ms": now_ms(),
            },
        });
        let path = template_path(&template_name(&self.name));
        match self.opensearch.put::<Value>(&path, &body).await {
            Ok(_) => Ok(true),
            // A user who may not manage templates follows all the same.
            Err(error) if error.retryable() && !error.is_denied() => Err(error),
            Err(error) => {
                warn!(
                    index = %self.name, %error,
                    "the cluster's templates cannot be shut out; what they give is taken back"
                );
                Ok(false)
            }
        }
    }

    /// Removes the template that shuts others out, if it is there.
    pub(crate) async fn let_templates_in(&self) {
        remove(&self.opensearch, &template_name(&self.name)).await;
    }

    /// Takes back what a template has given the index that was just made. An index that cannot be
    /// as the leader's is removed.
    async fn take_back(&self, metadata: &IndexMetadata) -> Result<(), OpenSearchError> {
        let path = format!("/{}?flat_settings=true", self.path());
        let answer: Map<String, Value> = self.opensearch.get(&path).await?;
        let index = answer.values().next().cloned().unwrap_or_default();
        let mut spoilt = Vec::new();
        let leaders = metadata.mappings.as_object().filter(|m| !m.is_empty());
        let own = index["mappings"].as_object().filter(|m| !m.is_empty());
        if own.is_some() && own != leaders {
            spoilt.push("its mapping".to_owned());
        }
        let foreign = self.foreign_settings(metadata, index["settings"].as_object());
        if !foreign.is_empty() {
            let keys: Vec<String> = foreign.keys().cloned().collect();
            let path = format!("/{}/_settings", self.path());
            let taken = self
                .opensearch
                .put::<Value>(&path, &Value::Object(foreign))
                .await;
            match taken {
                Err(error) if error.retryable() => return Err(error),
                Err(_) => spoilt.extend(keys),
                Ok(_) => {}
            }
        }
        if spoilt.is_empty() {
            return Ok(());
        }
        self.delete().await?;
        let names = matching(&self.opensearch, &self.name).await;
        let names = names.unwrap_or_else(|error| vec![error.to_string()]);
        Err(refusal(&self.name, &spoilt, &names))
    }

    /// Settings of the index that neither the leader nor a user nor OpenSearch has given it, with
    /// what takes them back.
    fn foreign_settings(
        &self,
        metadata: &IndexMetadata,
        settings: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let wanted = self.wanted_settings(metadata);
        let is_every_indexs = |key: &str| {
            OF_EVERY_INDEX
                .iter()
                .any(|own| key == *own || (own.ends_with('.') && key.starts_with(own)))
        };
        let keys = settings.into_iter().flat_map(Map::keys);
        keys.filter(|key| !wanted.contains_key(*key) && !is_every_indexs(key))
            .map(|key| (key.clone(), Value::Null))
            .collect()
    }
}

async fn remove(opensearch: &OpenSearch, name: &str) {
    match opensearch.delete::<Value>(&template_path(name), None).await {
        Err(error) if !error.is_not_found() => {
            warn!(
                template = name, %error,
                "a template that shuts others out is left; it is removed later"
            );
        }
        _ => {}
    }
}

/// Removes what agents have left that were ended while they made an index.
pub(crate) async fn tidy(opensearch: &OpenSearch) {
    let path = format!("/_index_template/{PREFIX}*");
    let found: Templates = match opensearch.get(&path).await {
        Ok(found) => found,
        // Who may not look has not made any.
        Err(error) if error.is_not_found() || error.is_denied() => return,
        Err(error) => {
            warn!(%error, "templates that agents have left are not looked for");
            return;
        }
    };
    let abandoned = now_ms() - i64::try_from(ABANDONED.as_millis()).unwrap_or(i64::MAX);
    for template in found.index_templates {
        if template.index_template.meta.made_ms < abandoned {
            info!(
                template = template.name,
                "an agent has left a template; it is removed"
            );
            remove(opensearch, &template.name).await;
        }
    }
}

/// The cluster's templates that match an index's name.
async fn matching(
    opensearch: &OpenSearch,
    index: &IndexName,
) -> Result<Vec<String>, OpenSearchError> {
    let fits = |patterns: &[String]| {
        patterns
            .iter()
            .any(|pattern| wildcard_match(pattern, index.as_str()))
    };
    let composable: Templates = opensearch.get("/_index_template").await?;
    let legacy: std::collections::BTreeMap<String, Patterns> = opensearch.get("/_template").await?;
    let composable = composable.index_templates.into_iter();
    let composable = composable
        .filter(|template| fits(&template.index_template.index_patterns))
        .map(|template| template.name);
    let legacy = legacy
        .into_iter()
        .filter(|(_, template)| fits(&template.index_patterns))
        .map(|(name, _)| name);
    Ok(composable.chain(legacy).collect())
}

fn refusal(index: &IndexName, spoilt: &[String], templates: &[String]) -> OpenSearchError {
    let (spoilt, templates) = (spoilt.join(", "), templates.join(", "));
    let reason = format!(
        "the follower index [{index}] would not be as the leader's: templates of the follower \
         cluster [{templates}] give it {spoilt}; let the agent's user manage index templates, or \
         exclude the index from them"
    );
    let cause = json!({"type": "illegal_argument_exception", "reason": reason});
    OpenSearchError::Refused {
        method: "PUT".to_owned(),
        path: format!("/{index}"),
        status: 400,
        error_type: "illegal_argument_exception".to_owned(),
        body: Box::new(json!({
            "error": {
                "root_cause": [cause],
                "type": "illegal_argument_exception",
                "reason": reason,
            },
            "status": 400,
        })),
        reason,
    }
}

#[derive(Default, Deserialize)]
struct Templates {
    #[serde(default)]
    index_templates: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    index_template: Composable,
}

#[derive(Deserialize)]
struct Composable {
    #[serde(default)]
    index_patterns: Vec<String>,
    #[serde(rename = "_meta", default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(default)]
    made_ms: i64,
}

#[derive(Deserialize)]
struct Patterns {
    #[serde(default)]
    index_patterns: Vec<String>,
}
