//! Requests that make an index or put its shards in place by hand: not one that is followed, which
//! replication alone makes.

use std::collections::{BTreeSet, HashMap};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use super::routes::{Routed, Scope};
use super::structured::{self, List, Texts};
use super::{Call, Gateway};
use shardline::contract::ApiError;

/// Body of a snapshot's or remote store's restore.
#[derive(Deserialize)]
struct Restore {
    #[serde(default)]
    indices: Texts,
    rename_pattern: Option<String>,
    rename_replacement: Option<String>,
}

/// Body of `_cluster/reroute`.
#[derive(Deserialize)]
struct Reroute {
    #[serde(default)]
    commands: List<HashMap<String, Command>>,
}

#[derive(Deserialize)]
struct Command {
    index: Option<String>,
}

/// Patterns that every name matches as a whole.
const MATCH_ALL: [&str; 6] = [".+", "(.+)", ".*", "(.*)", "^(.+)$", "^(.*)$"];
/// Commands after which a shard lacks documents.
const LOSING: [&str; 2] = ["allocate_empty_primary", "allocate_stale_primary"];

impl Gateway {
    /// Refuses an index of a followed name, also while it is not made yet.
    pub(super) async fn create(
        &self,
        call: &Call<'_>,
        name: &str,
        body: Body,
    ) -> Result<Response, ApiError> {
        let followed = call.judge_by_name().cover(name, Scope::Concrete).followed;
        if followed.is_empty() {
            return self.upstream.forward(call.parts, body).await;
        }
        super::drain(body).await;
        Err(taken(&followed))
    }

    pub(super) async fn rollover(
        &self,
        call: &Call<'_>,
        routed: &Routed,
        body: Body,
    ) -> Result<Response, ApiError> {
        if let Some(name) = &routed.name {
            let followed = call.judge_by_name().cover(name, Scope::Concrete).followed;
            if !followed.is_empty() {
                super::drain(body).await;
                return Err(taken(&followed));
            }
        }
        self.write(call, routed.expression(), Scope::WriteIndex, body)
            .await
    }

    pub(super) async fn restore_snapshot(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: Restore = structured::parse(&inspected.content)?;
        let judge = call.judge_by_name();
        let unnamed = judge
            .cover(&request.indices.joined(), Scope::Concrete)
            .followed;
        let named = judge
            .followed
            .iter()
            .map(|index| index.as_str())
            .filter(|index| request.may_rename_to(index))
            .map(str::to_owned);
        let touched: BTreeSet<String> = match request.renames_all() {
            true => named.collect(),
            false => named.chain(unnamed).collect(),
        };
        self.refuse_or_pass_on(call, touched, inspected).await
    }

    pub(super) async fn restore_remote(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: Restore = structured::parse(&inspected.content)?;
        let judge = self.judge(call).await?;
        let touched = judge
            .cover(&request.indices.joined(), Scope::Members)
            .followed;
        self.refuse_or_pass_on(call, touched.into_iter().collect(), inspected)
            .await
    }

    /// A shard of a followed index that is filled with nothing, or with an old copy, would lack
    /// documents that replication takes for applied.
    pub(super) async fn reroute(&self, call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: Reroute = structured::parse(&inspected.content)?;
        let judge = call.judge_by_name();
        let touched = request
            .commands
            .0
            .iter()
            .flatten()
            .filter(|(name, _)| LOSING.contains(&name.as_str()))
            .filter_map(|(_, command)| command.index.as_deref())
            .flat_map(|index| judge.cover(index, Scope::Concrete).followed)
            .collect();
        self.refuse_or_pass_on(call, touched, inspected).await
    }
}

impl Restore {
    /// Whether no index keeps its name.
    fn renames_all(&self) -> bool {
        let pattern = self.rename_pattern.as_deref();
        self.rename_replacement.is_some() && pattern.is_some_and(|text| MATCH_ALL.contains(&text))
    }

    /// Whether a restored index may come to this name. What the pattern matches cannot be said
    /// here, but what a replacement has for text stands in the new name.
    fn may_rename_to(&self, name: &str) -> bool {
        let (Some(_), Some(replacement)) = (&self.rename_pattern, &self.rename_replacement) else {
            return false;
        };
        if replacement.contains('\\') {
            return true;
        }
        let mut left = name;
        let mut texts = replacement.split('$');
        let first = texts.next().unwrap_or_default();
        let behind_groups = texts.map(|text| match text.strip_prefix('{') {
            Some(group) => group.split_once('}').map_or("", |(_, rest)| rest),
            None => text.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        });
        std::iter::once(first).chain(behind_groups).all(|text| {
            left.find(text).is_some_and(|at| {
                left = &left[at + text.len()..];
                true
            })
        })
    }
}

/// In the words of OpenSearch for an index that is there.
fn taken(followed: &[String]) -> ApiError {
    let reason = format!(
        "index [{}] is followed, and only cross-cluster replication makes it",
        followed.join("], [")
    );
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "resource_already_exists_exception",
        reason,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_index_may_come_to_what_its_replacement_has() {
        for (pattern, replacement, name, expected) in [
            ("(.+)", "restored-$1", "f", false),
            ("(.+)", "restored-$1", "restored-f", true),
            ("(.+)", "$1", "f", true),
            ("x", "f", "f1", true),
            ("x(.)y", "a$1b${name}c", "a-b-c", true),
            ("x(.)y", "a$1b${name}c", "c-b-a", false),
        ] {
            let restore = Restore {
                indices: Texts::default(),
                rename_pattern: Some(pattern.to_owned()),
                rename_replacement: Some(replacement.to_owned()),
            };
            assert_eq!(
                restore.may_rename_to(name),
                expected,
                "{replacement} {name}"
            );
        }
    }
}
