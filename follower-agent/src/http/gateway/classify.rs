//! What a request is, from its method, path and parameters alone: to be passed, answered, judged or
//! inspected.

use http::Method;

use crate::http::api::query::Query;

/// What the gateway does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// A route of the control API, answered here.
    Control,
    /// Nothing that could write to a followed index.
    Pass,
    ReadClusterSettings,
    WriteClusterSettings,
    /// A write to what an index expression names.
    Write(Target),
    /// Documents for several indices, each named in the body or by default.
    Bulk {
        default_index: Option<String>,
    },
    /// One alias; the body may name another index than the path.
    PutAlias {
        expression: Option<String>,
    },
    /// A list of alias actions in the body.
    UpdateAliases,
    /// Copies documents into the index that the body names.
    Reindex,
    ByQuery {
        expression: String,
        operation: ByQueryOperation,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub expression: String,
    pub scope: Scope,
}

/// What a name in an index expression may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// An index, or an alias for its write index.
    WriteIndex,
    /// Indices, and aliases for all their members.
    Members,
    /// Indices only; OpenSearch refuses an alias itself.
    Concrete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByQueryOperation {
    Update,
    Delete,
    Reindex,
}

const ALL: &str = "_all";

/// Calls with a writing method that only read, or that a replication block allows. Everything else
/// that names an index and is not known counts as a write.
const HARMLESS: &[&str] = &[
    "_search",
    "_msearch",
    "_count",
    "_mget",
    "_refresh",
    "_flush",
    "_cache",
    "_analyze",
    "_validate",
    "_explain",
    "_termvectors",
    "_mtermvectors",
    "_field_caps",
    "_rank_eval",
    "_search_shards",
    "_pit",
    "_stats",
    "_segments",
    "_recovery",
    "_graph",
    "_shrink",
    "_split",
    "_clone",
];

/// Decides from decoded path segments; parameters matter where OpenSearch takes `index` from them.
pub(crate) fn classify(method: &Method, segments: &[String], query: &Query) -> RequestKind {
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let ["_plugins", "_replication", ..] = path.as_slice() {
        return RequestKind::Control;
    }
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return match path.as_slice() {
            ["_cluster", "settings"] if *method == Method::GET => RequestKind::ReadClusterSettings,
            _ => RequestKind::Pass,
        };
    }
    match path.split_first() {
        Some((first, rest)) if is_index_expression(first) => of_index(method, first, rest),
        _ => of_cluster(method, &path, query),
    }
}

/// Whether the first segment names indices rather than an API.
fn is_index_expression(segment: &str) -> bool {
    !segment.starts_with('_') || segment == ALL || segment.contains(',')
}

fn of_index(method: &Method, expression: &str, rest: &[&str]) -> RequestKind {
    let write = |scope| {
        RequestKind::Write(Target {
            expression: expression.to_owned(),
            scope,
        })
    };
    let by_query = |operation| RequestKind::ByQuery {
        expression: expression.to_owned(),
        operation,
    };
    let Some(verb) = rest.first() else {
        // PUT creates an index, and fails by itself where there is one.
        return if *method == Method::DELETE {
            write(Scope::Concrete)
        } else {
            RequestKind::Pass
        };
    };
    match *verb {
        "_doc" | "_create" | "_update" | "_rollover" => write(Scope::WriteIndex),
        "_bulk" => RequestKind::Bulk {
            default_index: Some(expression.to_owned()),
        },
        "_alias" | "_aliases" if *method != Method::DELETE => RequestKind::PutAlias {
            expression: Some(expression.to_owned()),
        },
        "_update_by_query" => by_query(ByQueryOperation::Update),
        "_delete_by_query" => by_query(ByQueryOperation::Delete),
        verb if HARMLESS.contains(&verb) => RequestKind::Pass,
        // Mappings, settings, close, open, block, force-merge, upgrade, and what a later OpenSearch
        // may bring.
        _ => write(Scope::Members),
    }
}

