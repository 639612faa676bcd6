//! The way of an agent to its cluster.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use shardline_common::opensearch::{OpenSearch, Request, Transport};
use tokio::sync::oneshot;

use super::world::World;

pub struct Wire {
    world: Arc<World>,
    agent: String,
    cluster: String,
}

impl Wire {
    pub fn between(world: &Arc<World>, agent: &str, cluster: &str) -> OpenSearch {
        let wire = Self {
            world: Arc::clone(world),
            agent: agent.to_owned(),
            cluster: cluster.to_owned(),
        };
        OpenSearch::over(cluster.to_owned(), Arc::new(wire))
    }
}

impl Transport for Wire {
    /// A request that was sent takes effect whether or not anybody still waits for it.
    fn send<'a>(
        &'a self,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), String>> {
        let (method, path) = (request.method.to_string(), request.path.to_owned());
        let body = request.body.map(|(_, bytes)| bytes).unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        let fate = self.world.links().of_request(&self.agent);
        let (world, cluster) = (Arc::clone(&self.world), self.cluster.clone());
        let agent = self.agent.clone();
        if method != "GET" && fate.there.is_some() {
            world.check_sent(&agent, &cluster, &method, &path, &body);
        }
        let (sender, answer) = oneshot::channel();
        let within = request.timeout;
        tokio::spawn(async move {
            let Some(there) = fate.there else {
                return tokio::time::sleep(within).await;
            };
            tokio::time::sleep(there).await;
            world.check_effect(&agent, &cluster, &method, &path);
            let (status, mut value) =
                world.cluster(&cluster, |cluster| cluster.answer(&method, &path, &body));
            world.hide(&cluster, &mut value);
            let Some(back) = fate.back else {
                return tokio::time::sleep(within).await;
            };
            tokio::time::sleep(back).await;
            // Nobody may wait for it any more.
            let _ = sender.send((status, Bytes::from(value.to_string())));
        });
        Box::pin(async move {
            match tokio::time::timeout(within, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                _ => Err("no answer".to_owned()),
            }
        })
    }
}
