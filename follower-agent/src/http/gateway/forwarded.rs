//! Headers of a request on its way to the follower cluster.
//!
//! Whom a request comes from is said by the gateway alone: a cluster that trusts the gateway as a
//! proxy takes `X-Forwarded-For` and `x-proxy-user` for the truth.

use std::net::SocketAddr;

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Headers that belong to one connection. `Expect` too: this server has answered it already.
const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];
/// What a proxy says of its caller.
const OF_PROXIES: [&str; 2] = ["x-forwarded-", "x-proxy-"];
const PSEUDONYM: &str = "shardline";

/// The address that a connection comes from, kept with each of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

/// `headers` of a request, its own or changed ones, as the follower cluster is to see them.
pub(super) fn to_cluster(headers: &HeaderMap, parts: &Parts) -> HeaderMap {
    let mut kept = end_to_end(headers);
    let spoken_for: Vec<HeaderName> = kept
        .keys()
        .filter(|name| is_of_a_proxy(name))
        .cloned()
        .collect();
    for name in spoken_for {
        kept.remove(name);
    }
    if let Some(Peer(address)) = parts.extensions.get::<Peer>()
        && let Ok(address) = HeaderValue::try_from(address.ip().to_canonical().to_string())
    {
        kept.insert(X_FORWARDED_FOR, address);
    }
    let version = match parts.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    if let Ok(via) = HeaderValue::try_from(format!("{version} {PSEUDONYM}")) {
        kept.append(VIA, via);
    }
    kept
}

fn is_of_a_proxy(name: &HeaderName) -> bool {
    let has_prefix = |prefix: &&str| name.as_str().starts_with(*prefix);
    *name == FORWARDED || *name == X_REAL_IP || OF_PROXIES.iter().any(has_prefix)
}

/// Headers without those of the connection, or named by it, and without `Host`.
pub(super) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if *name != HOST && !HOP_BY_HOP.contains(name) && !named.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_do_not_say_who_they_are() {
        let mut request = http::Request::get("/")
            .header("host", "gateway")
            .header("x-forwarded-for", "10.9.9.9")
            .header("X-Forwarded-Proto", "https")
            .header("x-proxy-user", "admin")
            .header("x-proxy-roles", "admin")
            .header("x-real-ip", "10.9.9.9")
            .header("forwarded", "for=10.9.9.9")
            .header("via", "1.1 mine")
            .header("x-opaque-id", "me")
            .header("authorization", "Basic abc")
            .header("connection", "x-mine, authorization-not")
            .header("x-mine", "1")
            .body(())
            .unwrap();
        let peer: SocketAddr = "[::ffff:192.0.2.7]:555".parse().unwrap();
        request.extensions_mut().insert(Peer(peer));
        let (parts, ()) = request.into_parts();
        let sent = to_cluster(&parts.headers, &parts);
        let mut found: Vec<String> = sent
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        found.sort();
        let expected = [
            "authorization: Basic abc",
            "via: 1.1 mine",
            "via: 1.1 shardline",
            "x-forwarded-for: 192.0.2.7",
            "x-opaque-id: me",
        ];
        assert_eq!(found, expected);
    }
}
