//! Requests that the follower agent makes of its cluster, one for each permission that it needs.

use reqwest::Method;
use shardline_common::opensearch::path_segment;
use shardline_common::preflight::Permission;

const ALIASES: &str =
    "{\"actions\": [{\"add\": {\"index\": \"{index}\", \"alias\": \"shardline-check\"}}]}";
const BULK: &str = "{\"index\": {\"_index\": \"{index}\", \"_id\": \"shardline-check\"}}\n{}\n";
const MGET: &str = "{\"docs\": [{\"_index\": \"{index}\", \"_id\": \"shardline-check\"}]}";
const TEMPLATE: &str = "{\"index_patterns\": [\"shardline-check\"]}";

/// `repository` is the one through which indices are copied.
pub(super) fn needed(repository: Option<&str>) -> Vec<Permission> {
    let get = |path: &str| Permission::new(Method::GET, path, None);
    let post = |path: &str, body| Permission::new(Method::POST, path, body);
    let put = |path: &str, body| Permission::new(Method::PUT, path, body);
    let mut needed = vec![
        get("/"),
        get("/_cluster/state/version"),
        get("/_alias/*"),
        post("/_index_template/_simulate", Some(TEMPLATE)),
        post("/_bulk", Some(BULK)),
        post("/_mget", Some(MGET)),
        post("/_aliases", Some(ALIASES)),
        put("/{index}", Some("{}")),
        get("/{index}"),
        get("/{index}/_settings"),
        get("/{index}/_alias"),
        get("/{index}/_stats"),
        put("/{index}/_mapping", Some("{\"properties\": {}}")),
        put(
            "/{index}/_settings",
            Some("{\"index.refresh_interval\": \"1s\"}"),
        ),
        post("/{index}/_open", None),
        post("/{index}/_refresh", None),
        post("/{index}/_search", Some("{\"size\": 0}")),
        post("/{index}/_search/point_in_time?keep_alive=1s", None),
        put("/{index}/_doc/shardline-check", Some("{}")),
        Permission::destroying(Method::DELETE, "/{index}/_doc/shardline-check"),
        Permission::destroying(Method::POST, "/{index}/_close"),
        Permission::destroying(Method::DELETE, "/{index}"),
    ];
    if let Some(repository) = repository {
        let repository = path_segment(repository);
        needed.push(post(&format!("/_snapshot/{repository}/_verify"), None));
        needed.push(post(
            &format!("/_snapshot/{repository}/shardline-check/_restore"),
            None,
        ));
        needed.push(get("/{index}/_recovery"));
    }
    needed
}
