//! The command line is built without what only agents need.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn neither_kafka_nor_rocksdb_nor_a_server_is_built_in() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "shardline"])
        .args(["-e", "normal,build", "--prefix", "none"])
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        tree.contains("shardline-common"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for heavy in [
        "rocksdb",
        "librocksdb-sys",
        "rdkafka",
        "rdkafka-sys",
        "axum",
    ] {
        let found = tree
            .lines()
            .find(|line| line.split(' ').next() == Some(heavy));
        assert_eq!(found, None, "{heavy} is built in");
    }
}
