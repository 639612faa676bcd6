//! `_cluster/settings`: the plugin's keys are kept here, for the follower cluster would refuse
//! them; the rest is the cluster's.
//!
//! One value per key is kept, whether it was given as persistent or transient, and shown as
//! persistent.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::bulk_route::without_shaping;
use super::media::MediaType;
use super::{Call, Gateway};
use crate::http::api::render;
use shardline::contract::ApiError;
use shardline::contract::replication_settings::{REPLICATION_SETTINGS, ReplicationSetting};
use shardline::contract::settings::scalar_text;
use shardline_common::wildcard::wildcard_match;

/// Largest answer about settings that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;
const PREFIX: &str = "plugins.replication.";
const SECTIONS: [&str; 2] = ["persistent", "transient"];

type Changes = BTreeMap<String, Option<String>>;

impl Gateway {
    pub(super) async fn read_cluster_settings(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        let kept = self.settings.get();
        let with_defaults = call.query.boolean("include_defaults").unwrap_or(false);
        if kept.is_empty() && !with_defaults {
            return self.upstream.forward(call.parts, body).await;
        }
        let raw_query = without_shaping(call.query);
        let answer = self
            .upstream
            .exchange(call.parts, raw_query.as_deref(), None, MAX_ANSWER)
            .await?;
        let Some(mut settings) = answered_object(answer.status, &answer.body) else {
            return Ok(answer.into_response());
        };
        let flat = is_flat(call);
        for (key, value) in &kept {
            edit(&mut settings, "persistent", |persistent| {
                insert(persistent, key, value, flat)
            });
        }
        if with_defaults {
            for setting in REPLICATION_SETTINGS
                .iter()
                .filter(|setting| !kept.contains_key(setting.key))
            {
                edit(&mut settings, "defaults", |defaults| {
                    insert(defaults, setting.key, setting.default, flat)
                });
            }
        }
        Ok(render::answer(
            StatusCode::OK,
            &Value::Object(settings),
            &call.query.rendering(),
        ))
    }

    pub(super) async fn write_cluster_settings(
        &self,
        call: &Call<'_>,
        body: Body,
    ) -> Result<Response, ApiError> {
        if MediaType::of(&call.parts.headers).is_err() {
            return self.upstream.forward(call.parts, body).await;
        }
        let inspected = self.inspect(call, body).await?;
        let Ok(Value::Object(mut request)) = serde_json::from_slice(&inspected.content) else {
            return self.pass_on(call, inspected).await;
        };
        let mut taken = BTreeMap::new();
        for section in SECTIONS {
            if let Some(Value::Object(settings)) = request.get_mut(section) {
                let (ours, rest) = split(std::mem::take(settings), section)?;
                *settings = rest;
                taken.insert(section, ours);
            }
        }
        if taken.values().all(BTreeMap::is_empty) {
            return self.pass_on(call, inspected).await;
        }
        request.retain(|_, settings| {
            settings
                .as_object()
                .is_none_or(|settings| !settings.is_empty())
        });
        let mut answered = json!({"acknowledged": true, "persistent": {}, "transient": {}});
        if !request.is_empty() {
            let body = Bytes::from(Value::Object(request).to_string());
            let raw_query = without_shaping(call.query);
            let answer = self
                .upstream
                .exchange(call.parts, raw_query.as_deref(), Some(body), MAX_ANSWER)
                .await?;
            match answered_object(answer.status, &answer.body) {
                Some(object) => answered = Value::Object(object),
                None => return Ok(answer.into_response()),
            }
        }
        let changes: Changes = taken
            .values()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        self.settings.put(changes).await?;
        if let Value::Object(answered) = &mut answered {
            for (section, changes) in &taken {
                for (key, value) in changes {
                    if let Some(value) = value {
                        edit(answered, section, |settings| {
                            insert(settings, key, value, is_flat(call))
                        });
                    }
                }
            }
        }
        Ok(render::answer(
            StatusCode::OK,
            &answered,
            &call.query.rendering(),
        ))
    }
}

fn is_flat(call: &Call<'_>) -> bool {
    call.query.boolean("flat_settings").unwrap_or(false)
}

/// The object of a successful answer.
fn answered_object(status: StatusCode, body: &[u8]) -> Option<Map<String, Value>> {
    if status.is_success() {
        serde_json::from_slice(body).ok()
    } else {
        None
    }
}

/// Changes the members of a section, which is made if there is none.
fn edit(
    settings: &mut Map<String, Value>,
    section: &str,
    change: impl FnOnce(&mut Map<String, Value>),
) {
    let entry = settings.entry(section).or_insert(Value::Null);
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Value::Object(members) = entry {
        change(members);
    }
}

