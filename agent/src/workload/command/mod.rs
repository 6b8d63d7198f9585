//! What programs say, and the service behind them: `running > suspending > suspended > exporting > resuming > running`.
//!
//! A service that needs it is suspended before its exports are read, and resumed whatever happens then: the resume command is entered in the journal before
//! the suspend command runs. A point keeps what a restore has to know ([`CommandDetail`]), but never a command: commands come from the configuration alone.

mod restore;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::SilentMonitor;
use storepool::source::DataSource;

pub(crate) use restore::CommandRestore;
use service::{Service, ServiceState};

use super::program::Program;
use super::streams::{LastStream, OpenStream, StreamTree};
use super::{Debt, Finding, Prepared, Surroundings, Workload, WorkloadError};
use crate::config::CommandConfig;
use crate::error::Cause;
use crate::hooks;

/// Version of [`CommandDetail`].
const FORMAT: u32 = 1;

/// What a point of this kind keeps beside its exports; described in docs/format.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CommandDetail {
    format: u32,
    name: String,
    exports: Vec<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    edition: Option<String>,
    #[serde(default)]
    editions: Vec<String>,
    #[serde(default)]
    not_contained: Vec<String>,
    /// Things that waited and are not in the exports.
    #[serde(default)]
    pending: u64,
    #[serde(default)]
    suspended: bool,
}

/// A source of exports.
pub(crate) struct CommandExport {
    service: Service,
}

impl CommandExport {
    pub(super) fn new(config: CommandConfig) -> Self {
        Self { service: Service::configured(config) }
    }

    // The same commands for another target: what is there before it is replaced.
    fn of(service: Service) -> Self {
        Self { service }
    }
}

impl Workload for CommandExport {
    fn name(&self) -> String {
        let config = &self.service.config;
        match self.service.target() {
            target if target == config.name => config.name.clone(),
            target => format!("{} as {target}", config.name),
        }
    }

    fn check(&self) -> Vec<Finding> {
        let id = format!("source {}", self.name());
        let config = &self.service.config;
        if let Some(user) = &config.user
            && crate::accounts::user(user).is_none()
        {
            let fix = "make the user, or name another one in the configuration";
            return vec![Finding::bad(id, format!("there is no user \"{user}\""), fix)];
        }
        let questions = [("version", &config.version), ("edition", &config.edition)];
        let mut answers = Vec::new();
        for (what, command) in questions {
            let ask = |command| self.service.ask(command, ServiceState::Running, &SilentMonitor);
            match command.as_ref().map(ask) {
                None => {}
                Some(Ok(answer)) => answers.push(format!("{what} {answer}")),
                Some(Err(error)) => {
                    let reason = super::streams::source_error(&error).message;
                    return vec![Finding::bad(id, reason, "mend the command in the configuration")];
                }
            }
        }
        if answers.is_empty() {
            answers.push(format!("{} exports", config.exports.len()));
        }
        vec![Finding::good(id, answers.join(", "))]
    }

    fn owed(&self) -> Vec<Debt> {
        self.service.debt().into_iter().collect()
    }

    fn not_contained(&self) -> Vec<String> {
        self.service.config.not_contained.clone()
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
        let service = &self.service;
        let version = service.version(surroundings.monitor)?;
        let edition = service.edition(surroundings.monitor)?;
        let suspends = service.config.suspend.is_some() && !surroundings.dry_run;
        if suspends {
            service.suspend(surroundings.monitor)?;
        }
        let pending = service.count_pending(surroundings.monitor)?;
        service.accept(pending, surroundings.accept_pending)?;
        let detail = CommandDetail {
            format: FORMAT,
            name: service.config.name.clone(),
            exports: service.config.exports.keys().cloned().collect(),
            parameters: service.parameters.clone(),
            version,
            edition,
            editions: service.config.editions.clone(),
            not_contained: service.config.not_contained.clone(),
            pending,
            suspended: suspends,
        };
        let text = serde_json::to_string(&detail).map_err(|cause| {
            WorkloadError::failed("the exports cannot be described").because(cause)
        })?;
        let opening = service.clone();
        let monitored = surroundings.monitor;
        monitored.event(storepool::monitor::Event::Stage(ServiceState::Exporting.word()));
        let tree = StreamTree {
            workload: "command",
            label: self.name(),
            names: detail.exports,
            looks: BTreeMap::new(),
            time: SystemClock::new().now(),
            opener: Arc::new(move |file| opening.export(file)),
            finisher: Box::new(move || Ok(text.clone())),
            last: LastStream::default(),
        };
        Ok(Box::new(Suspended { service, tree, suspends, monitor: monitored }))
    }
}

struct Suspended<'a> {
    service: &'a Service,
    tree: StreamTree,
    suspends: bool,
    monitor: &'a dyn storepool::monitor::Monitor,
}

impl Prepared for Suspended<'_> {
    fn source(&self) -> &dyn DataSource {
        &self.tree
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        // Nothing may be at work on a service that is resumed.
        self.tree.last.end();
        if !self.suspends {
            return Ok(());
        }
        self.monitor.event(storepool::monitor::Event::Stage(ServiceState::Resuming.word()));
        self.service.resume()
    }
}

impl Service {
    fn export(&self, file: &str) -> Result<OpenStream, WorkloadError> {
        let command = self
            .config
            .exports
            .get(file)
            .ok_or_else(|| WorkloadError::failed(format!("there is no export \"{file}\"")))?;
        let mut program = self.program(command, ServiceState::Exporting);
        program.variables.push(("KEEPWELL_EXPORT".to_string(), file.to_string()));
        Ok(program.stream()?.into())
    }

    fn program(&self, command: &crate::config::HookCommand, state: ServiceState) -> Program {
        Program {
            command: hooks::words(command),
            user: self.config.user.clone(),
            variables: self.variables(state),
        }
    }
}
