//! The gateway's server: HTTP/1.1 and HTTP/2 without TLS on one port, as OpenSearch has them, with
//! limits on what a connection may cost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::{Router, middleware};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::budget::{Budget, Limits};
use super::forwarded::Peer;
use super::inspect;
use super::media::MediaType;
use crate::http::api::query::Query;
use crate::http::api::render;
use shardline::contract::BASE;

/// How long a connection may be without a whole request head, idle ones included.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection of HTTP/2 is asked whether it is alive, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Most header fields of a request. OpenSearch limits their bytes only.
const MAX_HEADERS: usize = 1000;
/// Most bytes of a request's header fields.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Most requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 100;
/// How long to wait for more of the first bytes of a connection.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long to wait after the system refused a connection, for example for lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until cancelled; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    budget: Budget,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = router.layer(middleware::from_fn_with_state(budget.clone(), read_control));
    let server = server(budget.limits());
    let open = Arc::new(Semaphore::new(budget.limits().max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &open) => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let router = router
            .clone()
            .map_request(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request.map(Body::new)
            });
        let service = TowerToHyperService::new(router);
        let (server, watcher) = (server.clone(), graceful.watcher());
        let patience = budget.limits().head_timeout;
        let stop = stop.clone();
        tokio::spawn(async move {
            let is_spoken = tokio::select! {
                is_spoken = says_its_protocol(&stream, patience) => is_spoken,
                () = stop.cancelled() => false,
            };
            if is_spoken {
                let connection = server.serve_connection(TokioIo::new(stream), service);
                if let Err(error) = watcher.watch(connection).await {
                    debug!(%peer, error, "a connection ended early");
                }
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

fn server(limits: &Limits) -> Builder<TokioExecutor> {
    let mut server = Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(MAX_HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    server
}

/// Whether the caller sends enough, in time, to tell HTTP/1 from HTTP/2. The library waits for this
/// without a limit.
async fn says_its_protocol(stream: &TcpStream, patience: Duration) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let look = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                Ok(length) if length == PREFACE.len() => return true,
                Ok(length) if !PREFACE.starts_with(&start[..length]) => return true,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    tokio::time::timeout(patience, look).await.unwrap_or(false)
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // Never closed.
    let place = Arc::clone(open).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // A connection without it works, too.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            warn!(%error, "a connection to the gateway is not accepted");
            tokio::time::sleep(ACCEPT_RETRY).await;
            None
        }
    }
}

/// Reads the body of a control call within the budget, and unpacks it: it may go to another agent,
/// and to readers that know plain JSON alone.
async fn read_control(
    axum::extract::State(budget): axum::extract::State<Budget>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let path = request.uri().path();
    let is_settings =
        request.method() == Method::PUT && path.trim_end_matches('/') == "/_cluster/settings";
    if !(path.starts_with(BASE) || is_settings) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    if MediaType::of(&parts.headers).is_err() {
        // Refused by its reader, in its own turn.
        let mut charge = budget.open();
        return match inspect::collect(&budget, body, &mut charge).await {
            Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
            Err(error) => render::refusal(&error, &query.rendering()),
        };
    }
    match inspect::read(&budget, &parts, &query, body, false).await {
        Ok(inspected) => {
            if !inspected.is_source {
                parts.headers.remove(CONTENT_ENCODING);
                let length = HeaderValue::from(inspected.content.len());
                parts.headers.insert(CONTENT_LENGTH, length);
                if inspected.media_type != MediaType::Json {
                    let json = HeaderValue::from_static("application/json");
                    parts.headers.insert(CONTENT_TYPE, json);
                }
            }
            let body = Body::from(inspected.body());
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => render::refusal(&error, &query.rendering()),
    }
}
