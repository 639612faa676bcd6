//! What agents call on their own gateways, for the agent that holds the slot.

use std::sync::Arc;

use follower_agent::{GatewayCalls, OwnGateway};
use futures::future::BoxFuture;
use http::Method;
use serde_json::Value;
use shardline::contract::ApiError;
use shardline_common::types::IndexName;

use super::oracle::Verb;
use super::users::{Call, Followers, Heard};
use super::world::World;

pub struct Gateways {
    world: Arc<World>,
    followers: Followers,
}

struct OfCluster {
    gateways: Arc<Gateways>,
    cluster: String,
}

impl Gateways {
    pub fn new(world: &Arc<World>, followers: &Followers) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            followers: Arc::clone(followers),
        })
    }

    pub fn of(self: &Arc<Self>, cluster: &str) -> OwnGateway {
        OwnGateway::over(Arc::new(OfCluster {
            gateways: Arc::clone(self),
            cluster: cluster.to_owned(),
        }))
    }
}

impl GatewayCalls for OfCluster {
    fn call<'a>(
        &'a self,
        _: Method,
        index: &'a IndexName,
        action: &'a str,
        body: &'a Value,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let verb = match action {
            "_start" => Verb::Start,
            "_stop" => Verb::Stop,
            "_pause" => Verb::Pause,
            "_resume" => Verb::Resume,
            _ => Verb::Update,
        };
        let call = Call {
            cluster: self.cluster.clone(),
            follower: index.to_string(),
            leader: body["leader_index"].as_str().unwrap_or_default().to_owned(),
            verb,
        };
        let (world, followers) = (&self.gateways.world, &self.gateways.followers);
        let made = call.make(Arc::clone(world), Arc::clone(followers));
        Box::pin(async move {
            match made.await {
                Heard::Done => Ok(()),
                Heard::Refused(error) => Err(error),
                Heard::Nothing => Err(ApiError::status_exception(
                    http::StatusCode::SERVICE_UNAVAILABLE,
                    "the agent's own gateway does not answer",
                )),
            }
        })
    }
}
