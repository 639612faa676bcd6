//! `shardline-dev up` and `shardline-dev down`; see `deploy/dev/up` and `deploy/dev/down`, which
//! call it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shardline_dev::{BasePorts, Endpoints, Lifetime, Ports, Stack, StackOptions, down, wipe};
use tokio::signal::unix::{SignalKind, signal};

/// Real OpenSearch clusters, Kafka and Shardline's agents on this machine.
#[derive(Parser)]
#[command(name = "shardline-dev")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a stack and wait until all of it is up.
    Up(Box<Up>),
    /// Stop the stack of a run folder.
    Down(Down),
}

#[derive(Args)]
struct Up {
    /// Nodes of the leader cluster, each with a leader agent.
    #[arg(long, default_value_t = 1, value_name = "N")]
    leader_nodes: usize,
    /// Nodes of the follower cluster.
    #[arg(long, default_value_t = 1, value_name = "N")]
    follower_nodes: usize,
    #[arg(long, default_value_t = 1, value_name = "N")]
    follower_agents: usize,
    /// Kafka brokers.
    #[arg(long, default_value_t = 1, value_name = "N")]
    brokers: usize,
    /// Heap of each OpenSearch node, in MB.
    #[arg(long, default_value_t = 512, value_name = "MB")]
    heap: usize,
    /// Both clusters with the security plugin: https, users and roles.
    #[arg(long)]
    secure: bool,
    /// Start OpenSearch and Kafka only.
    #[arg(long)]
    no_agents: bool,
    /// `detached`: return and leave it running. `owned`: stay, and stop it on Ctrl-C.
    #[arg(long, value_enum, default_value = "detached")]
    lifetime: LifetimeArgument,
    #[command(flatten)]
    run_dir: RunDir,
    #[command(flatten)]
    ports: PortArguments,
}

#[derive(Args)]
struct Down {
    /// Remove data, logs and configuration too.
    #[arg(long)]
    wipe: bool,
    #[command(flatten)]
    run_dir: RunDir,
}

#[derive(Args)]
struct RunDir {
    /// Folder of data, logs and endpoints.json.
    #[arg(long, default_value = "deploy/dev/run", value_name = "DIR")]
    run_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LifetimeArgument {
    Owned,
    Detached,
}

/// The first port of each kind; further nodes count up from it.
#[derive(Args)]
struct PortArguments {
    /// Further leader nodes: +20, +30, …
    #[arg(long, default_value_t = 9201, value_name = "PORT")]
    leader_port: u16,
    #[arg(long, default_value_t = 9301, value_name = "PORT")]
    leader_transport_port: u16,
    /// Further follower nodes: +1, +2, …
    #[arg(long, default_value_t = 9210, value_name = "PORT")]
    follower_port: u16,
    #[arg(long, default_value_t = 9310, value_name = "PORT")]
    follower_transport_port: u16,
    /// Further brokers: +100, +200, …
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    kafka_port: u16,
    #[arg(long, default_value_t = 9093, value_name = "PORT")]
    kafka_controller_port: u16,
    /// Admin port; further leader agents: +10, +20, …
    #[arg(long, default_value_t = 9601, value_name = "PORT")]
    leader_agent_port: u16,
    /// Admin port; further follower agents: +10, +20, …
    #[arg(long, default_value_t = 9602, value_name = "PORT")]
    follower_agent_port: u16,
    /// Further gateways: +50, +100, …
    #[arg(long, default_value_t = 9200, value_name = "PORT")]
    gateway_port: u16,
}

impl From<&PortArguments> for BasePorts {
    fn from(arguments: &PortArguments) -> Self {
        Self {
            leader_http: arguments.leader_port,
            leader_transport: arguments.leader_transport_port,
            follower_http: arguments.follower_port,
            follower_transport: arguments.follower_transport_port,
            kafka: arguments.kafka_port,
            kafka_controller: arguments.kafka_controller_port,
            leader_agent: arguments.leader_agent_port,
            follower_agent: arguments.follower_agent_port,
            gateway: arguments.gateway_port,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(arguments) => run_up(&arguments).await,
        Command::Down(arguments) => run_down(&arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shardline-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_up(arguments: &Up) -> Result<()> {
    let lifetime = match arguments.lifetime {
        LifetimeArgument::Owned => Lifetime::Owned,
        LifetimeArgument::Detached => Lifetime::Detached,
    };
    let options = StackOptions {
        leader_nodes: arguments.leader_nodes,
        follower_nodes: arguments.follower_nodes,
        follower_agents: arguments.follower_agents,
        brokers: arguments.brokers,
        heap_mb: arguments.heap,
        secure: arguments.secure,
        agents: !arguments.no_agents,
        ports: Ports::Fixed((&arguments.ports).into()),
        lifetime,
        ..StackOptions::new(&arguments.run_dir.run_dir)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Dropping an unfinished start stops what it has started, detached processes included.
    let stack = tokio::select! {
        stack = Stack::start(options) => stack?,
        _ = terminate.recv() => anyhow::bail!("terminated before the stack was up"),
        _ = interrupt.recv() => anyhow::bail!("interrupted before the stack was up"),
    };
    print(&stack);
    if lifetime == Lifetime::Owned {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stack.stop().await?;
    }
    Ok(())
}

async fn run_down(arguments: &Down) -> Result<()> {
    let run_dir = &arguments.run_dir.run_dir;
    let stopped = down(run_dir).await?;
    match stopped.as_slice() {
        [] => println!("nothing was up in {}", run_dir.display()),
        names => println!("stopped {}", names.join(", ")),
    }
    if arguments.wipe {
        wipe(run_dir)?;
        println!("removed its data");
    }
    Ok(())
}

fn print(stack: &Stack) {
    for process in stack.endpoints().processes {
        println!(
            "{:<18} {:<24} pid {:<8} log {}",
            process.name,
            process.url,
            process.id.pid,
            process.log_file.display()
        );
    }
    if let Some(access) = stack.access("admin") {
        println!(
            "users: deploy/dev/security, such as {}:{}; --cacert {}",
            access.user,
            access.password,
            access.ca_certificate.display()
        );
    }
    println!(
        "all of this, with data folders: {}",
        Endpoints::path(stack.run_dir()).display()
    );
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_help_of_deploy_dev_up_names_every_option() {
        let script = include_str!("../up");
        let mut command = Cli::command();
        command.build();
        let up = command.find_subcommand("up").expect("the subcommand up");
        for option in up.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(
                script.contains(&format!("--{option} ")),
                "deploy/dev/up does not explain --{option}"
            );
        }
    }
}
