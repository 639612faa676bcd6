//! What a request is, from its method, path and parameters alone.
//!
//! The route is looked up as OpenSearch's own router does, on the path as it was sent. Where more
//! than one route fits, the gateway takes the one that can do most.

use http::Method;

use super::route_table::ROUTES;
use crate::http::api::query::{Query, decode_component};

/// What a route can do to a followed index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// It reads, or writes to nothing that is an index, or is allowed on a read-only index.
    Nothing,
    ReadClusterSettings,
    WriteClusterSettings,
    /// It writes to what an index expression names.
    Write(Scope),
    /// It makes the index that the path names.
    Create,
    /// It makes the index `{target}` of another one.
    Resize,
    /// It makes an index, and changes an alias or data stream.
    Rollover,
    /// Documents for several indices, each named in the body or by default.
    Bulk,
    /// One alias; the body may name another index than the path.
    PutAlias,
    RemoveAlias,
    /// A list of alias actions in the body.
    Aliases,
    /// It copies documents into the index that the body names.
    Reindex,
    UpdateByQuery,
    DeleteByQuery,
    DeleteDataStreams,
    ModifyDataStreams,
    RestoreSnapshot,
    RestoreRemote,
    /// Shard allocation by hand, which can throw a shard's documents away.
    Reroute,
    /// A statement in the body, which may be a `DELETE`.
    Sql,
}

/// What a name in an index expression may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// An index, or an alias for its write index.
    WriteIndex,
    /// Indices, and aliases and data streams for all their members.
    Members,
    /// Indices only; OpenSearch refuses an alias itself.
    Concrete,
}

impl Touch {
    /// How much it can do, to choose among several that fit.
    fn severity(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::ReadClusterSettings => 1,
            Self::Create | Self::Resize => 2,
            Self::Write(_) => 4,
            _ => 3,
        }
    }
}

/// A request as its route reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routed {
    pub touch: Touch,
    /// The index expression of the path, else of the parameter `index`; `None` without either.
    pub index: Option<String>,
    /// The path's other parameter: an alias, a data stream, or an index to be made.
    pub name: Option<String>,
}

impl Routed {
    fn nothing() -> Self {
        Self {
            touch: Touch::Nothing,
            index: None,
            name: None,
        }
    }

    /// The index expression; without one every index is meant.
    pub(super) fn expression(&self) -> &str {
        self.index.as_deref().unwrap_or_default()
    }
}

/// Looks up the route of a request. What has an index expression but no route that is known counts
/// as a write to it.
pub(super) fn route(method: &Method, segments: &[&str], query: &Query) -> Routed {
    if [Method::HEAD, Method::OPTIONS].contains(method) {
        return Routed::nothing();
    }
    let fitting = ROUTES
        .iter()
        .filter(|(methods, _, _)| methods.split(' ').any(|known| known == method.as_str()))
        .filter_map(|(_, path, touch)| Some((*touch, parameters(path, segments)?)))
        .filter(|(_, parameters)| !names_no_index(parameters))
        .max_by_key(|(touch, parameters)| (touch.severity(), std::cmp::Reverse(parameters.len())));
    match fitting {
        Some((touch, parameters)) => with_parameters(touch, &parameters, query),
        None if *method == Method::GET => Routed::nothing(),
        None => unknown(segments),
    }
}

type Parameters<'a> = Vec<(&'static str, &'a str)>;

