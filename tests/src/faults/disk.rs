//! Small disks of their own, to be filled. They are mounted in a namespace that ends with this
//! process and its children.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

const FILLER: &str = "filler";
const BLOCK: usize = 1024 * 1024;

/// To be called before there are other threads: they would stay outside. Needs the right to mount.
pub fn enter_namespace() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
}

/// A file system in memory.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    pub fn mount(megabytes: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = format!("size={megabytes}m");
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .context("a disk to be filled cannot be mounted: run this as root")?;
        Ok(Self { folder })
    }

    /// Where a process may have its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Leaves no byte free.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        let mut block = vec![0; BLOCK];
        let mut written = 0;
        while !block.is_empty() {
            match filler.write(&block) {
                Ok(length @ 1..) => written += length,
                _ => block.truncate(block.len() / 2),
            }
        }
        ensure!(
            written > 0,
            "{} was full already",
            self.folder.path().display()
        );
        Ok(())
    }

    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        Path::new(self.folder.path()).join(FILLER)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Otherwise it ends with the namespace, and its folder stays.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}
