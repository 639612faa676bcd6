//! Ships documents of a shard again because a follower asks for them: as they are now, behind
//! everything that was shipped before. So nothing comes back that has been changed or deleted
//! since.

use std::collections::{HashSet, VecDeque};

use shardline_common::control::Redelivery;
use shardline_common::record::{FrameId, ResyncBegin};
use shardline_common::scan::Stretch;
use shardline_common::types::SeqNo;
use tokio::sync::mpsc;
use tracing::info;

use super::{Capture, CaptureError};
use crate::scan::open_settled;

/// Passes on what followers ask of a shard's capture, each request once.
pub struct Asking {
    sender: mpsc::UnboundedSender<Redelivery>,
    passed_on: HashSet<FrameId>,
}

/// What a shard's capture has been asked for and has not done.
pub struct Asked {
    receiver: mpsc::UnboundedReceiver<Redelivery>,
    waiting: VecDeque<Redelivery>,
}

pub fn redelivery_channel() -> (Asking, Asked) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Asking {
            sender,
            passed_on: HashSet::new(),
        },
        Asked {
            receiver,
            waiting: VecDeque::new(),
        },
    )
}

impl Asking {
    /// `requests` are all that stand for the shard.
    pub fn pass_on(&mut self, requests: &[Redelivery]) {
        self.passed_on
            .retain(|frame| requests.iter().any(|request| request.frame == *frame));
        for request in requests {
            if self.passed_on.insert(request.frame) {
                // The capture may be ending; its next one is asked again.
                let _ = self.sender.send(request.clone());
            }
        }
    }
}

impl Asked {
    /// Resolves when there is something to do.
    pub(crate) async fn wait(&mut self) {
        if self.waiting.is_empty() {
            match self.receiver.recv().await {
                Some(request) => self.waiting.push_back(request),
                None => std::future::pending().await,
            }
        }
    }

    fn next(&mut self) -> Option<&Redelivery> {
        while let Ok(request) = self.receiver.try_recv() {
            self.waiting.push_back(request);
        }
        self.waiting.front()
    }
}

impl Capture<'_> {
    /// Ships what is asked for. What fails is done again by the next run of the capture.
    pub(super) async fn redeliver(&mut self, asked: &mut Asked) -> Result<(), CaptureError> {
        while let Some(request) = asked.next() {
            self.settle(0).await?;
            let scan = open_settled(&self.context.opensearch, self.shard, self.sent).await?;
            let outcome = async {
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
                self.ship_frame(&scan, begin, pages, false).await
            };
            let outcome = outcome.await;
            scan.close().await;
            outcome?;
            asked.waiting.pop_front();
        }
        Ok(())
    }
}
