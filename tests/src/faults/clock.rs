//! A wall clock of its own for some processes, which can be moved while they run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const SOURCE: &str = include_str!("clock.c");

pub struct Clock {
    folder: TempDir,
}

impl Clock {
    pub fn new() -> Result<Self> {
        let clock = Self {
            folder: tempfile::tempdir()?,
        };
        clock.set(0)?;
        let source = clock.folder.path().join("clock.c");
        std::fs::write(&source, SOURCE)?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(clock.library())
            .arg(source);
        let done = compiler.status().context("cannot start cc")?;
        ensure!(done.success(), "cc cannot compile the clock");
        Ok(clock)
    }

    /// What processes need in their environment to go by this clock.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.display().to_string();
        vec![
            ("LD_PRELOAD".into(), text(self.library())),
            ("MOVED_CLOCK".into(), text(self.offset())),
        ]
    }

    /// How far it is from the machine's.
    pub fn set(&self, hours: i64) -> Result<()> {
        // Written in place: the file is mapped.
        let mut options = std::fs::File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.offset())?;
        Ok(std::os::unix::fs::FileExt::write_all_at(
            &file,
            &(hours * 3_600).to_ne_bytes(),
            0,
        )?)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn offset(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}
