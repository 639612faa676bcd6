//! Commands on auto-follow rules, and statistics.

use serde_json::{Value, json};
use shardline_common::clock::now_ms;

use super::{Cli, add_options, object};
use crate::ctl::CtlError;
use crate::ctl::arguments::{Autofollow, StatsOf};
use crate::ctl::tables;

impl Cli {
    pub(super) async fn autofollow(&self, command: Autofollow) -> Result<(), CtlError> {
        match command {
            Autofollow::Create {
                name,
                leader_alias,
                pattern,
                follower_index_pattern,
                settings,
                roles,
            } => {
                let mut body = object([
                    ("leader_alias", json!(leader_alias)),
                    ("name", json!(name)),
                    ("pattern", json!(pattern)),
                ]);
                if let Some(pattern) = follower_index_pattern {
                    body.insert("follower_index_pattern".to_owned(), json!(pattern));
                }
                add_options(&mut body, &settings, &roles);
                let answer = self.client.post("_autofollow", Value::Object(body)).await?;
                self.output.done(&answer, &format!("rule {name} is made"))
            }
            Autofollow::Delete { name, leader_alias } => {
                self.confirm(&format!(
                    "Rule {name} of {leader_alias} ends: new indices that match it are no longer \
                     followed. What it began goes on."
                ))?;
                let body = json!({"leader_alias": leader_alias, "name": name});
                let answer = self.delete("_autofollow", body).await?;
                let words = format!("rule {name} is deleted");
                self.output.done(&answer, &words)
            }
            Autofollow::List => self.stats(StatsOf::Autofollow).await,
        }
    }

    pub(super) async fn stats(&self, of: StatsOf) -> Result<(), CtlError> {
        match of {
            StatsOf::Leader => {
                let answer = self.client.get("leader_stats").await?;
                self.output.show(&answer, tables::leader_stats)
            }
            StatsOf::Follower => {
                let answer = self.client.get("follower_stats").await?;
                self.output.show(&answer, tables::follower_stats)
            }
            StatsOf::Autofollow => {
                let answer = self.client.get("autofollow_stats").await?;
                let rules = |stats| tables::rules(stats, now_ms());
                self.output.show(&answer, rules)
            }
        }
    }
}
