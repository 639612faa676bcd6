//! Which cluster state the local node has: the question that a shard asks before each batch, for
//! little.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde::Deserialize;
use shardline_common::opensearch::{OpenSearch, OpenSearchError};
use tokio::sync::Mutex;

/// Shards that ask while a question is under way share the next one.
pub struct StateId {
    opensearch: OpenSearch,
    /// How many questions have been sent.
    sent: AtomicU64,
    answered: Mutex<Answered>,
}

struct Answered {
    /// Which question it was, counted from 1.
    question: u64,
    answer: Result<Arc<str>, Arc<OpenSearchError>>,
}

#[derive(Deserialize)]
struct State {
    state_uuid: String,
}

impl StateId {
    pub fn new(opensearch: OpenSearch) -> Self {
        let nothing = Answered {
            question: 0,
            answer: Ok(Arc::default()),
        };
        Self {
            opensearch,
            sent: AtomicU64::new(0),
            answered: Mutex::new(nothing),
        }
    }

    /// The answer to a question that was sent after this was called: the state is another one after
    /// any change.
    pub async fn ask(&self) -> Result<Arc<str>, Arc<OpenSearchError>> {
        let sent_before = self.sent.load(SeqCst);
        let mut answered = self.answered.lock().await;
        if answered.question <= sent_before {
            let question = self.sent.fetch_add(1, SeqCst) + 1;
            let state: Result<State, _> = self
                .opensearch
                .get("/_cluster/state/version?local=true&filter_path=state_uuid")
                .await;
            let answer = state.map(|state| state.state_uuid.into()).map_err(Arc::new);
            *answered = Answered { question, answer };
        }
        answered.answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::future::{BoxFuture, join_all};
    use reqwest::StatusCode;
    use shardline_common::opensearch::{Request, Transport};

    use super::*;

    /// Counts the questions, and answers each after a second with its number.
    #[derive(Default)]
    struct Node {
        asked: AtomicU64,
        is_away: bool,
    }

    impl Transport for Node {
        fn send<'a>(
            &'a self,
            _: Request<'a>,
        ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
            let number = self.asked.fetch_add(1, SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if self.is_away {
                    return Err("away".to_owned());
                }
                Ok((
                    StatusCode::OK,
                    format!(r#"{{"state_uuid":"{number}"}}"#).into(),
                ))
            })
        }
    }

    async fn asked_by_many(node: &Arc<Node>) -> Vec<Option<String>> {
        let state_id = StateId::new(OpenSearch::over("node".to_owned(), Arc::clone(node) as _));
        let shards = (0..100).map(|shard| {
            let state_id = &state_id;
            async move {
                // One begins, the others come while its question is under way.
                tokio::time::sleep(Duration::from_millis(shard)).await;
                state_id.ask().await.ok().map(|id| id.to_string())
            }
        });
        join_all(shards).await
    }

    #[tokio::test(start_paused = true)]
    async fn shards_share_a_question_that_was_sent_after_they_asked() {
        let node = Arc::new(Node::default());
        let answers = asked_by_many(&node).await;
        assert_eq!(answers[0].as_deref(), Some("0"));
        assert!(
            answers[1..]
                .iter()
                .all(|answer| answer.as_deref() == Some("1")),
            "{answers:?}"
        );
        assert_eq!(node.asked.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_fails_fails_for_all_who_share_it() {
        let node = Arc::new(Node {
            is_away: true,
            ..Node::default()
        });
        let answers = asked_by_many(&node).await;
        assert!(answers.iter().all(Option::is_none));
        assert_eq!(node.asked.load(SeqCst), 2);
    }
}
