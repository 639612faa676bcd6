#!/usr/bin/env bash
# record.sh PORT TYPE: writes the history of these samples into an index of one shard of a server on this machine. TYPE is
# `_doc`, or `doc` for Elasticsearch 6. The shard's translog folder was copied two seconds later, while the server ran.
set -euo pipefail
type=$2
index=localhost:$1/sample
call() { curl -sS -H 'Content-Type: application/json' -o /dev/null "$@"; }
call -XPUT "$index" -d '{"settings": {"number_of_shards": 1, "number_of_replicas": 0,
    "index.translog.durability": "request", "index.translog.generation_threshold_size": "1kb"}}'
call -XPUT "$index/$type/1" -d '{"n":1,"text":"first"}'
call -XPUT "$index/$type/2?routing=r%C3%B6ute" -d '{"n":2,"text":"ünïcode 😀"}'
call -XPUT "$index/$type/3" -d '{"n":3}'
call -XPUT "$index/$type/1" -d '{"n":10}'
call -XDELETE "$index/$type/3"
call -XDELETE "$index/$type/never"
call -XPUT "$index/$type/ext?version=77&version_type=external" -d '{"n":4}'
for i in $(seq 1 20); do
    printf '{"index":{"_id":"b%s"}}\n{"n":%s,"pad":"%s"}\n' "$i" "$i" "$(printf 'x%.0s' $(seq 1 50))"
done | call -XPOST "$index/$type/_bulk" --data-binary @-
call -XPUT "$index/$type/last" -d '{"n":99}'
