//! Somebody whom the security plugin knows, and what tells one caller from another.

use std::collections::BTreeSet;

use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, USER_AGENT, VIA,
};
use openssl::sha::Sha256;
use serde::Deserialize;

/// Headers that say nothing about who calls.
const OF_THE_REQUEST: [HeaderName; 10] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DATE,
    USER_AGENT,
    VIA,
];
const TRACING: [&str; 4] = ["traceparent", "tracestate", "x-opaque-id", "x-request-id"];
/// Schemes whose tickets are good for one request.
const SINGLE_USE: [&str; 2] = ["negotiate", "ntlm"];

/// What the plugin's `authinfo` says, as far as it matters here.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Caller {
    #[serde(rename = "user_name")]
    pub name: String,
    /// As the plugin shows a user in its refusals.
    #[serde(rename = "user")]
    pub shown: String,
    /// The roles that the user is mapped to.
    pub roles: BTreeSet<String>,
    /// Whether it is the user that the agents log in as: they call each other and themselves.
    #[serde(skip)]
    pub is_agent: bool,
}

/// A hash of everything that may identify a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    /// Of the headers as the cluster gets them; `None` for a login that counts once.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let scheme = |value: &http::HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            SINGLE_USE.iter().any(|scheme| text.starts_with(scheme))
        };
        if headers.get_all(AUTHORIZATION).iter().any(scheme) {
            return None;
        }
        let mut telling: Vec<(&str, &[u8])> = headers
            .iter()
            .filter(|(name, _)| !OF_THE_REQUEST.contains(name) && !TRACING.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // Stable: values of one name stay in their order, which may matter.
        telling.sort_by_key(|(name, _)| *name);
        let mut hash = Sha256::new();
        for (name, value) in telling {
            for part in [name.as_bytes(), value] {
                hash.update(&part.len().to_le_bytes());
                hash.update(part);
            }
        }
        Some(Self(hash.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(headers: &[(&'static str, &'static str)]) -> Option<Identity> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Identity::of(&map)
    }

    #[test]
    fn whatever_may_identify_a_caller_tells_them_apart() {
        let basic = ("authorization", "Basic YTpi");
        let known = identity(&[basic]);
        assert!(known.is_some());
        assert_eq!(
            identity(&[basic, ("user-agent", "x"), ("x-opaque-id", "1")]),
            known
        );
        for other in [
            identity(&[]),
            identity(&[("authorization", "Basic YTpj")]),
            identity(&[basic, ("cookie", "a=b")]),
            identity(&[basic, ("opendistro_security_impersonate_as", "other")]),
            identity(&[basic, ("securitytenant", "t")]),
            identity(&[basic, ("x-forwarded-for", "10.0.0.1")]),
            identity(&[basic, ("some-jwt-header", "e30")]),
        ] {
            assert_ne!(other, known);
        }
        // Where one value ends and another begins counts, too.
        assert_ne!(
            identity(&[("cookie", "ab"), ("cookie", "c")]),
            identity(&[("cookie", "a"), ("cookie", "bc")])
        );
    }

    #[test]
    fn a_recorded_answer_is_understood() {
        let recorded = r#"{"user":"User [name=admin, backend_roles=[admin], requestedTenant=null]",
            "user_name":"admin","user_requested_tenant":null,"remote_address":"127.0.0.1:34554",
            "backend_roles":["admin"],"custom_attribute_names":[],"roles":["all_access"],
            "tenants":{"global_tenant":true,"admin":true},"principal":null,
            "peer_certificates":"0","sso_logout_url":null}"#;
        let caller: Caller = serde_json::from_str(recorded).unwrap();
        assert_eq!(caller.name, "admin");
        assert_eq!(caller.roles, BTreeSet::from(["all_access".to_owned()]));
        let shown = "User [name=admin, backend_roles=[admin], requestedTenant=null]";
        assert_eq!(caller.shown, shown);
    }

    #[test]
    fn a_ticket_for_one_request_is_not_remembered() {
        assert_eq!(identity(&[("authorization", "Negotiate YII")]), None);
        assert_eq!(identity(&[("authorization", "NTLM TlR")]), None);
    }
}
