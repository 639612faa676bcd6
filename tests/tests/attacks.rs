//! The attacks of `follower-agent/tests/data/attacks.tsv` against a running pair, judged by what
//! both clusters hold before and after each class of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::World;

const TABLE: &str = include_str!("../../follower-agent/tests/data/attacks.tsv");
const FOLLOWED: [&str; 3] = ["books", "events", "hidden"];
const PATIENCE: Duration = Duration::from_secs(60);

struct Attack {
    class: &'static str,
    request: &'static str,
    header: &'static str,
    body: String,
}

fn table() -> Result<Vec<Attack>> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let columns: Vec<&'static str> = line.split('\t').collect();
        let [class, request, header, body, _] = columns[..] else {
            anyhow::bail!("not five columns: {line}");
        };
        let body = body
            .replace("\\\\", "\0")
            .replace("\\r", "\r")
            .replace("\\n", "\n")
            .replace('\0', "\\");
        Ok(Attack {
            class,
            request,
            header,
            body,
        })
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_changes_a_followed_index() -> Result<()> {
    let world = World::start().await?;
    prepare(&world).await?;
    let attacks = table()?;
    let mut classes: Vec<&str> = attacks.iter().map(|attack| attack.class).collect();
    classes.dedup();
    let before = picture(&world).await?;
    for class in classes {
        for attack in attacks.iter().filter(|attack| attack.class == class) {
            send(&world, attack).await?;
        }
        let after = picture(&world).await?;
        ensure!(before == after, "{class}: {before:#}\nbecame\n{after:#}");
    }
    aliases_are_refused_from_the_start(&world).await?;
    world.stop().await
}

/// Three followed indices, and what makes them reachable by other names.
async fn prepare(world: &World) -> Result<()> {
    let date = json!({"properties": {"@timestamp": {"type": "date"}}});
    for index in FOLLOWED {
        let settings = json!({"number_of_replicas": 0, "hidden": index == "hidden"});
        let body = json!({"settings": settings, "mappings": date});
        world
            .leader
            .ok("PUT", &format!("/{index}"), Some(&body))
            .await?;
        for id in 1..=5 {
            let document = json!({"n": id, "@timestamp": "2026-01-01T00:00:00Z"});
            let path = format!("/{index}/_doc/{id}?refresh=true");
            world.leader.ok("PUT", &path, Some(&document)).await?;
        }
    }
    let alias = json!({"actions": [{"add": {"index": "books", "alias": "theirs"}}]});
    world.leader.ok("POST", "/_aliases", Some(&alias)).await?;
    for index in FOLLOWED {
        world.follow(index, index).await?;
        wait::caught_up(&world.leader, index, &world.gateway, index, PATIENCE).await?;
    }
    // Past the gateway, as an administrator of the cluster might.
    let cluster = &world.follower;
    for index in ["own", "own2"] {
        let settings = json!({"settings": {"number_of_replicas": 0}});
        cluster
            .ok("PUT", &format!("/{index}"), Some(&settings))
            .await?;
        let path = format!("/{index}/_doc/1?refresh=true");
        cluster.ok("PUT", &path, Some(&json!({"n": 1}))).await?;
    }
    let template = json!({
        "index_patterns": ["stream*"], "data_stream": {}, "priority": 500,
        "template": {"settings": {"number_of_replicas": 0}},
    });
    cluster
        .ok("PUT", "/_index_template/stream", Some(&template))
        .await?;
    cluster.ok("PUT", "/_data_stream/stream", None).await?;
    let taken = json!({"data_stream": "stream", "index": "events"});
    let modify = json!({"actions": [{"add_backing_index": taken}]});
    cluster
        .ok("POST", "/_data_stream/_modify", Some(&modify))
        .await?;
    let filter = json!({"match_all": {}});
    let add = |index: &str| json!({"add": {"index": index, "alias": "mixed", "filter": filter}});
    let mixed = json!({"actions": [add("books"), add("own")]});
    cluster.ok("POST", "/_aliases", Some(&mixed)).await?;
    Ok(())
}

