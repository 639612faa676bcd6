//! What is made of the command line's own description: completions and man pages.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{CtlError, Program};

#[derive(Args)]
pub(super) struct Completions {
    /// Whose completions
    pub shell: Shell,
}

#[derive(Args)]
pub(super) struct Man {
    /// Write one page for each command into this folder, instead of the first to standard output
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}

pub(super) fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Program::command(), "shardline", &mut text);
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// The page of `shardline` itself.
pub(super) fn man_page() -> Result<String, CtlError> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Program::command()).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

pub(super) fn man_pages(folder: &Path) -> Result<(), CtlError> {
    std::fs::create_dir_all(folder)?;
    Ok(clap_mangen::generate_to(Program::command(), folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Program::command().debug_assert();
    }

    #[test]
    fn every_shell_and_every_command_is_served() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            for word in ["shardline", "status", "autofollow", "dead-letters"] {
                assert!(text.contains(word), "{word} in {shell}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        man_pages(folder.path()).unwrap();
        for page in ["shardline.1", "shardline-status.1", "shardline-bulk-stop.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(man_page().unwrap().contains("SHARDLINE_URL"));
    }
}
