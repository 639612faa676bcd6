//! The agents without their servers: bad configuration is named and refused; what is away is waited
//! for without a panic or a busy loop, and an agent that waits stops when it is told to.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

fn binary(name: &str) -> Result<PathBuf> {
    // Tests are built into `deps`, beside the programs' folder.
    let folder = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .context("no target folder")?
        .to_owned();
    Ok(folder.join(name))
}

fn check(agent: &str, config: &str) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.toml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(binary(agent)?);
    // One variable that is a key, and one that is none.
    command
        .env("SHARDLINE_KAFKA__RETENTION_HOURS", "24")
        .env("SHARDLINE_LOG", "json");
    Ok(command
        .arg("--config")
        .arg(&file)
        .arg("--check-config")
        .output()?)
}

fn leader_config(port: u16) -> String {
    format!(
        "[opensearch]\nurl = 'http://127.0.0.1:{port}'\n[kafka]\nbootstrap_servers = '127.0.0.1:{port}'\n\
         [admin]\nlisten = '127.0.0.1:0'\n"
    )
}

fn follower_config(port: u16, data: &Path) -> String {
    let data = data.display();
    format!(
        "{}[gateway]\nlisten = '127.0.0.1:0'\n[storage]\ndata_dir = '{data}'\n",
        leader_config(port)
    )
}

/// A port at which nobody answers.
fn closed_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[test]
fn bad_configuration_is_named() -> Result<()> {
    for (config, named) in [
        (
            format!("{}\n[capture]\nspool = 1\n", leader_config(1)),
            "spool",
        ),
        (
            leader_config(1).replace("http://", "ftp://"),
            "opensearch.url",
        ),
        (
            leader_config(1).replace("bootstrap_servers", "bootstrap_server"),
            "bootstrap_server",
        ),
        (
            leader_config(1).replace("[admin]", "topic_prefix = 'a/b'\n[admin]"),
            "kafka.topic_prefix",
        ),
        (
            leader_config(1).replace("127.0.0.1:0", "nowhere"),
            "admin.listen",
        ),
    ] {
        let output = check("leader-agent", &config)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && errors.contains(named),
            "{named} is not named: {errors}"
        );
        ensure!(!errors.contains("panicked"), "{errors}");
    }
    let output = check("leader-agent", &leader_config(1))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = check("follower-agent", &follower_config(1, Path::new("/tmp")))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn a_missing_file_is_named() -> Result<()> {
    let output = Command::new(binary("leader-agent")?)
        .args(["--config", "/nowhere/config.toml"])
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && errors.contains("/nowhere/config.toml"),
        "{errors}"
    );
    Ok(())
}

#[test]
fn what_is_away_is_waited_for_quietly() -> Result<()> {
    for agent in ["leader-agent", "follower-agent"] {
        let folder = tempfile::tempdir()?;
        let port = closed_port()?;
        let config = match agent {
            "leader-agent" => leader_config(port),
            _ => follower_config(port, folder.path()),
        };
        let file = folder.path().join("config.toml");
        std::fs::write(&file, config)?;
        let log = folder.path().join("log");
        let mut child = Command::new(binary(agent)?)
            .arg("--config")
            .arg(&file)
            .stderr(std::fs::File::create(&log)?)
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_secs(3));
        let still_waits = child.try_wait()?.is_none();
        let cpu = cpu_ticks(child.id());
        Command::new("kill").arg(child.id().to_string()).status()?;
        let asked = Instant::now();
        let status = child.wait()?;
        let log = std::fs::read_to_string(&log)?;
        ensure!(still_waits, "{agent} gave up: {log}");
        ensure!(
            log.contains(&port.to_string()),
            "{agent} does not say what it waits for: {log}"
        );
        ensure!(!log.contains("panicked"), "{agent}: {log}");
        ensure!(log.lines().count() < 40, "{agent} is noisy: {log}");
        // Three seconds are 300 ticks.
        ensure!(cpu? < 60, "{agent} is busy while it waits");
        ensure!(
            status.success() && asked.elapsed() < Duration::from_secs(5),
            "{agent} did not stop well: {status}"
        );
    }
    Ok(())
}

/// Processor time of a process so far, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .context("no fields")?
        .split_whitespace()
        .collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// What SIGHUP does to an agent with this configuration, after the file was changed: the line that
/// the agent logs.
fn hang_up(agent: &str, before: &str, after: &str, logged: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let (file, log) = (folder.path().join("config.toml"), folder.path().join("log"));
    std::fs::write(&file, before)?;
    let mut child = Command::new(binary(agent)?)
        .arg("--config")
        .arg(&file)
        .stderr(std::fs::File::create(&log)?)
        .stdout(Stdio::null())
        .spawn()?;
    let ended = (|| {
        wait_for_line(&log, "not available yet")?;
        std::fs::write(&file, after)?;
        Command::new("kill")
            .args(["-HUP", &child.id().to_string()])
            .status()?;
        let line = wait_for_line(&log, logged)?;
        ensure!(child.try_wait()?.is_none(), "the agent ended");
        Ok(line)
    })();
    Command::new("kill").arg(child.id().to_string()).status()?;
    let status = child.wait()?;
    let line = ended?;
    ensure!(status.success(), "{agent} did not stop well: {status}");
    Ok(line)
}

fn wait_for_line(log: &Path, text: &str) -> Result<String> {
    let since = Instant::now();
    loop {
        let content = std::fs::read_to_string(log)?;
        if let Some(line) = content.lines().find(|line| line.contains(text)) {
            return Ok(line.to_owned());
        }
        ensure!(
            since.elapsed() < Duration::from_secs(20),
            "no line with {text}: {content}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_hangup_reloads_what_can_be_reloaded_and_ends_nothing() -> Result<()> {
    let port = closed_port()?;
    let data = tempfile::tempdir()?;
    let follower = follower_config(port, data.path());
    let (reloaded, refused) = ("the configuration was reloaded", "was not reloaded");
    for (agent, before) in [
        ("leader-agent", leader_config(port)),
        ("follower-agent", follower),
    ] {
        let broken = format!("{before}[log\npassword = 'hunter2'");
        let line = hang_up(agent, &before, &broken, refused)?;
        ensure!(
            line.contains("no TOML") && !line.contains("hunter2"),
            "{line}"
        );
        let unknown = format!("{before}[nonsense]\n");
        let line = hang_up(agent, &before, &unknown, refused)?;
        ensure!(line.contains("nonsense"), "{line}");
        let login = "username = 'agent'\npassword = 'hunter2'\n[kafka]\nretention_hours = 3\n";
        let changed = before.replace("[kafka]\n", login);
        let changed = format!("{changed}[log]\nfilter = 'debug'\n");
        let line = hang_up(agent, &before, &changed, reloaded)?;
        for text in ["log.filter", "login of opensearch", "kafka.retention_hours"] {
            ensure!(line.contains(text), "{text}: {line}");
        }
        ensure!(!line.contains("hunter2"), "{line}");
    }
    Ok(())
}