/// The parameters of a path that fits the template.
fn parameters<'a>(template: &'static str, segments: &[&'a str]) -> Option<Parameters<'a>> {
    let mut parameters = Vec::new();
    let mut expected = template.split('/').skip(1).filter(|part| !part.is_empty());
    for segment in segments {
        let part = expected.next()?;
        match part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        {
            Some(name) => parameters.push((name, *segment)),
            None if part == *segment => {}
            None => return None,
        }
    }
    expected.next().is_none().then_some(parameters)
}

/// A single name that starts with an underscore is no index, and OpenSearch refuses it.
fn names_no_index(parameters: &Parameters<'_>) -> bool {
    parameters
        .iter()
        .filter(|(name, _)| *name == "index")
        .any(|(_, raw)| !is_index_expression(raw))
}

fn is_index_expression(raw: &str) -> bool {
    let expression = decode_component(raw);
    !expression.starts_with('_') || expression == "_all" || expression.contains(',')
}

fn with_parameters(touch: Touch, parameters: &Parameters<'_>, query: &Query) -> Routed {
    let decoded = |wanted: fn(&str) -> bool| {
        parameters
            .iter()
            .find(|(name, _)| wanted(name))
            .map(|(_, raw)| decode_component(raw))
    };
    // OpenSearch reads what the path lacks from the query string.
    let index = decoded(|name| name == "index").or_else(|| query.get("index").map(str::to_owned));
    let name = decoded(|name| ["name", "target", "new_index"].contains(&name)).or_else(|| {
        let parameter = match touch {
            Touch::Rollover => "new_index",
            _ => "name",
        };
        query.get(parameter).map(str::to_owned)
    });
    Routed { touch, index, name }
}

fn unknown(segments: &[&str]) -> Routed {
    let first = segments.first().copied();
    match first.filter(|first| is_index_expression(first)) {
        Some(first) => Routed {
            touch: Touch::Write(Scope::Members),
            index: Some(decode_component(first)),
            name: None,
        },
        None => Routed::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, uri: &str) -> Routed {
        let (path, raw_query) = uri
            .split_once('?')
            .map_or((uri, None), |(path, query)| (path, Some(query)));
        let segments = super::super::paths::segments(path).unwrap();
        route(
            &method.parse().unwrap(),
            &segments,
            &Query::parse(raw_query),
        )
    }

    #[test]
    fn writes_are_told_by_their_route() {
        use Scope::{Concrete, Members, WriteIndex};
        for (method, uri, index, scope) in [
            ("PUT", "/f/_doc/1", Some("f"), WriteIndex),
            ("POST", "/f/_doc", Some("f"), WriteIndex),
            ("DELETE", "/f/_doc/1", Some("f"), WriteIndex),
            ("PUT", "/f/_create/1", Some("f"), WriteIndex),
            ("POST", "/f/_update/1", Some("f"), WriteIndex),
            ("POST", "/%66/_doc/1", Some("f"), WriteIndex),
            ("PUT", "/f/_mapping", Some("f"), Members),
            ("POST", "/f/_mappings", Some("f"), Members),
            ("PUT", "/f/_settings", Some("f"), Members),
            ("PUT", "/views/_settings", Some("views"), Members),
            ("PUT", "/_settings", None, Members),
            ("PUT", "/_settings?index=f", Some("f"), Members),
            ("PUT", "//_settings?index=own", Some(""), Members),
            ("PUT", "/,/_mapping", Some(","), Members),
            ("POST", "/f,g*/_close", Some("f,g*"), Members),
            ("POST", "/_all/_open", Some("_all"), Members),
            ("POST", "/%5Fall/_open", Some("_all"), Members),
            ("POST", "/_all,f/_open", Some("_all,f"), Members),
            ("POST", "/_x%2Cf/_open", Some("_x,f"), Members),
            ("PUT", "/f/_block/write", Some("f"), Members),
            ("POST", "/f/_forcemerge", Some("f"), Members),
            ("POST", "/_forcemerge", None, Members),
            ("POST", "/f/_upgrade", Some("f"), Members),
            ("POST", "/f/_something_new", Some("f"), Members),
            ("POST", "/f/%5Fdoc/1", Some("f"), Members),
            ("DELETE", "/f", Some("f"), Concrete),
            ("DELETE", "/*", Some("*"), Concrete),
            ("DELETE", "/_all", Some("_all"), Concrete),
            ("DELETE", "//", None, Concrete),
        ] {
            let found = routed(method, uri);
            assert_eq!(found.touch, Touch::Write(scope), "{method} {uri}");
            assert_eq!(found.index.as_deref(), index, "{method} {uri}");
        }
    }

    #[test]
    fn reads_pass_whatever_their_method() {
        for (method, uri) in [
            ("GET", "/f/_doc/1"),
            ("HEAD", "/f"),
            ("GET", "/_bulk"),
            ("OPTIONS", "/f/_doc/1"),
            ("POST", "/f/_search"),
            ("POST", "/f/_search/point_in_time"),
            ("DELETE", "/_search/scroll"),
            ("POST", "/_msearch"),
            ("POST", "/f/_count"),
            ("POST", "/f/_cache/clear"),
            ("POST", "/f/_validate/query"),
            ("POST", "/f/_refresh"),
            ("POST", "/f/_flush"),
            ("PUT", "/_index_template/t"),
            ("POST", "/_delete_by_query/n:1/_rethrottle"),
            ("PATCH", "/_plugins/_security/api/roles"),
            ("POST", "/"),
        ] {
            assert_eq!(routed(method, uri).touch, Touch::Nothing, "{method} {uri}");
        }
    }

    type Case = (
        &'static str,
        &'static str,
        Touch,
        Option<String>,
        Option<String>,
    );

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn expect_all<const CASES: usize>(cases: [Case; CASES]) {
        for (method, uri, touch, index, name) in cases {
            let expected = Routed { touch, index, name };
            assert_eq!(routed(method, uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_a_body_decides_is_told_apart() {
        expect_all([
            ("POST", "/_bulk", Touch::Bulk, None, None),
            ("PUT", "/_bulk?index=f", Touch::Bulk, text("f"), None),
            ("POST", "/f/_bulk?index=g", Touch::Bulk, text("f"), None),
            ("PUT", "/f/_bulk/stream", Touch::Bulk, text("f"), None),
            ("POST", "/f/_alias/a", Touch::PutAlias, text("f"), text("a")),
            (
                "PUT",
                "/f/_aliases/a",
                Touch::PutAlias,
                text("f"),
                text("a"),
            ),
            ("PUT", "/_alias/a", Touch::PutAlias, None, text("a")),
            (
                "DELETE",
                "/f/_alias/a",
                Touch::RemoveAlias,
                text("f"),
                text("a"),
            ),
            ("POST", "/_aliases", Touch::Aliases, None, None),
            ("POST", "/_reindex", Touch::Reindex, None, None),
        ]);
    }

    #[test]
    fn what_a_second_name_decides_is_told_apart() {
        expect_all([
            ("PUT", "/f", Touch::Create, text("f"), None),
            ("PUT", "/o/_clone/f", Touch::Resize, text("o"), text("f")),
            (
                "POST",
                "/a/_rollover/f",
                Touch::Rollover,
                text("a"),
                text("f"),
            ),
            (
                "POST",
                "/a/_rollover?new_index=f",
                Touch::Rollover,
                text("a"),
                text("f"),
            ),
            (
                "DELETE",
                "/_data_stream/d",
                Touch::DeleteDataStreams,
                None,
                text("d"),
            ),
            (
                "POST",
                "/_data_stream/_modify",
                Touch::ModifyDataStreams,
                None,
                None,
            ),
            (
                "POST",
                "/_snapshot/r/s/_restore",
                Touch::RestoreSnapshot,
                None,
                None,
            ),
            (
                "POST",
                "/f/_update_by_query",
                Touch::UpdateByQuery,
                text("f"),
                None,
            ),
            (
                "POST",
                "//_delete_by_query",
                Touch::DeleteByQuery,
                text(""),
                None,
            ),
            (
                "PUT",
                "/_cluster/settings",
                Touch::WriteClusterSettings,
                None,
                None,
            ),
            (
                "GET",
                "/_cluster/settings",
                Touch::ReadClusterSettings,
                None,
                None,
            ),
        ]);
    }
}
