//! Changes of aliases and data streams: refused as a whole when any of them touches a followed
//! index.

use std::collections::{BTreeSet, HashMap};

use axum::body::Body;
use axum::response::Response;
use serde::Deserialize;

use super::judge::Judge;
use super::routes::{Routed, Scope};
use super::structured::{self, List, Texts};
use super::{Call, Gateway};
use shardline::contract::ApiError;

/// Body of a list of actions, on aliases or data streams.
#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    actions: List<HashMap<String, Action>>,
}

#[derive(Deserialize)]
struct Action {
    index: Option<Texts>,
    indices: Option<Texts>,
    alias: Option<Texts>,
    aliases: Option<Texts>,
}

/// Body of a single alias.
#[derive(Deserialize)]
struct PutAlias {
    index: Option<Texts>,
}

impl Action {
    fn indices(&self) -> impl Iterator<Item = String> {
        [&self.index, &self.indices]
            .into_iter()
            .flatten()
            .map(Texts::joined)
    }

    fn aliases(&self) -> Vec<String> {
        let both = [&self.alias, &self.aliases];
        both.into_iter()
            .flatten()
            .flat_map(|texts| texts.0.clone())
            .collect()
    }

    /// The followed indices that the action changes.
    fn touched(&self, name: &str, judge: &Judge) -> BTreeSet<String> {
        let scope = match name {
            "remove_index" => Scope::Concrete,
            _ => Scope::Members,
        };
        let covered = self
            .indices()
            .flat_map(|expression| judge.cover(&expression, scope).followed)
            .collect();
        match name {
            "remove" => having(covered, &self.aliases(), judge),
            _ => covered,
        }
    }
}

/// Of these indices those that have such an alias: removing it from others changes nothing.
fn having(indices: BTreeSet<String>, aliases: &[String], judge: &Judge) -> BTreeSet<String> {
    let having = judge.names.having_alias(aliases, &judge.followed);
    indices.intersection(&having).cloned().collect()
}

fn touched_by_all(content: &[u8], judge: &Judge) -> Result<BTreeSet<String>, ApiError> {
    let Actions { actions } = structured::parse(content)?;
    Ok(actions
        .0
        .iter()
        .flatten()
        .flat_map(|(name, action)| action.touched(name, judge))
        .collect())
}

impl Gateway {
    /// `PUT /{index}/_alias/{name}` and its kin; the body's `index` outranks the path's, so both
    /// are judged.
    pub(super) async fn put_alias(
        &self,
        call: &Call<'_>,
        expression: Option<String>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let request: PutAlias = structured::parse(&inspected.content)?;
        let judge = self.judge().await?;
        let named = request.index.map(|index| index.joined());
        let touched = expression
            .into_iter()
            .chain(named)
            .flat_map(|expression| judge.cover(&expression, Scope::Members).followed)
            .collect();
        let answer = self.refuse_or_pass_on(call, touched, inspected).await;
        self.lookup.forget().await;
        answer
    }

    /// `DELETE /{index}/_alias/{name}`.
    pub(super) async fn remove_alias(
        &self,
        call: &Call<'_>,
        routed: &Routed,
        body: Body,
    ) -> Result<Response, ApiError> {
        let judge = self.judge().await?;
        let covered = judge.cover(routed.expression(), Scope::Members).followed;
        let named = routed.name.as_deref().unwrap_or_default();
        let named: Vec<String> = named
            .trim_end_matches(',')
            .split(',')
            .filter(|_| !named.trim_end_matches(',').is_empty())
            .map(str::to_owned)
            .collect();
        let touched = having(covered.into_iter().collect(), &named, &judge);
        let touched: Vec<String> = touched.into_iter().collect();
        let answer = self.refuse_or_pass(call, &touched, body).await;
        self.lookup.forget().await;
        answer
    }

    /// `POST /_aliases`, `remove_index` included, and `POST /_data_stream/_modify`: a followed
    /// index is neither taken into a data stream nor out of one.
    pub(super) async fn change_names(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let inspected = self.inspect(call, body).await?;
        let judge = self.judge().await?;
        let touched = touched_by_all(&inspected.content, &judge)?;
        let answer = self.refuse_or_pass_on(call, touched, inspected).await;
        self.lookup.forget().await;
        answer
    }

    /// `DELETE /_data_stream/{name}`, which deletes the backing indices.
    pub(super) async fn delete_data_streams(
        &self,
        call: &Call<'_>,
        routed: &Routed,
        body: Body,
    ) -> Result<Response, ApiError> {
        let judge = self.judge().await?;
        let named = routed.name.as_deref().unwrap_or_default();
        let touched = judge.names.of_data_streams(named, &judge.followed);
        let touched: Vec<String> = touched.into_iter().collect();
        self.refuse_or_pass(call, &touched, body).await
    }
}
