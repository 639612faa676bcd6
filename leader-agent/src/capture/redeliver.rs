//! Ships documents of a shard again because a follower asks for them: as they are now, behind
//! everything that was shipped before. So nothing comes back that has been changed or deleted
//! since.
//!
//! What cannot be shipped again is told to whoever asked, and holds up nothing else.

use std::collections::HashMap;
use std::time::Duration;

use shardline_common::control::{FailedRedelivery, Redelivery};
use shardline_common::record::{FrameId, ResyncBegin};
use shardline_common::scan::Stretch;
use shardline_common::types::SeqNo;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Capture, CaptureError};
use crate::scan::open_settled;

/// How often a request is tried, and how far apart.
const ATTEMPTS: u32 = 4;
const RETRY: Duration = Duration::from_secs(5);

/// Passes on what followers ask of a shard's capture.
pub struct Asking(watch::Sender<Vec<Redelivery>>);

/// What a shard's capture has been asked for.
pub struct Asked {
    /// All requests that stand.
    standing: watch::Receiver<Vec<Redelivery>>,
    /// What became of those that were tried.
    tried: HashMap<FrameId, Tried>,
}

#[derive(Default)]
struct Tried {
    /// Whether it is shipped, or was given up.
    is_over: bool,
    attempts: u32,
    next: Option<Instant>,
}

pub fn redelivery_channel() -> (Asking, Asked) {
    let (sender, standing) = watch::channel(Vec::new());
    (
        Asking(sender),
        Asked {
            standing,
            tried: HashMap::new(),
        },
    )
}

impl Asking {
    /// `requests` are all that stand for the shard.
    pub fn pass_on(&mut self, requests: &[Redelivery]) {
        self.0.send_if_modified(|known| {
            let differs = known != requests;
            if differs {
                *known = requests.to_vec();
            }
            differs
        });
    }
}

impl Asked {
    /// Resolves when there is something to do.
    pub(crate) async fn wait(&mut self) {
        loop {
            let next = {
                let standing = self.standing.borrow_and_update();
                let now = Instant::now();
                let open = standing.iter().filter_map(|one| due(&self.tried, one, now));
                open.min()
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                changed = self.standing.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// The next request that stands and is due. One that was withdrawn is forgotten.
    fn next(&mut self) -> Option<Redelivery> {
        let standing = self.standing.borrow_and_update();
        self.tried
            .retain(|frame, _| standing.iter().any(|one| one.frame == *frame));
        let now = Instant::now();
        let is_due = |one: &&Redelivery| due(&self.tried, one, now).is_some_and(|due| due <= now);
        standing.iter().find(is_due).cloned()
    }

    fn is_over(&mut self, frame: FrameId) {
        self.tried.entry(frame).or_default().is_over = true;
    }

    /// Whether a request that failed is given up.
    fn has_failed(&mut self, frame: FrameId) -> bool {
        let tried = self.tried.entry(frame).or_default();
        tried.attempts += 1;
        tried.next = Some(Instant::now() + RETRY);
        tried.is_over = tried.attempts >= ATTEMPTS;
        tried.is_over
    }
}

/// When a request is to be tried; `None` if it is over.
fn due(tried: &HashMap<FrameId, Tried>, request: &Redelivery, now: Instant) -> Option<Instant> {
    match tried.get(&request.frame) {
        Some(tried) if tried.is_over => None,
        Some(Tried {
            next: Some(next), ..
        }) => Some(*next),
        _ => Some(now),
    }
}

impl Capture<'_> {
    /// Ships what is asked for. What fails is tried again, and in the end told to have failed; the
    /// capture goes on, unless Kafka has only a part of it.
    pub(super) async fn redeliver(&mut self, asked: &mut Asked) -> Result<(), CaptureError> {
        while let Some(request) = asked.next() {
            self.settle(0).await?;
            let error = match self.ship_again(&request).await {
                Ok(()) => {
                    asked.is_over(request.frame);
                    continue;
                }
                Err(error @ CaptureError::Publish(_)) => return Err(error),
                Err(error) => error,
            };
            warn!(index = %self.shard.index, shard = %self.shard.shard, follower = %request.follower_index, %error,
                  "documents cannot be shipped again");
            if asked.has_failed(request.frame) {
                let failed = FailedRedelivery::of(&request, error.to_string());
                self.context.board.tell_failed(&failed).await?;
            }
            if self.in_frame {
                // A frame that has begun is left where it is: whoever reads on forgets it.
                return Err(error);
            }
        }
        Ok(())
    }

    async fn ship_again(&mut self, request: &Redelivery) -> Result<(), CaptureError> {
        let scan = open_settled(&self.context.opensearch, self.shard, self.sent).await?;
        let (from, to) = (self.sent.next(), self.sent);
        info!(index = %self.shard.index, shard = %self.shard.shard, documents = request.ids.len(), "shipping again");
        let begin = ResyncBegin {
            frame: request.frame,
            from,
            to,
            cause: format!("{} asked for documents again", request.follower_index),
            documents: request.ids.len() as u64,
        };
        // What is newer comes by itself.
        let pages = scan.documents_among(
            &request.ids,
            Stretch {
                from: SeqNo(0),
                to: Some(to),
            },
        );
        let outcome = self.ship_frame(&scan, begin, pages, false).await;
        scan.close().await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use shardline_common::types::ShardId;

    use super::*;

    fn request(frame: i64) -> Redelivery {
        Redelivery {
            follower_cluster: "f".into(),
            follower_index: "i".into(),
            leader_cluster: "l".into(),
            leader_uuid: "u".into(),
            shard: ShardId(0),
            frame: FrameId(frame),
            ids: vec!["a".to_owned()],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_a_few_times_and_holds_up_nothing() {
        let (mut asking, mut asked) = redelivery_channel();
        asking.pass_on(&[request(1), request(2)]);
        let mut attempts = 0;
        loop {
            asked.wait().await;
            let next = asked.next().unwrap();
            if next.frame == FrameId(2) {
                asked.is_over(next.frame);
                continue;
            }
            attempts += 1;
            if asked.has_failed(next.frame) {
                break;
            }
            // The other one is not held up.
            assert!(asked.next().is_none_or(|next| next.frame == FrameId(2)));
        }
        assert_eq!(attempts, ATTEMPTS);
        assert!(asked.next().is_none() && asked.wait().now_or_never().is_none());
        asking.pass_on(&[request(3)]);
        asked.wait().await;
        assert_eq!(asked.next().unwrap().frame, FrameId(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_withdrawn_is_dropped() {
        let (mut asking, mut asked) = redelivery_channel();
        asking.pass_on(&[request(1)]);
        assert!(asked.next().is_some() && !asked.has_failed(FrameId(1)));
        asking.pass_on(&[]);
        tokio::time::advance(RETRY * 2).await;
        assert!(asked.next().is_none() && asked.tried.is_empty());
    }
}
