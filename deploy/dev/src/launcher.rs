//! Spawns children from one thread that lives as long as this process.
//!
//! Linux delivers `PR_SET_PDEATHSIG` when the *thread* that spawned the child ends. Test threads
//! and tokio's workers come and go, so a thread of our own spawns all children: they then die
//! exactly when this process does, SIGKILL included.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::{io, thread};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid, setsid};

/// How long processes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the stack is dropped or the process that started it ends, however it ends.
    Owned,
    /// Until somebody stops them (`deploy/dev/down`); each in a session of its own.
    Detached,
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

pub(crate) fn spawn(mut command: Command, lifetime: Lifetime) -> Result<Child> {
    static LAUNCHER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();

    before_exec(&mut command, lifetime, getpid());
    let program = command.get_program().to_owned();
    let launcher = LAUNCHER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                // The asker waits for the answer, so this fails only when its thread was torn down.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, answered) = mpsc::channel();
    launcher
        .send((command, answer))
        .context("the launcher thread is gone")?;
    answered
        .recv()
        .context("the launcher thread is gone")?
        .with_context(|| format!("cannot start {}", program.display()))
}

// `pre_exec` is unsafe because only async-signal-safe calls are allowed between fork and exec;
// `setsid`, `prctl` and `getppid` are plain system calls, and nothing here allocates.
#[allow(unsafe_code)]
fn before_exec(command: &mut Command, lifetime: Lifetime, parent: Pid) {
    let prepare = move || match lifetime {
        Lifetime::Detached => setsid().map(drop).map_err(io::Error::from),
        Lifetime::Owned => {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above took effect.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        }
    };
    unsafe {
        command.pre_exec(prepare);
    }
}
