//! `_reindex` towards followed indices, and statements of the SQL plugin that delete.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::by_query::{Operation, outcome};
use super::routes::Scope;
use super::structured::{self, Texts};
use super::{Call, Gateway, script};
use shardline::contract::ApiError;

/// Body of a `_reindex`.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    source: Option<Source<'a>>,
    dest: Option<Destination>,
    #[serde(borrow)]
    script: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Source<'a> {
    index: Option<Texts>,
    remote: Option<IgnoredAny>,
    #[serde(borrow)]
    query: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Destination {
    index: Option<String>,
}

#[derive(Deserialize)]
struct Statement {
    query: Option<String>,
}

impl Gateway {
    pub(super) async fn reindex(&self, call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: Request<'_> = structured::parse(&inspected.content)?;
        if !request.script.is_none_or(script::keeps_index) {
            return Err(may_name_an_index());
        }
        let destination = request.dest.and_then(|dest| dest.index).unwrap_or_default();
        let blocked = self.judge(call).await?.blocks_document(&destination);
        let Some(blocked) = blocked else {
            return self.pass_on(call, inspected).await;
        };
        let blocked = [blocked];
        let Some(source) = request.source else {
            return Err(ApiError::followed_block(&blocked));
        };
        let indices = source.index.unwrap_or_default().joined();
        if source.remote.is_some() || indices.is_empty() {
            // Another cluster's documents cannot be counted from here; taken as one at least.
            return Ok(outcome(call, Operation::Reindex, 1, &blocked));
        }
        Ok(match self.count(call, &indices, source.query).await? {
            Ok(matching) => outcome(call, Operation::Reindex, matching, &blocked),
            Err(refusal) => refusal,
        })
    }

    /// `DELETE` of the SQL plugin, which it allows if `plugins.sql.delete.enabled` is set.
    pub(super) async fn sql(&self, call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: Statement = structured::parse(&inspected.content)?;
        let statement = request.query.unwrap_or_default();
        let Some(table) = deleted_from(&statement) else {
            return self.pass_on(call, inspected).await;
        };
        let judge = self.judge(call).await?;
        let touched = judge.cover(&table, Scope::Members).followed;
        self.refuse_or_pass_on(call, touched.into_iter().collect(), inspected)
            .await
    }
}

/// The table of a `DELETE`; every index where it cannot be told.
fn deleted_from(statement: &str) -> Option<String> {
    let lower = statement.to_ascii_lowercase();
    if !lower.contains("delete") {
        return None;
    }
    let mut words = lower
        .split_ascii_whitespace()
        .skip_while(|word| *word != "delete");
    let table = match (words.next(), words.next(), words.next()) {
        (Some("delete"), Some("from"), Some(table)) => table,
        // A text or a column of this name.
        _ if lower.trim_start().starts_with("select") => return None,
        _ => return Some(String::new()),
    };
    Some(table.trim_matches(['`', '"', ';']).to_owned())
}

fn may_name_an_index() -> ApiError {
    let reason = "while indices are followed, the script of a [_reindex] has to be inline and may \
                  use [ctx] only as [ctx._source], [ctx._id], [ctx._version], [ctx._routing] or \
                  [ctx.op]: another one could write into a followed index; name the index in \
                  [dest]";
    ApiError::status_exception(StatusCode::FORBIDDEN, reason)
}

#[cfg(test)]
mod tests {
    use super::deleted_from;

    #[test]
    fn the_table_of_a_delete_is_found() {
        for (statement, table) in [
            ("SELECT a FROM f", None),
            ("select deleted from f", None),
            ("DELETE FROM f WHERE a = 1", Some("f")),
            ("  delete\nfrom `logs-*`;", Some("logs-*")),
            ("/* x */ DELETE/**/FROM f", Some("")),
        ] {
            assert_eq!(deleted_from(statement).as_deref(), table, "{statement}");
        }
    }
}