/// All that is in followed indices, of both clusters, and how they are set up.
async fn picture(world: &World) -> Result<Value> {
    let mut picture = json!({});
    for (name, cluster) in [("leader", &world.leader), ("follower", &world.follower)] {
        for index in FOLLOWED {
            let refreshed = format!("/{index}/_refresh");
            cluster.ok("POST", &refreshed, None).await?;
            let all =
                format!("/{index}/_search?size=100&version=true&seq_no_primary_term=true&sort=n");
            let mut found = cluster.get(&all).await?;
            let whole = cluster
                .get(&format!("/{index}?expand_wildcards=all"))
                .await?;
            picture[name][index] =
                json!({"hits": found["hits"]["hits"].take(), "index": whole[index]});
        }
    }
    let state = world
        .follower
        .get("/_cluster/state/metadata?filter_path=metadata.data_stream")
        .await?;
    picture["streams"] = state["metadata"]["data_stream"]["data_stream"].clone();
    picture["status"] = json!([]);
    for index in FOLLOWED {
        let status = wait::status(&world.gateway, index).await?;
        picture["status"]
            .as_array_mut()
            .context("a list")?
            .push(status["status"].clone());
    }
    Ok(picture)
}

async fn send(world: &World, attack: &Attack) -> Result<()> {
    let url = world.gateway.url().to_owned();
    let address = url.trim_start_matches("http://").to_owned();
    let bytes = match attack.request.strip_prefix("H2 ") {
        Some(request) => return http2(&url, request, &attack.body).await,
        None if attack.request == "RAW" => attack.body.clone().into_bytes(),
        None => {
            let header = match attack.header {
                "" => "X-None: 1",
                header => header,
            };
            let kind = match header.starts_with("Content-Type") {
                true => "",
                false => "Content-Type: application/json\r\n",
            };
            // What is packed is tried on the stub: here the body is not what its header says.
            let length = attack.body.len();
            let head = format!(
                "{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\
                 {kind}Content-Length: {length}\r\n\r\n",
                attack.request
            );
            [head.as_bytes(), attack.body.as_bytes()].concat()
        }
    };
    tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(&bytes)?;
        // A gateway that refuses the bytes may close the connection, or wait for more of them.
        let _ = socket.read_to_end(&mut Vec::new());
        Ok(())
    })
    .await?
}

async fn http2(url: &str, request: &str, body: &str) -> Result<()> {
    let (method, path) = request.split_once(' ').context("a method and a path")?;
    let answered = tokio::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
        ])
        .args(["--http2-prior-knowledge", "--path-as-is", "-X", method])
        .args(["-H", "Content-Type: application/json", "-d", body])
        .arg(format!("{url}{path}"))
        .output()
        .await?;
    let answered = String::from_utf8(answered.stdout)?;
    ensure!(answered == "403 2", "{request} over HTTP/2: {answered}");
    Ok(())
}

/// A client that writes through a name without a pause while the leader makes it an alias.
async fn aliases_are_refused_from_the_start(world: &World) -> Result<()> {
    let gateway = Client::new(world.gateway.url())?;
    let writing = tokio::spawn(async move {
        let path = "/soon/_doc/attacked?require_alias=true";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (status, answer) = gateway
                .call("PUT", path, Some(&json!({"attacked": 1})))
                .await?;
            match status {
                404 if tokio::time::Instant::now() < deadline => {}
                403 => return Ok(()),
                _ => anyhow::bail!("{status} {answer}"),
            }
        }
    });
    for turn in 0..5 {
        let alias =
            json!({"actions": [{"add": {"index": "books", "alias": format!("soon-{turn}")}}]});
        world.leader.ok("POST", "/_aliases", Some(&alias)).await?;
    }
    let alias = json!({"actions": [{"add": {"index": "books", "alias": "soon"}}]});
    world.leader.ok("POST", "/_aliases", Some(&alias)).await?;
    writing.await??;
    let found = world
        .follower
        .call("GET", "/books/_doc/attacked", None)
        .await?;
    ensure!(found.0 == 404, "{}", found.1);
    Ok(())
}
