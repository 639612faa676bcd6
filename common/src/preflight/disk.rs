//! Folders: whether the agent's user can write there, how much room there is, and who else uses
//! them.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Problem;

const MIB: u64 = 1024 * 1024;

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub available: u64,
}

impl Space {
    pub fn available_mib(self) -> u64 {
        self.available / MIB
    }
}

/// The room on the file system of a folder, or of the nearest one above it that exists.
pub fn space_of(folder: &Path) -> std::io::Result<Space> {
    let found = statvfs(existing(folder))?;
    let block = found.fragment_size();
    Ok(Space {
        total: found.blocks() * block,
        available: found.blocks_available() * block,
    })
}

/// Whether a folder can be written to, or made.
pub(super) fn writable(folder: &Path) -> Result<(), String> {
    let nearest = existing(folder);
    if !nearest.is_dir() {
        return Err(format!("{} is no folder", nearest.display()));
    }
    access(nearest, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| format!("{} cannot be written to: {error}", nearest.display()))
}

/// A folder that the agent makes or uses, and writes to.
pub fn check_folder(key: &str, folder: &Path) -> Result<String, Problem> {
    writable(folder).map_err(|reason| {
        let folder = folder.display();
        let mend = format!(
            "let {key} be a folder of the agent's user: install -d -o <user> -m 0750 {folder}"
        );
        Problem::new(format!("{folder} is unusable: {reason}"), mend)
    })?;
    Ok(folder.display().to_string())
}

/// The process that has locked a file as RocksDB does, if one has.
pub fn locked_by(file: &Path) -> Option<i32> {
    let file = File::options().read(true).write(true).open(file).ok()?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_pid)
}

/// The folder itself, or the nearest one above it that exists.
fn existing(folder: &Path) -> &Path {
    let mut ancestors = folder.ancestors();
    let found = ancestors.find(|path| path.exists());
    // A relative path's last ancestor is empty, and means the current folder.
    found.unwrap_or_else(|| Path::new("."))
}

/// A folder that is removed again, with all in it.
pub struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_file_cannot_be_made() {
        let file = std::env::current_exe().unwrap();
        assert!(
            writable(&file.join("data"))
                .unwrap_err()
                .contains("no folder")
        );
        assert!(writable(&std::env::temp_dir().join("shardline-not-made/yet")).is_ok());
        assert!(check_folder("storage.data_dir", &file).is_err());
    }

    #[test]
    fn room_is_found_where_the_folder_is_to_be_made() {
        let space = space_of(&std::env::temp_dir().join("shardline-not-made/yet")).unwrap();
        assert!(space.total >= space.available && space.total > 0);
    }
}
