//! Command line of the leader agent.

use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shardline_common::launch::{LaunchArguments, launch};
use tokio::runtime::Builder;

/// Records are made by one thread and freed by librdkafka's, and glibc keeps what each thread has
/// freed to itself.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Captures the operations of an OpenSearch node's shards into Kafka.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    launch: LaunchArguments,
}

/// Threads for work that waits, for files or for Kafka's answers to questions. Each costs memory,
/// and a thousand shards that wake together would make hundreds of them.
const BLOCKING_THREADS: usize = 16;

/// Each generation that is read or held takes a descriptor, and the usual limit is 1,024. That is
/// for programs that use `select`; whoever needs more raises it as far as they may.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse().launch;
    if arguments.describe::<Arguments>()? {
        return Ok(ExitCode::SUCCESS);
    }
    raise_open_files();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    runtime.block_on(launch(arguments, leader_agent::run))
}
