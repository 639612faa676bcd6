//! What the guard of the gateway lets a caller of the page see.

use std::sync::Arc;

use axum::response::Response;
use futures::future::{BoxFuture, FutureExt as _};
use http::request::Parts;

use super::{Sight, View};
use crate::http::api::query::Query;
use crate::http::gateway::Guard;

/// Callers see what they may see through the gateway.
pub(crate) struct Guarded(pub Arc<Guard>);

impl Sight for Guarded {
    fn of<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<View, Response>> {
        async move {
            let guard = Arc::clone(&self.0);
            let caller = match guard.login(parts).await {
                Ok(caller) => caller,
                Err(refused) => {
                    return Err(refused.into_response(&Query::parse(None).rendering()));
                }
            };
            let sees_cluster = guard.shows_all(caller.as_ref());
            Ok(View {
                shows: Box::new(move |index| guard.shows(caller.as_ref(), index.as_str())),
                sees_cluster,
            })
        }
        .boxed()
    }
}
