//! Each command: its call, and what is shown of the answer.

use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};
use shardline_common::clock::now_ms;
use shardline_common::opensearch::path_segment;

use super::arguments::{
    Autofollow, Bulk, Command, CtlArguments, Indices, Roles, Settings, StatsOf, Task,
};
use super::client::Client;
use super::output::Output;
use super::{CtlError, tables, wait};
use crate::contract::verify::VerificationState;

pub(crate) async fn run(arguments: CtlArguments) -> Result<(), CtlError> {
    let cli = Cli {
        client: Client::new(arguments.connection)?,
        output: Output::new(arguments.json),
    };
    let outcome = carry_out(&cli, arguments.command).await;
    if let Err(CtlError::Refused { body, .. }) = &outcome {
        cli.output.refused(body)?;
    }
    outcome
}

async fn carry_out(cli: &Cli, command: Command) -> Result<(), CtlError> {
    match command {
        Command::Status {
            index,
            shards,
            watch,
        } => cli.status(index.as_deref(), shards, watch).await,
        Command::Start {
            index,
            leader_alias,
            leader_index,
            repository,
            settings,
            roles,
            wait,
        } => {
            let mut body = object([("leader_alias", json!(leader_alias))]);
            body.insert(
                "leader_index".to_owned(),
                json!(leader_index.as_ref().unwrap_or(&index)),
            );
            body.extend(repository.map(|repository| ("repository".to_owned(), json!(repository))));
            add_options(&mut body, &settings, &roles);
            let answer = cli
                .client
                .put(&of_index(&index, "_start"), Value::Object(body))
                .await?;
            cli.followed(&index, &answer, wait.wait).await
        }
        Command::Pause { index, reason } => {
            let body = reason.map_or_else(|| json!({}), |reason| json!({"reason": reason}));
            let answer = cli.client.post(&of_index(&index, "_pause"), body).await?;
            cli.output.done(&answer, &format!("{index} is paused"))
        }
        Command::Resume { index, wait } => {
            let answer = cli
                .client
                .post(&of_index(&index, "_resume"), json!({}))
                .await?;
            cli.followed(&index, &answer, wait.wait).await
        }
        Command::Stop { index } => {
            let answer = cli
                .client
                .post(&of_index(&index, "_stop"), json!({}))
                .await?;
            cli.output
                .done(&answer, &format!("{index} is no longer followed"))
        }
        Command::Update { index, settings } => {
            let body = json!({"settings": settings.json().unwrap_or_else(|| json!({}))});
            let answer = cli.client.put(&of_index(&index, "_update"), body).await?;
            cli.output
                .done(&answer, &format!("the settings of {index} are replaced"))
        }
        Command::Verify {
            index,
            content,
            repair,
            documents_per_second,
            last,
        } => {
            if !last {
                let mut body = object([("content", json!(content)), ("repair", json!(repair))]);
                body.extend(
                    documents_per_second
                        .map(|rate| ("documents_per_second".to_owned(), json!(rate))),
                );
                cli.client
                    .post(&of_index(&index, "_verify"), Value::Object(body))
                    .await?;
            }
            cli.verified(&index).await
        }
        Command::DeadLetters {
            index,
            replay: false,
        } => {
            let answer = cli.client.get(&of_index(&index, "_dead_letters")).await?;
            cli.output.show(&answer, tables::dead_letters)
        }
        Command::DeadLetters {
            index,
            replay: true,
        } => {
            let answer = cli
                .client
                .post(&of_index(&index, "_dead_letters/_replay"), json!({}))
                .await?;
            cli.output.done(
                &answer,
                &format!(
                    "{} documents of {index} are asked for again",
                    answer["documents"]
                ),
            )
        }
        Command::Autofollow(command) => cli.autofollow(command).await,
        Command::Stats { of } => cli.stats(of).await,
        Command::Bulk(command) => cli.bulk(command).await,
        Command::Task(Task::Status { id, wait: options }) if options.wait => {
            cli.await_task(&id).await
        }
        Command::Task(Task::Status { id, .. }) => {
            let answer = cli
                .client
                .get(&format!("_task_status/{}", path_segment(&id)))
                .await?;
            cli.output.show(&answer, tables::task)
        }
        Command::Task(Task::Cancel { id }) => {
            let answer = cli
                .client
                .post(&format!("_task_cancel/{}", path_segment(&id)), json!({}))
                .await?;
            cli.output.done(&answer, &format!("task {id} is cancelled"))
        }
    }
}

struct Cli {
    client: Client,
    output: Output,
}

