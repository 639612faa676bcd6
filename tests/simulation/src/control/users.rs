//! Calls of users. A call goes to the agent that holds the slot it is about, as the gateways see
//! to; whoever called hears nothing if that agent ends.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use follower_agent::Slot;
use parking_lot::Mutex;
use shardline::contract::request::{PauseRequest, ResumeRequest, StartRequest, UpdateRequest};
use shardline::contract::{ApiError, ReplicationService};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::agents::Follower;
use super::cluster::ALIAS;
use super::oracle::Verb;
use super::world::World;

/// An answer has come by then, whatever happens.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a gateway looks for the agent that a call is for.
const ROUTING: Duration = Duration::from_secs(20);

pub type Followers = Arc<Mutex<Vec<Follower>>>;

#[derive(Clone, Debug)]
pub struct Call {
    pub cluster: String,
    pub follower: String,
    pub leader: String,
    pub verb: Verb,
}

/// What a user hears.
#[derive(Debug)]
pub enum Heard {
    Done,
    Refused(ApiError),
    /// The agent ended.
    Nothing,
}

struct Holder {
    name: String,
    service: Arc<dyn ReplicationService>,
    gone: CancellationToken,
}

impl Call {
    pub fn draw(rng: &mut Rng, world: &World) -> Self {
        let cluster = rng.usize(0..world.plan.followers);
        let index = rng.usize(0..world.plan.indices);
        let verbs = [
            Verb::Start,
            Verb::Start,
            Verb::Start,
            Verb::Stop,
            Verb::Pause,
            Verb::Resume,
            Verb::Update,
        ];
        Self {
            cluster: format!("follower-{cluster}"),
            follower: format!("copy-{index}"),
            leader: format!("books-{index}"),
            verb: verbs[rng.usize(0..verbs.len())],
        }
    }

    /// Makes the call and waits for what is heard; an answer that never comes is a fault.
    pub async fn make(self, world: Arc<World>, followers: Followers) -> Heard {
        let key = world.key(&self.cluster, &self.follower);
        world.note(|| format!("call {:?} {} {}", self.verb, self.cluster, self.follower));
        world.oracle.lock().begin_call(&key, self.verb);
        let heard = match timeout(PATIENCE, self.route(&followers)).await {
            Ok(heard) => heard,
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                world.fail(|| format!("{self:?} has no answer after {seconds}s"));
                Heard::Nothing
            }
        };
        world.note(|| format!("heard of {:?} {}: {heard:?}", self.verb, self.follower));
        let is_done = matches!(heard, Heard::Done);
        let is_unknown = matches!(heard, Heard::Nothing);
        // What was begun by an agent that has ended may still show for a while.
        if is_unknown {
            sleep(Duration::from_secs(30)).await;
        }
        world.oracle.lock().end_call(&key, self.verb, is_done);
        heard
    }

    async fn route(&self, followers: &Followers) -> Heard {
        let slot = Slot::of_index(&self.follower.as_str().into());
        let until = Instant::now() + ROUTING;
        loop {
            if let Some(holder) = self.holder(followers, slot) {
                return tokio::select! {
                    answer = self.carry_out(&*holder.service) => match answer {
                        Ok(()) => Heard::Done,
                        Err(error) => Heard::Refused(error),
                    },
                    () = holder.gone.cancelled() => {
                        let _ended = &holder.name;
                        Heard::Nothing
                    }
                };
            }
            if Instant::now() >= until {
                let status = http::StatusCode::SERVICE_UNAVAILABLE;
                return Heard::Refused(ApiError::status_exception(status, "nobody looks after it"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn holder(&self, followers: &Followers, slot: Slot) -> Option<Holder> {
        let followers = followers.lock();
        let of_cluster = followers.iter().filter(|one| one.cluster == self.cluster);
        let holder = of_cluster
            .into_iter()
            .find(|one| one.engine.slots().holds(slot))?;
        Some(Holder {
            name: holder.name.clone(),
            service: holder.engine.service(),
            gone: holder.gone.clone(),
        })
    }

    async fn carry_out(&self, service: &dyn ReplicationService) -> Result<(), ApiError> {
        let follower = self.follower.as_str().into();
        match self.verb {
            Verb::Start => {
                let request = StartRequest {
                    leader_alias: ALIAS.to_owned(),
                    leader_index: self.leader.clone(),
                    roles: None,
                    settings: Default::default(),
                    repository: None,
                };
                service.start(follower, request, false).await
            }
            Verb::Stop => service.stop(follower).await,
            Verb::Pause => {
                let reason = "by a user".to_owned();
                service.pause(follower, PauseRequest { reason }).await
            }
            Verb::Resume => service.resume(follower, ResumeRequest::default()).await,
            Verb::Update => {
                let request = UpdateRequest {
                    settings: Some(Default::default()),
                    roles: None,
                };
                service.update(follower, request).await
            }
        }
    }
}
