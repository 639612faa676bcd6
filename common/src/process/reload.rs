//! SIGHUP: what can change while an agent runs is read again, and what cannot is named. Nothing
//! that is wrong with the new configuration ends the agent: it goes on with what it has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::signal::unix::Signal;
use tracing::{info, warn};

use crate::process::config::{AgentConfig, ConfigError, Loaded, Secret, load, located};
use crate::process::telemetry::LogFilter;

/// Keys that a reload applies.
const RELOADED: [&str; 4] = [
    "log.filter",
    "opensearch.password",
    "opensearch.password_file",
    "opensearch.username",
];

/// What an agent was started with, and what it can change.
pub(crate) struct Reloader<C> {
    file: Option<PathBuf>,
    started_with: Loaded<C>,
    files: Files,
    logs: LogFilter,
    log_filter: Option<String>,
}

/// What files held when the agent was started, that are read once.
#[derive(PartialEq)]
struct Files {
    kafka: BTreeMap<String, Secret>,
    authorities: Option<Vec<u8>>,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reloaded {
    pub reloaded: Vec<String>,
    pub needs_restart: Vec<String>,
}

impl<C: AgentConfig> Reloader<C> {
    pub(crate) fn new(
        file: Option<PathBuf>,
        started_with: Loaded<C>,
        logs: LogFilter,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            file,
            files: Files::read(&started_with.config)?,
            log_filter: started_with.config.log().filter.clone(),
            started_with,
            logs,
        })
    }

    /// Reloads with each signal, for as long as the agent runs.
    pub(crate) async fn run(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            match self.reload() {
                Ok(Reloaded {
                    reloaded,
                    needs_restart,
                }) if needs_restart.is_empty() => {
                    info!(?reloaded, "the configuration was reloaded");
                }
                Ok(Reloaded {
                    reloaded,
                    needs_restart,
                }) => warn!(
                    ?reloaded,
                    ?needs_restart,
                    "the configuration was reloaded; some keys need a restart of the agent"
                ),
                Err(error) => warn!(
                    %error,
                    "the configuration was not reloaded, and the agent goes on with what it has"
                ),
            }
        }
    }

    /// Applies all that can be applied, or nothing.
    fn reload(&mut self) -> Result<Reloaded, ConfigError> {
        let new = load::<C>(self.file.as_deref())?;
        if let Some(problem) = new.config.problems().into_iter().next() {
            return Err(problem);
        }
        let login = new.config.opensearch().login()?;
        let files = Files::read(&new.config)?;
        let filter = &new.config.log().filter;
        let mut result = Reloaded::default();
        if *filter != self.log_filter {
            self.logs.replace(new.config.log())?;
            self.log_filter.clone_from(filter);
            result.reloaded.push("log.filter".to_owned());
        }
        let running = &self.started_with.config.opensearch().authorization;
        if login != running.header() {
            running.replace(login);
            result.reloaded.push("the login of opensearch".to_owned());
        }
        let changed = self.started_with.changed(&new).into_iter();
        result
            .needs_restart
            .extend(changed.filter(|key| !RELOADED.contains(&key.as_str())));
        result.needs_restart.extend(self.files.changed(&files));
        result.needs_restart.sort();
        result.needs_restart.dedup();
        Ok(result)
    }
}

impl Files {
    fn read<C: AgentConfig>(config: &C) -> Result<Self, ConfigError> {
        let authorities = match &config.opensearch().ca_certificate {
            None => None,
            Some(file) => {
                let file = located("opensearch.ca_certificate", file)?;
                std::fs::read(file).ok()
            }
        };
        Ok(Self {
            kafka: config.kafka().all_properties()?,
            authorities,
        })
    }

    fn changed(&self, other: &Self) -> Vec<String> {
        let kafka = other.kafka.iter();
        let mut changed: Vec<String> = kafka
            .filter(|(property, value)| self.kafka.get(*property) != Some(value))
            .map(|(property, _)| format!("kafka.properties.{property}"))
            .collect();
        if self.authorities != other.authorities {
            changed.push("opensearch.ca_certificate".to_owned());
        }
        changed
    }
}
