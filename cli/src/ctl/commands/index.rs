//! Commands on one followed index, and the status of any number.

use serde_json::{Value, json};
use shardline_common::opensearch::path_segment;

use super::{Cli, add_options, object, of_index};
use crate::contract::verify::VerificationState;
use crate::ctl::CtlError;
use crate::ctl::arguments::{Settings, Start, Status, Verify};
use crate::ctl::statuses::Statuses;
use crate::ctl::{tables, wait, watch};

impl Cli {
    pub(super) async fn status(&self, arguments: Status) -> Result<(), CtlError> {
        let Status {
            index,
            shards,
            sort,
            watch,
        } = arguments;
        let ask = async || self.statuses(index.as_deref(), shards).await;
        let Some(interval) = watch else {
            let answer = ask().await?;
            return self.output.show(&answer, |it: Statuses| it.shown(sort));
        };
        if self.output.is_screen() {
            return watch::run(ask, interval, sort, self.client.url(), self.output.look()).await;
        }
        loop {
            match ask().await {
                Ok(answer) => self.output.show(&answer, |it: Statuses| it.shown(sort))?,
                // An agent may be back at the next look.
                Err(error @ CtlError::Unreachable { .. }) => eprintln!("{error}"),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// An index that is not followed is listed only if it is named.
    async fn statuses(&self, index: Option<&str>, shards: bool) -> Result<Value, CtlError> {
        let pattern = path_segment(index.unwrap_or("*"));
        let path = format!("_status?pattern={pattern}&verbose={shards}");
        let mut answer = self.client.get(&path).await?;
        if let Some(index) = index.filter(|index| !index.contains('*'))
            && answer["indices"].get(index).is_none()
        {
            answer["indices"][index] = self.client.get(&of_index(index, "_status")).await?;
        }
        Ok(answer)
    }

    pub(super) async fn start(&self, arguments: Start) -> Result<(), CtlError> {
        let index = arguments.index;
        let leader_index = arguments.leader_index.as_ref().unwrap_or(&index);
        let mut body = object([
            ("leader_alias", json!(arguments.leader_alias)),
            ("leader_index", json!(leader_index)),
        ]);
        let repository = arguments.repository;
        body.extend(repository.map(|repository| ("repository".to_owned(), json!(repository))));
        add_options(&mut body, &arguments.settings, &arguments.roles);
        let path = of_index(&index, "_start");
        let answer = self.client.put(&path, Value::Object(body)).await?;
        self.followed(&index, &answer, arguments.wait.wait).await
    }

    pub(super) async fn pause(&self, index: &str, reason: Option<String>) -> Result<(), CtlError> {
        let body = reason.map_or_else(|| json!({}), |reason| json!({"reason": reason}));
        let answer = self.client.post(&of_index(index, "_pause"), body).await?;
        self.output.done(&answer, &format!("{index} is paused"))
    }

    pub(super) async fn resume(&self, index: &str, wait: bool) -> Result<(), CtlError> {
        let path = of_index(index, "_resume");
        let answer = self.client.post(&path, json!({})).await?;
        self.followed(index, &answer, wait).await
    }

    pub(super) async fn stop(&self, index: &str) -> Result<(), CtlError> {
        self.confirm(&format!(
            "{index} becomes an ordinary index that anybody may write to. To follow its leader \
             again it has to be deleted and copied anew."
        ))?;
        let path = of_index(index, "_stop");
        let answer = self.client.post(&path, json!({})).await?;
        let words = format!("{index} is no longer followed");
        self.output.done(&answer, &words)
    }

    pub(super) async fn update(&self, index: &str, settings: &Settings) -> Result<(), CtlError> {
        let body = json!({"settings": settings.json().unwrap_or_else(|| json!({}))});
        let answer = self.client.put(&of_index(index, "_update"), body).await?;
        let words = format!("the settings of {index} are replaced");
        self.output.done(&answer, &words)
    }

    pub(super) async fn verify(&self, arguments: Verify) -> Result<(), CtlError> {
        let Verify {
            index,
            content,
            repair,
            documents_per_second,
            last,
        } = arguments;
        if repair {
            self.confirm(&format!(
                "If {index} differs from its leader's, it is copied anew over what it holds now."
            ))?;
        }
        if !last {
            let mut body = object([("content", json!(content)), ("repair", json!(repair))]);
            let rate = documents_per_second;
            body.extend(rate.map(|rate| ("documents_per_second".to_owned(), json!(rate))));
            let path = of_index(&index, "_verify");
            self.client.post(&path, Value::Object(body)).await?;
        }
        self.verified(&index).await
    }

    pub(super) async fn dead_letters(&self, index: &str, replay: bool) -> Result<(), CtlError> {
        if !replay {
            let answer = self.client.get(&of_index(index, "_dead_letters")).await?;
            return self.output.show(&answer, tables::dead_letters);
        }
        let path = of_index(index, "_dead_letters/_replay");
        let answer = self.client.post(&path, json!({})).await?;
        let number = &answer["documents"];
        let words = format!("{number} documents of {index} are asked for again");
        self.output.done(&answer, &words)
    }

    /// After a start or a resume.
    async fn followed(&self, index: &str, answer: &Value, wait: bool) -> Result<(), CtlError> {
        if !wait {
            let words = format!("{index} is being followed");
            return self.output.done(answer, &words);
        }
        let status = wait::for_index(&self.client, index).await?;
        let words = format!("{index} is synchronised");
        self.output.done(&status, &words)
    }

    /// Waits for the verification of an index.
    async fn verified(&self, index: &str) -> Result<(), CtlError> {
        let (answer, verification) = wait::for_verification(&self.client, index).await?;
        self.output.show(&answer, tables::verification)?;
        let index = index.to_owned();
        match verification.state {
            VerificationState::Equal => Ok(()),
            VerificationState::Failed => Err(CtlError::NotVerified {
                index,
                reason: verification.reason.unwrap_or_default(),
            }),
            _ => Err(CtlError::Different { index }),
        }
    }
}
