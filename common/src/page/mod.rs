//! The frame of the agents' pages: what both are made of, and how it is served.
//!
//! Everything comes from the agent itself. The policy lets nothing else in, and nothing that stands
//! in the page's text: no inline script and no inline style.

mod answer;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use answer::{json, tagged};

/// A file of a page, which is part of the agent.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// As in `/page.js`.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub kind: &'static str,
    pub text: &'static str,
}

impl Asset {
    pub const fn script(path: &'static str, text: &'static str) -> Self {
        let kind = "text/javascript; charset=utf-8";
        Self { path, kind, text }
    }
}

/// What every agent's page has; `page.js`, which the frame loads, is the agent's own.
const FRAME: [Asset; 6] = [
    Asset {
        path: "/",
        kind: "text/html; charset=utf-8",
        text: include_str!("assets/index.html"),
    },
    Asset {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("assets/page.css"),
    },
    Asset {
        path: "/icon.svg",
        kind: "image/svg+xml",
        text: include_str!("assets/icon.svg"),
    },
    Asset::script("/preact.js", include_str!("assets/preact.js")),
    Asset::script("/frame.js", include_str!("assets/frame.js")),
    Asset::script("/chart.js", include_str!("assets/chart.js")),
];

/// What a browser may do with anything that the page's routes answer.
const SECURITY: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Serves the frame and an agent's own files.
pub fn router(own: &'static [Asset]) -> Router {
    let serve = |router: Router, asset: &'static Asset| {
        let answer = move |headers: HeaderMap| async move {
            tagged(&headers, asset.kind, asset.text.as_bytes().to_vec())
        };
        router.route(asset.path, get(answer))
    };
    FRAME.iter().chain(own).fold(Router::new(), serve)
}

/// Puts the headers on an answer without which no browser gets one of a page's routes.
pub fn secured(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    for (name, value) in SECURITY {
        let value = axum::http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy would keep them from being run, and they would be missed.
    #[test]
    fn nothing_stands_in_the_text_that_the_policy_forbids() {
        let index = FRAME[0].text;
        assert!(
            !index.contains("style=") && !index.contains("<style"),
            "{index}"
        );
        assert_eq!(index.matches("<script").count(), 1);
        assert!(index.contains(r#"<script type="module" src="page.js"></script>"#));
        for asset in FRAME {
            let is_elsewhere = asset.text.contains("//cdn") || asset.text.contains("import(\"http");
            assert!(!is_elsewhere, "{}", asset.path);
        }
    }
}
