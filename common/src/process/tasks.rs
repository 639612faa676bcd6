//! Tasks that are told to stop and waited for, and waits that have no end.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// A spawned task with its own stop signal. Dropping it does not end the task.
pub struct StoppableTask {
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

impl StoppableTask {
    /// Spawns the work. It is given the token that tells it to stop.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let stop = CancellationToken::new();
        Self {
            handle: tokio::spawn(work(stop.clone())),
            stop,
        }
    }

    /// Tells the task to stop, without waiting for it.
    fn cancel(&self) {
        self.stop.cancel();
    }

    /// Tells the task to stop and waits until it has.
    pub async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.handle.await {
            warn!(%error, "a task did not end cleanly");
        }
    }
}

/// Ends the tasks of a map whose keys are `ended`: all are told to stop before the first is waited
/// for.
pub async fn end_all<K: Clone + Eq + Hash, V>(
    tasks: &mut HashMap<K, V>,
    ended: impl Fn(&K) -> bool,
    task_of: impl Fn(V) -> StoppableTask,
) {
    let keys: Vec<K> = tasks.keys().filter(|key| ended(key)).cloned().collect();
    let ending: Vec<StoppableTask> = keys
        .iter()
        .filter_map(|key| tasks.remove(key))
        .map(task_of)
        .collect();
    ending.iter().for_each(StoppableTask::cancel);
    for task in ending {
        task.end().await;
    }
}

/// Waits for the next change of a watched value. Once its sender is gone no change can come, as
/// when the agent is stopping: then this never returns, and whoever waits is ended from outside.
pub async fn changed_or_never<T>(watched: &mut tokio::sync::watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn all_tasks_are_told_to_stop_before_the_first_is_waited_for() {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        // Each ends only once the other one has been told to stop, too.
        let work = |own: CancellationToken, other: CancellationToken| {
            StoppableTask::spawn(async move |stop: CancellationToken| {
                stop.cancelled().await;
                own.cancel();
                other.cancelled().await;
            })
        };
        let mut tasks = HashMap::from([
            (1, work(first.clone(), second.clone())),
            (2, work(second, first)),
        ]);
        tasks.insert(3, StoppableTask::spawn(|stop| stop.cancelled_owned()));
        end_all(&mut tasks, |key| *key < 3, |task| task).await;
        assert_eq!(tasks.keys().collect::<Vec<_>>(), [&3]);
    }

    #[tokio::test]
    async fn a_wait_for_a_change_has_no_end_when_the_sender_is_gone() {
        let (sender, mut watched) = tokio::sync::watch::channel(1);
        sender.send_replace(2);
        changed_or_never(&mut watched).await;
        drop(sender);
        assert!(changed_or_never(&mut watched).now_or_never().is_none());
    }
}
