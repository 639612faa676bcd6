//! An installation that was there before callers were asked.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use shardline_tests::client::Client;
use shardline_tests::wait;
use shardline_tests::world::World;

use super::{BASE, FOLLOWER_ROLE, LEADER_ROLE, PATIENCE, REPLICATED, fill, start};

const OFF: &str = "mode = \"off\"";

#[tokio::test]
async fn what_was_followed_before_goes_on_and_gets_its_roles_by_a_call() -> Result<()> {
    let world = World::with(|options| {
        options.secure = true;
        options.follower_agent_config = std::mem::take(&mut options.follower_agent_config)
            .set_text("gateway.security", "mode", "off");
    })
    .await?;
    world.leader.ok("PUT", "/books", None).await?;
    fill(&world, 0).await?;
    let nobody = Client::new(world.stack.gateway_url())?;
    let path = format!("{BASE}/books-copy/_start");
    nobody.ok("PUT", &path, Some(&start(None))).await?;
    world.equal("books", "books-copy").await?;

    let file = world.stack.run_dir().join("follower-agent-1/config.toml");
    let before = std::fs::read_to_string(&file)?;
    ensure!(before.contains(OFF), "{before}");
    nothing_said_is_no_start(&before, &file)?;
    std::fs::write(&file, before.replace(OFF, "mode = \"plugin\""))?;
    world.stack.restart("follower-agent-1").await?;

    let status = wait::for_status(&world.gateway, "books-copy", "SYNCING", PATIENCE).await?;
    ensure!(status["without_roles"] == true, "{status}");
    ensure!(indices_without_roles(&world).await? == "1");
    fill(&world, REPLICATED).await?;
    world.equal("books", "books-copy").await?;

    let update = format!("{BASE}/books-copy/_update");
    let roles = |follower: &str| {
        json!({"use_roles": {
            "leader_cluster_role": LEADER_ROLE, "follower_cluster_role": follower,
        }})
    };
    let both = world.gateway_as("both")?;
    let (refused, answer) = both
        .call("PUT", &update, Some(&roles("all_access")))
        .await?;
    ensure!(refused == 403, "{refused}: {answer}");
    both.ok("PUT", &update, Some(&roles(FOLLOWER_ROLE))).await?;
    let status = wait::status(&both, "books-copy").await?;
    ensure!(status["without_roles"].is_null(), "{status}");
    let expected = json!({
        "user": "both", "leader_cluster_role": LEADER_ROLE, "follower_cluster_role": FOLLOWER_ROLE,
    });
    ensure!(status["use_roles"] == expected, "{status}");
    ensure!(status["status"] == "SYNCING", "{status}");
    world.stop().await
}

async fn indices_without_roles(world: &World) -> Result<String> {
    let admin = world.stack.ports().follower_agents[0].admin;
    let name = "shardline_follower_indices_without_roles ";
    wait::until("the metric", PATIENCE, async || {
        let metrics = reqwest::get(format!("http://127.0.0.1:{admin}/metrics")).await?;
        let metrics = metrics.text().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        Ok(line
            .filter(|value| *value != "0")
            .map(str::to_owned)
            .ok_or(metrics))
    })
    .await
}

/// An agent whose configuration does not say who is asked does not start before such a cluster.
fn nothing_said_is_no_start(config: &str, beside: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let config: String = config
        .lines()
        .filter(|line| *line != OFF)
        .map(|line| match line.split_once(" = ").map(|(key, _)| key) {
            Some("topic_prefix") => "topic_prefix = \"another\"\n".to_owned(),
            Some("listen") => "listen = \"127.0.0.1:0\"\n".to_owned(),
            Some("data_dir") => format!("data_dir = {:?}\n", data.display().to_string()),
            _ => format!("{line}\n"),
        })
        .collect();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &config)?;
    let programs = std::env::current_exe()?;
    let programs = programs.ancestors().nth(2).context("no target folder")?;
    let output = Command::new(programs.join("follower-agent"))
        .arg("--config")
        .arg(&file)
        .current_dir(beside.parent().context("no folder")?)
        .stdout(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{errors}");
    ensure!(errors.contains("gateway.security.mode"), "{errors}");
    Ok(())
}
