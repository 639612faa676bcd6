//! Calls of the control API from the page: questions always, and what changes something only where
//! the configuration wants it and the request is the page's own.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Method, StatusCode, Uri};
use shardline::contract::{ApiError, BASE};
use tower::ServiceExt as _;

use crate::http::api::query::Query;
use crate::http::api::render;

/// Where the control API lies on the page's own address.
pub(super) const PREFIX: &str = "/page/api";
/// No other site's page can send it without asking first, and the answer to that is no.
const PAGES_OWN: HeaderName = HeaderName::from_static("x-shardline-page");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const OPAQUE_ID: HeaderName = HeaderName::from_static("x-opaque-id");
/// What goes on to the control API of a request's headers.
const PASSED: [HeaderName; 4] = [ACCEPT, AUTHORIZATION, CONTENT_TYPE, OPAQUE_ID];

/// Whose requests may change something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actions {
    /// Whether any may.
    pub is_on: bool,
    /// Names by which the page is reached, beside addresses and the machine's own.
    pub hosts: Vec<String>,
}

impl Actions {
    fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        if !self.is_on {
            return Err("the page only shows: admin.actions is not set");
        }
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if text(&PAGES_OWN) != Some("1") {
            return Err("the request is not the page's own: it lacks x-shardline-page");
        }
        let host = text(&HOST).unwrap_or_default();
        if !self.knows(host) {
            return Err("the page is not known by this name: add it to admin.hosts");
        }
        let is_same = |origin: &str| {
            let known = origin.split_once("://").map(|(_, host)| host);
            known.is_some_and(|known| known.eq_ignore_ascii_case(host))
        };
        if !text(&ORIGIN).is_none_or(is_same) {
            return Err("the request comes from another site");
        }
        match text(&FETCH_SITE) {
            None | Some("same-origin") => Ok(()),
            Some(_) => Err("the request comes from another site"),
        }
    }

    /// Whether a `Host` is this page's. A name that somebody else has made to mean this machine
    /// would make their pages this page's own.
    fn knows(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<http::uri::Authority>() else {
            return false;
        };
        let name = authority.host();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<std::net::IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Passes a call on to the gateway's own router, or says why not.
pub(super) async fn call(actions: &Actions, gateway: &Router, request: Request) -> Response {
    match own(actions, request) {
        Ok(request) => match gateway.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err((status, reason)) => {
            let error = ApiError::status_exception(status, reason);
            render::refusal(&error, &Query::parse(None).rendering())
        }
    }
}

/// The request as the control API gets it.
fn own(actions: &Actions, request: Request) -> Result<Request, (StatusCode, &'static str)> {
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let target = target.strip_prefix(PREFIX).unwrap_or_default();
    if !target.starts_with(BASE) {
        return Err((StatusCode::NOT_FOUND, "no call of the control API"));
    }
    if parts.method != Method::GET {
        let checked = actions.check(&parts.headers);
        checked.map_err(|reason| (StatusCode::FORBIDDEN, reason))?;
    }
    let bad = |_| (StatusCode::BAD_REQUEST, "no path of the control API");
    let mut passed = Request::new(body);
    *passed.method_mut() = parts.method;
    *passed.uri_mut() = target.parse::<Uri>().map_err(bad)?;
    for name in PASSED {
        for value in parts.headers.get_all(&name) {
            passed.headers_mut().append(&name, value.clone());
        }
    }
    Ok(passed.map(Body::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        };
        headers.iter().map(pair).collect()
    }

    #[test]
    fn only_the_page_itself_changes_something() {
        let on = Actions {
            is_on: true,
            hosts: vec!["shardline.example".to_owned()],
        };
        let own = ("x-shardline-page", "1");
        for (headers, is_allowed) in [
            (vec![own, ("host", "127.0.0.1:9602")], true),
            (vec![own, ("host", "[::1]:9602")], true),
            (vec![own, ("host", "localhost:9602")], true),
            (vec![own, ("host", "shardline.example")], true),
            (vec![("host", "127.0.0.1:9602")], false),
            (vec![own], false),
            // A name that was made to mean this machine, with a page of its own behind it.
            (
                vec![
                    own,
                    ("host", "evil.example"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
            (
                vec![own, ("host", "127.0.0.1"), ("origin", "http://127.0.0.1")],
                true,
            ),
            (
                vec![
                    own,
                    ("host", "127.0.0.1"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
            (vec![own, ("host", "127.0.0.1"), ("origin", "null")], false),
            (
                vec![own, ("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            (
                vec![own, ("host", "127.0.0.1"), ("sec-fetch-site", "same-site")],
                false,
            ),
            (
                vec![
                    own,
                    ("host", "127.0.0.1"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
        ] {
            let headers = request(&headers);
            assert_eq!(on.check(&headers).is_ok(), is_allowed, "{headers:?}");
            assert!(Actions::default().check(&headers).is_err());
        }
    }

    #[test]
    fn nothing_but_the_control_api_is_reached() {
        let on = Actions {
            is_on: true,
            hosts: Vec::new(),
        };
        let passes = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path);
            own(&on, request.body(Body::empty()).unwrap()).map(|passed| passed.uri().to_string())
        };
        let status = "/page/api/_plugins/_replication/a%2Fb/_status?verbose";
        let passed = "/_plugins/_replication/a%2Fb/_status?verbose";
        assert_eq!(passes("GET", status).ok().as_deref(), Some(passed));
        assert!(passes("GET", "/page/api/books/_search").is_err());
        assert!(passes("GET", "/page/api/").is_err());
        assert!(passes("POST", "/page/api/_plugins/_replication/a/_stop").is_err());
        assert!(passes("HEAD", status).is_err());
    }
}
