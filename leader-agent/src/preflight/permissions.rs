//! Requests that the leader agent makes of its cluster, one for each permission that it needs.

use reqwest::Method;
use shardline_common::preflight::Permission;

pub(super) fn needed() -> Vec<Permission> {
    let get = |path| Permission::new(Method::GET, path, None);
    let post = |path, body| Permission::new(Method::POST, path, body);
    vec![
        get("/"),
        get("/_nodes/_local"),
        get("/_cluster/state/version"),
        get("/{index}"),
        get("/{index}/_stats"),
        post("/{index}/_refresh", None),
        post("/{index}/_search", Some("{\"size\": 0}")),
        post("/{index}/_search/point_in_time?keep_alive=1s", None),
        post(
            "/_mget",
            Some("{\"docs\": [{\"_index\": \"{index}\", \"_id\": \"shardline-check\"}]}"),
        ),
    ]
}