impl Cli {
    async fn status(
        &self,
        index: Option<&str>,
        shards: bool,
        watch: Option<Duration>,
    ) -> Result<(), CtlError> {
        let Some(interval) = watch else {
            return self
                .output
                .show(&self.statuses(index, shards).await?, tables::statuses);
        };
        loop {
            match self.statuses(index, shards).await {
                Ok(answer) => self.output.show_anew(&answer, tables::statuses)?,
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
        let mut answer = self
            .client
            .get(&format!("_status?pattern={pattern}&verbose={shards}"))
            .await?;
        if let Some(index) = index.filter(|index| !index.contains('*'))
            && answer["indices"].get(index).is_none()
        {
            answer["indices"][index] = self.client.get(&of_index(index, "_status")).await?;
        }
        Ok(answer)
    }

    /// After a start or a resume.
    async fn followed(&self, index: &str, answer: &Value, wait: bool) -> Result<(), CtlError> {
        if !wait {
            return self
                .output
                .done(answer, &format!("{index} is being followed"));
        }
        let status = wait::for_index(&self.client, index).await?;
        self.output
            .done(&status, &format!("{index} is synchronised"))
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

    async fn autofollow(&self, command: Autofollow) -> Result<(), CtlError> {
        match command {
            Autofollow::Create {
                name,
                leader_alias,
                pattern,
                follower_index_pattern,
                settings,
                roles,
            } => {
                let names = [
                    ("leader_alias", json!(leader_alias)),
                    ("name", json!(name)),
                    ("pattern", json!(pattern)),
                ];
                let mut body = object(names);
                if let Some(pattern) = follower_index_pattern {
                    body.insert("follower_index_pattern".to_owned(), json!(pattern));
                }
                add_options(&mut body, &settings, &roles);
                let answer = self.client.post("_autofollow", Value::Object(body)).await?;
                self.output.done(&answer, &format!("rule {name} is made"))
            }
            Autofollow::Delete { name, leader_alias } => {
                let body = json!({"leader_alias": leader_alias, "name": name});
                let answer = self
                    .client
                    .call(Method::DELETE, "_autofollow", Some(body))
                    .await?;
                self.output
                    .done(&answer, &format!("rule {name} is deleted"))
            }
            Autofollow::List => self.stats(StatsOf::Autofollow).await,
        }
    }

    async fn stats(&self, of: StatsOf) -> Result<(), CtlError> {
        match of {
            StatsOf::Leader => self.output.show(
                &self.client.get("leader_stats").await?,
                tables::leader_stats,
            ),
            StatsOf::Follower => self.output.show(
                &self.client.get("follower_stats").await?,
                tables::follower_stats,
            ),
            StatsOf::Autofollow => {
                let answer = self.client.get("autofollow_stats").await?;
                self.output
                    .show(&answer, |stats| tables::rules(stats, now_ms()))
            }
        }
    }

    async fn bulk(&self, command: Bulk) -> Result<(), CtlError> {
        match command {
            Bulk::Start {
                indices,
                leader_alias,
                roles,
                wait,
            } => {
                let mut body = indices.body();
                body.insert("leader_alias".to_owned(), json!(leader_alias));
                body.extend(roles.json().map(|roles| ("use_roles".to_owned(), roles)));
                self.begin("_bulk_start", body, wait.wait).await
            }
            Bulk::Pause { indices, wait } => {
                self.begin_on("_bulk_pause", &indices, wait.wait).await
            }
            Bulk::Resume { indices, wait } => {
                self.begin_on("_bulk_resume", &indices, wait.wait).await
            }
            Bulk::Stop { indices, wait } => self.begin_on("_bulk_stop", &indices, wait.wait).await,
            Bulk::Status { pattern } => {
                let answer = self
                    .client
                    .get(&format!("_bulk_status?pattern={}", path_segment(&pattern)))
                    .await?;
                self.output.show(&answer, tables::statuses)
            }
        }
    }

    async fn begin_on(&self, route: &str, indices: &Indices, wait: bool) -> Result<(), CtlError> {
        self.begin(route, indices.body(), wait).await
    }

    async fn begin(
        &self,
        route: &str,
        body: Map<String, Value>,
        wait: bool,
    ) -> Result<(), CtlError> {
        let answer = self.client.post(route, Value::Object(body)).await?;
        let id = answer["task_id"].as_str().unwrap_or_default();
        if wait {
            self.await_task(id).await
        } else {
            self.output.done(&answer, &format!("task {id} has begun"))
        }
    }

    async fn await_task(&self, id: &str) -> Result<(), CtlError> {
        let (answer, task) = wait::for_task(&self.client, id).await?;
        self.output.show(&answer, tables::task)?;
        let (failed, cancelled) = (task.num_failed as u64, task.num_cancelled);
        if failed + cancelled == 0 {
            return Ok(());
        }
        Err(CtlError::Task {
            total: task.num_success + failed + cancelled,
            failed,
            cancelled,
        })
    }
}

fn of_index(index: &str, action: &str) -> String {
    format!("{}/{action}", path_segment(index))
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn add_options(body: &mut Map<String, Value>, settings: &Settings, roles: &Roles) {
    body.extend(
        settings
            .json()
            .map(|settings| ("settings".to_owned(), settings)),
    );
    body.extend(roles.json().map(|roles| ("use_roles".to_owned(), roles)));
}
