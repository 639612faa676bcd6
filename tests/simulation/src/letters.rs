//! Dead letters in the simulated log: written down, taken off, and asked for again.

use follower_agent::{ApplyError, DeadLetters, Lenience, Refused, Rejection};
use futures::FutureExt;
use futures::future::BoxFuture;
use shardline_common::control::Redelivery;
use shardline_common::kafka::ControlError;
use shardline_common::record::FrameId;
use shardline_common::types::{SeqNo, ShardId};

use crate::calls::{Target, call};
use crate::place::SHARD;
use crate::sabotage::Sabotage;
use crate::world::{FOLLOWER_INDEX, Shared, UUID, World};

pub struct Letters(pub Shared);

impl Letters {
    async fn write(
        &self,
        label: String,
        effect: impl FnOnce(&mut World) + Send + 'static,
    ) -> Result<(), ControlError> {
        let written = call(&self.0, Target::Log, label, effect).await;
        written.ok_or_else(|| ControlError::Timeout {
            topic: "dead-letters".into(),
        })
    }

    pub async fn redelivered(&self, frame: FrameId, up_to: SeqNo) -> Result<(), ControlError> {
        let asked = self
            .0
            .lock()
            .redelivery
            .clone()
            .filter(|request| request.frame == frame);
        let Some(request) = asked else { return Ok(()) };
        self.write(
            format!("dead letters up to {up_to} replayed"),
            move |world| {
                let is_done = |refused: &Refused| {
                    refused.seq_no <= up_to && request.ids.contains(&refused.id)
                };
                world
                    .letters
                    .retain(|refused, again| *again == Some(frame) || !is_done(refused));
                if world
                    .redelivery
                    .as_ref()
                    .is_some_and(|latest| latest.frame == frame)
                {
                    world.redelivery = None;
                }
            },
        )
        .await
    }
}

/// The simulated follower index refuses what its mapping does not know: that metadata comes in time
/// is what is to be seen.
pub struct Never;

impl Lenience for Never {
    fn begin(&self, _: ShardId, _: bool) -> BoxFuture<'_, Result<bool, ApplyError>> {
        std::future::ready(Ok(false)).boxed()
    }

    fn end(&self, _: ShardId) -> BoxFuture<'_, Result<(), ApplyError>> {
        std::future::ready(Ok(())).boxed()
    }
}

impl DeadLetters for Letters {
    fn keep(&self, _: ShardId, rejected: Vec<Rejection>) -> BoxFuture<'_, Result<(), ApplyError>> {
        async move {
            if let (false, Some(first)) = (self.0.lock().plan.refusals, rejected.first()) {
                return Err(ApplyError::Rejected(first.clone()));
            }
            if self.0.lock().sabotage == Some(Sabotage::ForgottenDeadLetter) {
                return Ok(());
            }
            let written = self.write(format!("dead letters {rejected:?}"), move |world| {
                for Rejection { id, seq_no, .. } in rejected {
                    let asked = world
                        .redelivery
                        .as_ref()
                        .filter(|request| request.ids.contains(&id));
                    let frame = asked.map(|request| request.frame);
                    world
                        .letters
                        .retain(|kept, _| kept.id != id || kept.seq_no > seq_no);
                    world.letters.insert(Refused { id, seq_no }, frame);
                }
            });
            Ok(written.await?)
        }
        .boxed()
    }

    fn kept(&self, _: ShardId) -> Vec<Refused> {
        self.0.lock().letters.keys().cloned().collect()
    }

    fn resolve(&self, _: ShardId, refused: Vec<Refused>) -> BoxFuture<'_, Result<(), ApplyError>> {
        async move {
            let written = self.write(format!("dead letters {refused:?} resolved"), move |world| {
                world.letters.retain(|kept, _| !refused.contains(kept));
            });
            Ok(written.await?)
        }
        .boxed()
    }
}

impl World {
    /// A user asks for all dead letters again, whether or not what refuses them is mended.
    pub fn replay_letters(&mut self) {
        let ids: Vec<String> = self
            .letters
            .keys()
            .map(|refused| refused.id.clone())
            .collect();
        if ids.is_empty() {
            return;
        }
        let frame = FrameId(self.rng.i64(0..i64::MAX));
        self.note(|| format!("replay of {ids:?}"));
        self.redelivery = Some(Redelivery {
            follower_cluster: "f".into(),
            follower_index: FOLLOWER_INDEX.into(),
            leader_cluster: "l".into(),
            leader_uuid: UUID.into(),
            shard: SHARD,
            frame,
            ids,
        });
    }
}