/// Parts one section, in flat or nested form, into the plugin's keys, checked, and the rest as it
/// was.
fn split(
    settings: Map<String, Value>,
    section: &str,
) -> Result<(Changes, Map<String, Value>), ApiError> {
    let mut ours = Changes::new();
    let rest = split_below("", settings, section, &mut ours)?;
    Ok((ours, rest))
}

fn split_below(
    path: &str,
    settings: Map<String, Value>,
    section: &str,
    ours: &mut Changes,
) -> Result<Map<String, Value>, ApiError> {
    let mut rest = Map::new();
    for (key, value) in settings {
        let full = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match value {
            Value::Object(members) if !members.is_empty() => {
                let below = split_below(&full, members, section, ours)?;
                if !below.is_empty() {
                    rest.insert(key, Value::Object(below));
                }
            }
            Value::Null if full.contains('*') => {
                let matching = REPLICATION_SETTINGS
                    .iter()
                    .filter(|setting| wildcard_match(&full, setting.key));
                ours.extend(matching.map(|setting| (setting.key.to_owned(), None)));
                if !full.starts_with(PREFIX) {
                    rest.insert(key, Value::Null);
                }
            }
            value if full.starts_with(PREFIX) => {
                let change = checked(&full, &value, section)?;
                ours.insert(full, change);
            }
            value => {
                rest.insert(key, value);
            }
        }
    }
    Ok(rest)
}

fn checked(key: &str, value: &Value, section: &str) -> Result<Option<String>, ApiError> {
    let Some(setting) = ReplicationSetting::find(key) else {
        return Err(ApiError::settings(format!(
            "{section} setting [{key}], not recognized"
        )));
    };
    if value.is_null() {
        return Ok(None);
    }
    let Some(text) = scalar_text(value) else {
        return Err(ApiError::illegal_argument(format!(
            "Failed to parse value [{value}] for setting [{key}]"
        )));
    };
    setting.check(&text)?;
    Ok(Some(text))
}

/// Puts a setting in, under its whole key or nested at its dots.
fn insert(settings: &mut Map<String, Value>, key: &str, value: &str, flat: bool) {
    let nested = key.split_once('.').filter(|_| !flat);
    match nested {
        Some((head, tail)) if settings.get(head).is_none_or(Value::is_object) => {
            edit(settings, head, |below| insert(below, tail, value, flat));
        }
        _ => {
            settings.insert(key.to_owned(), Value::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(settings: Value) -> Result<(Changes, Value), String> {
        let Value::Object(settings) = settings else {
            return Err("not an object".to_owned());
        };
        split(settings, "persistent")
            .map(|(ours, rest)| (ours, Value::Object(rest)))
            .map_err(|error| error.message())
    }

    #[test]
    fn flat_and_nested_keys_are_parted() {
        let (ours, rest) = parted(json!({
            "cluster.remote.a.seeds": ["h:1"],
            "plugins.replication.follower.bulk_batch_size": 5,
            "plugins": {"replication": {"replicate.delete_index": true}, "other": {"x": 1}},
            "plugins.replication": {"follower": {"block": {"start": null}}},
        }))
        .unwrap();
        let expected: Changes = [
            ("plugins.replication.follower.bulk_batch_size", Some("5")),
            ("plugins.replication.replicate.delete_index", Some("true")),
            ("plugins.replication.follower.block.start", None),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
        .collect();
        assert_eq!(ours, expected);
        assert_eq!(
            rest,
            json!({"cluster.remote.a.seeds": ["h:1"], "plugins": {"other": {"x": 1}}})
        );
    }

    #[test]
    fn wildcards_reset_and_unknown_keys_are_refused() {
        let (ours, rest) =
            parted(json!({"plugins.replication.autofollow.*": null, "*": null})).unwrap();
        assert_eq!((ours.len(), rest), (18, json!({"*": null})));
        let error = parted(json!({"plugins.replication.bogus": 1}));
        let words =
            "settings_exception: persistent setting [plugins.replication.bogus], not recognized";
        assert_eq!(error, Err(words.to_owned()));
    }

    #[test]
    fn settings_are_shown_flat_or_nested() {
        let mut settings = Map::new();
        insert(&mut settings, "a.b.c", "1", false);
        insert(&mut settings, "a.b.d", "2", true);
        assert_eq!(
            Value::Object(settings),
            json!({"a": {"b": {"c": "1"}}, "a.b.d": "2"})
        );
    }
}
