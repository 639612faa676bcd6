//! Changes of aliases: refused as a whole when any of them touches a followed index.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::response::Response;
use serde_json::Value;
use shardline::contract::ApiError;

use super::by_query::first_value;
use super::classify::Scope;
use super::{Call, Gateway, inspect};

impl Gateway {
    /// `PUT /{index}/_alias/{name}` and its kin; the body's `index` outranks the path's, so both
    /// are judged.
    pub(super) async fn put_alias(
        &self,
        call: &Call<'_>,
        expression: Option<String>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = inspect::read(call.parts, call.query, body).await?;
        let request = first_value(&inspected.content)?;
        let expressions: Vec<String> = expression
            .into_iter()
            .chain(texts(request.get("index")))
            .collect();
        self.judge_and_pass(call, expressions, inspected).await
    }

    /// `POST /_aliases`, `remove_index` included.
    pub(super) async fn update_aliases(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = inspect::read(call.parts, call.query, body).await?;
        let request = first_value(&inspected.content)?;
        let actions = items(request.get("actions"))
            .iter()
            .filter_map(Value::as_object);
        let targets = actions.flat_map(|action| action.values());
        let expressions: Vec<String> = targets
            .flat_map(|target| texts(target.get("index")).chain(texts(target.get("indices"))))
            .collect();
        self.judge_and_pass(call, expressions, inspected).await
    }

    async fn judge_and_pass(
        &self,
        call: &Call<'_>,
        expressions: Vec<String>,
        inspected: inspect::Inspected,
    ) -> Result<Response, ApiError> {
        let mut blocked = BTreeSet::new();
        for expression in expressions
            .iter()
            .filter(|expression| !expression.is_empty())
        {
            blocked.extend(
                self.covered(call, expression, Scope::Members)
                    .await?
                    .followed,
            );
        }
        if !blocked.is_empty() {
            return Err(ApiError::followed_block(
                &blocked.into_iter().collect::<Vec<_>>(),
            ));
        }
        let response = self
            .upstream
            .forward(call.parts, Body::from(inspected.original))
            .await;
        self.forget_aliases().await;
        response
    }
}

/// The items of a list; OpenSearch takes a single one for a list, too.
fn items(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(items)) => items,
        Some(single) => std::slice::from_ref(single),
        None => &[],
    }
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = String> {
    items(value)
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
}
