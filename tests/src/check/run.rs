//! The check as a user runs it, with a configuration that a test changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use shardline_dev::find_binary;

/// Sections of a configuration file with TOML literals, to be changed key by key.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, BTreeMap<String, String>>);

impl Settings {
    /// Sets `section.key` to a TOML literal.
    pub fn set(mut self, path: &str, literal: impl ToString) -> Self {
        let (section, key) = path.split_once('.').unwrap_or(("", path));
        let section = self.0.entry(section.to_owned()).or_default();
        section.insert(key.to_owned(), literal.to_string());
        self
    }

    /// Sets `section.key` to a text.
    pub fn text(self, path: &str, text: impl AsRef<str>) -> Self {
        let literal = serde_json::Value::from(text.as_ref());
        self.set(path, literal)
    }

    pub fn has(&self, section: &str) -> bool {
        self.0.contains_key(section)
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.0 {
            text.push_str(&format!("[{section}]\n"));
            for (key, literal) in keys {
                text.push_str(&format!("{key} = {literal}\n"));
            }
        }
        text
    }
}

/// How a check is run.
pub struct Check<'a> {
    pub agent: &'a str,
    pub settings: Settings,
    pub connects: bool,
    pub environment: Vec<(&'a str, String)>,
    /// A shell line that runs `"$@"`, the check.
    pub around: Option<String>,
    pub arguments: Vec<&'a str>,
}

impl<'a> Check<'a> {
    pub fn local(agent: &'a str, settings: Settings) -> Self {
        Self {
            agent,
            settings,
            connects: false,
            environment: Vec::new(),
            around: None,
            arguments: Vec::new(),
        }
    }

    pub fn connect(agent: &'a str, settings: Settings) -> Self {
        Self {
            connects: true,
            ..Self::local(agent, settings)
        }
    }

    pub fn run(&self, folder: &Path) -> Result<Found> {
        let file = folder.join("config.toml");
        std::fs::write(&file, self.settings.render())?;
        self.run_file(&file)
    }

    pub fn run_file(&self, file: &Path) -> Result<Found> {
        let program: PathBuf = find_binary(self.agent)?;
        let mut command = match &self.around {
            None => Command::new(program),
            Some(line) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", line, "sh"]).arg(program);
                shell
            }
        };
        let mode = if self.connects {
            "--check-config=connect"
        } else {
            "--check-config"
        };
        command
            .arg("--config")
            .arg(file)
            .arg(mode)
            .args(&self.arguments);
        command.env_remove("RUST_LOG").env_remove("SHARDLINE_LOG");
        command.envs(self.environment.iter().map(|(key, value)| (*key, value)));
        let output = command.output().context("the agent cannot be run")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Found {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }
}

/// What a check found.
#[derive(Debug)]
pub struct Found {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Found {
    pub fn is_all_ok(&self) -> Result<()> {
        let failed = self.stdout.lines().any(|line| line.starts_with("FAILED"));
        ensure!(
            self.code == Some(0) && !failed,
            "{}{}",
            self.stdout,
            self.stderr
        );
        Ok(())
    }

    /// The mistake is in one line that says `FAILED`, with all of these texts in it or in the line
    /// behind it, which says what mends it; `never` is shown nowhere.
    pub fn names(&self, texts: &[&str], never: Option<&str>) -> Result<()> {
        let shown = format!("{}{}", self.stdout, self.stderr);
        ensure!(self.code == Some(1), "ended with {:?}: {shown}", self.code);
        ensure!(!shown.contains("panicked"), "{shown}");
        let lines: Vec<&str> = self.stdout.lines().collect();
        let is_named = lines.windows(2).any(|pair| {
            pair[0].starts_with("FAILED")
                && pair[1].trim_start().starts_with("to mend: ")
                && texts
                    .iter()
                    .all(|text| pair[0].contains(text) || pair[1].contains(text))
        });
        ensure!(is_named, "{texts:?} are not named: {shown}");
        if let Some(never) = never {
            ensure!(!shown.contains(never), "{never} is shown: {shown}");
        }
        Ok(())
    }
}
