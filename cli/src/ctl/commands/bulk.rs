//! Commands on every index that matches, and their tasks.

use serde_json::{Map, Value, json};
use shardline_common::opensearch::path_segment;

use super::Cli;
use crate::ctl::CtlError;
use crate::ctl::arguments::{Bulk, Indices, Task};
use crate::ctl::statuses::{Order, Statuses};
use crate::ctl::{tables, wait};

impl Cli {
    pub(super) async fn bulk(&self, command: Bulk) -> Result<(), CtlError> {
        match command {
            Bulk::Start {
                indices,
                leader_alias,
                roles,
                wait,
            } => {
                self.confirm_bulk("followed", &indices)?;
                let mut body = indices.body();
                body.insert("leader_alias".to_owned(), json!(leader_alias));
                body.extend(roles.json().map(|roles| ("use_roles".to_owned(), roles)));
                self.begin("_bulk_start", body, wait.wait).await
            }
            Bulk::Pause { indices, wait } => {
                self.confirm_bulk("paused", &indices)?;
                self.begin("_bulk_pause", indices.body(), wait.wait).await
            }
            Bulk::Resume { indices, wait } => {
                self.confirm_bulk("resumed", &indices)?;
                self.begin("_bulk_resume", indices.body(), wait.wait).await
            }
            Bulk::Stop { indices, wait } => {
                let what = "made ordinary indices, which follow again only when they are deleted \
                            and copied anew";
                self.confirm_bulk(what, &indices)?;
                self.begin("_bulk_stop", indices.body(), wait.wait).await
            }
            Bulk::Status { pattern } => {
                let path = format!("_bulk_status?pattern={}", path_segment(&pattern));
                let answer = self.client.get(&path).await?;
                let tables = |statuses: Statuses| statuses.shown(Order::Name);
                self.output.show(&answer, tables)
            }
        }
    }

    fn confirm_bulk(&self, what: &str, indices: &Indices) -> Result<(), CtlError> {
        self.confirm(&format!("All indices that match {indices} are {what}."))
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

    pub(super) async fn task(&self, command: Task) -> Result<(), CtlError> {
        match command {
            Task::Status { id, wait } if wait.wait => self.await_task(&id).await,
            Task::Status { id, .. } => {
                let path = format!("_task_status/{}", path_segment(&id));
                self.output
                    .show(&self.client.get(&path).await?, tables::task)
            }
            Task::Cancel { id } => {
                let path = format!("_task_cancel/{}", path_segment(&id));
                let answer = self.client.post(&path, json!({})).await?;
                self.output
                    .done(&answer, &format!("task {id} is cancelled"))
            }
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