fn of_cluster(method: &Method, path: &[&str], query: &Query) -> RequestKind {
    // OpenSearch reads `index` from the query string where the path has none.
    let index = query.get("index").map(str::to_owned);
    let all = |scope| {
        RequestKind::Write(Target {
            expression: index.clone().unwrap_or_else(|| ALL.to_owned()),
            scope,
        })
    };
    match path {
        [] if *method == Method::DELETE => all(Scope::Concrete),
        ["_bulk", ..] => RequestKind::Bulk {
            default_index: index,
        },
        ["_aliases"] if *method == Method::POST => RequestKind::UpdateAliases,
        ["_alias" | "_aliases", ..] => RequestKind::PutAlias { expression: index },
        ["_reindex"] => RequestKind::Reindex,
        ["_cluster", "settings"] if *method == Method::PUT => RequestKind::WriteClusterSettings,
        [
            "_settings" | "_mapping" | "_mappings" | "_close" | "_open" | "_forcemerge"
            | "_upgrade",
        ] => all(Scope::Members),
        _ => RequestKind::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(method: &Method, uri: &str) -> RequestKind {
        let (path, raw_query) = uri
            .split_once('?')
            .map_or((uri, None), |(path, query)| (path, Some(query)));
        let segments = super::super::paths::segments(path).unwrap();
        classify(method, &segments, &Query::parse(raw_query))
    }

    #[test]
    fn writes_are_told_by_their_path() {
        use Scope::{Concrete, Members, WriteIndex};
        for (method, uri, expression, scope) in [
            ("PUT", "/f/_doc/1", "f", WriteIndex),
            ("POST", "/f/_doc", "f", WriteIndex),
            ("DELETE", "/f/_doc/1", "f", WriteIndex),
            ("PUT", "/f/_create/1", "f", WriteIndex),
            ("POST", "/f/_update/1", "f", WriteIndex),
            ("POST", "/%66/%5Fdoc/1", "f", WriteIndex),
            ("POST", "/al/_rollover/new", "al", WriteIndex),
            ("PUT", "/f/_mapping", "f", Members),
            ("POST", "/f/_mappings", "f", Members),
            ("PUT", "/f/_settings", "f", Members),
            ("PUT", "/_settings", "_all", Members),
            ("PUT", "/_settings?index=f", "f", Members),
            ("POST", "/f,g*/_close", "f,g*", Members),
            ("POST", "/_all/_open", "_all", Members),
            ("POST", "/_all,f/_open", "_all,f", Members),
            ("PUT", "/f/_block/write", "f", Members),
            ("POST", "/f/_forcemerge", "f", Members),
            ("POST", "/_forcemerge", "_all", Members),
            ("POST", "/f/_upgrade", "f", Members),
            ("DELETE", "/f/_alias/a", "f", Members),
            ("POST", "/f/_something_new", "f", Members),
            ("DELETE", "/f", "f", Concrete),
            ("DELETE", "/*", "*", Concrete),
            ("DELETE", "/_all", "_all", Concrete),
        ] {
            let expected = RequestKind::Write(Target {
                expression: expression.to_owned(),
                scope,
            });
            assert_eq!(
                kind_of(&method.parse().unwrap(), uri),
                expected,
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn reads_pass_whatever_their_method() {
        for (method, uri) in [
            ("GET", "/f/_doc/1"),
            ("HEAD", "/f"),
            ("GET", "/_bulk"),
            ("OPTIONS", "/f/_doc/1"),
            ("PUT", "/f"),
            ("POST", "/f/_search"),
            ("POST", "/f/_search/point_in_time"),
            ("DELETE", "/_search/scroll"),
            ("POST", "/_msearch"),
            ("POST", "/f/_count"),
            ("POST", "/f/_cache/clear"),
            ("POST", "/f/_validate/query"),
            ("POST", "/f/_refresh"),
            ("POST", "/f/_flush"),
            ("PUT", "/f/_clone/g"),
            ("POST", "/f/_split/g"),
            ("PUT", "/_index_template/t"),
            ("POST", "/_delete_by_query/n:1/_rethrottle"),
            ("PATCH", "/_plugins/_security/api/roles"),
            ("POST", "/"),
        ] {
            assert_eq!(
                kind_of(&method.parse().unwrap(), uri),
                RequestKind::Pass,
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn bodies_that_name_indices_are_inspected() {
        let bulk = |index: Option<&str>| RequestKind::Bulk {
            default_index: index.map(str::to_owned),
        };
        let alias = |index: Option<&str>| RequestKind::PutAlias {
            expression: index.map(str::to_owned),
        };
        let by_query = |operation| RequestKind::ByQuery {
            expression: "f".to_owned(),
            operation,
        };
        for (method, uri, expected) in [
            ("POST", "/_bulk", bulk(None)),
            ("PUT", "/_bulk?index=f", bulk(Some("f"))),
            ("POST", "/f/_bulk?index=g", bulk(Some("f"))),
            ("PUT", "/f/_bulk/stream", bulk(Some("f"))),
            ("POST", "/f/_alias/a", alias(Some("f"))),
            ("PUT", "/f/_aliases/a", alias(Some("f"))),
            ("PUT", "/_alias/a", alias(None)),
            ("POST", "/_aliases", RequestKind::UpdateAliases),
            ("POST", "/_reindex", RequestKind::Reindex),
            (
                "POST",
                "/f/_update_by_query",
                by_query(ByQueryOperation::Update),
            ),
            (
                "POST",
                "/f/_delete_by_query",
                by_query(ByQueryOperation::Delete),
            ),
            (
                "PUT",
                "/_cluster/settings",
                RequestKind::WriteClusterSettings,
            ),
            (
                "GET",
                "/_cluster/settings",
                RequestKind::ReadClusterSettings,
            ),
            (
                "GET",
                "/_plugins/_replication/f/_status",
                RequestKind::Control,
            ),
            (
                "HEAD",
                "/_plugins/_replication/f/_status",
                RequestKind::Control,
            ),
        ] {
            assert_eq!(
                kind_of(&method.parse().unwrap(), uri),
                expected,
                "{method} {uri}"
            );
        }
    }
}
