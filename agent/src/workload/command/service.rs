//! The service behind a command source: its state, the commands that change it, and the questions it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use storepool::clock::{Clock, SystemClock};
use storepool::monitor::{Event, Monitor};

use crate::config::{CommandConfig, HookCommand};
use crate::error::Cause;
use crate::hooks::{self, Hook};
use crate::workload::{Debt, WorkloadError};

/// How often a suspended service is asked whether it has finished what it had begun.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often the resume command is tried.
const RESUME_TRIES: u32 = 3;

/// Where a service is on its way through a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceState {
    /// It works.
    Running,
    /// It takes nothing new and finishes what it has begun.
    Suspending,
    /// It holds still.
    Suspended,
    /// It holds still and is read.
    Exporting,
    /// It is being woken.
    Resuming,
}

impl ServiceState {
    /// Returns the word for commands and people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Exporting => "exporting",
            Self::Resuming => "resuming",
        }
    }
}

/// A service with the parameters of this run.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) config: CommandConfig,
    pub(super) parameters: BTreeMap<String, String>,
}

impl Service {
    /// Returns the service as it is configured.
    pub(super) fn configured(config: CommandConfig) -> Self {
        let parameters = config.parameters.clone();
        Self { config, parameters }
    }

    /// Returns the name of what is backed up or restored into.
    pub(super) fn target(&self) -> &str {
        self.parameters.get("target").unwrap_or(&self.config.name)
    }

    /// Returns what commands get to know.
    pub(super) fn variables(&self, state: ServiceState) -> Vec<(String, String)> {
        let mut variables = vec![
            ("KEEPWELL_SOURCE".to_string(), self.config.name.clone()),
            ("KEEPWELL_TARGET".to_string(), self.target().to_string()),
            ("KEEPWELL_STATE".to_string(), state.word().to_string()),
        ];
        for (name, value) in &self.parameters {
            let name = format!("KEEPWELL_PARAMETER_{}", name.to_ascii_uppercase());
            variables.push((name, value.clone()));
        }
        variables
    }

    /// Asks the service something; the answer is one line.
    pub(super) fn ask(
        &self,
        command: &HookCommand,
        state: ServiceState,
        monitor: &dyn Monitor,
    ) -> Result<String, WorkloadError> {
        self.program(command, state).answer(monitor)
    }

    /// Returns the service's version, if it can be asked.
    pub(super) fn version(&self, monitor: &dyn Monitor) -> Result<Option<String>, WorkloadError> {
        let command = self.config.version.as_ref();
        command.map(|command| self.ask(command, ServiceState::Running, monitor)).transpose()
    }

    /// Returns the service's edition, if it can be asked; it must be one of those that are configured.
    pub(super) fn edition(&self, monitor: &dyn Monitor) -> Result<Option<String>, WorkloadError> {
        let Some(command) = &self.config.edition else { return Ok(None) };
        let edition = self.ask(command, ServiceState::Running, monitor)?;
        if self.config.editions.contains(&edition) {
            return Ok(Some(edition));
        }
        Err(WorkloadError::failed(format!(
            "\"{edition}\" is none of the editions of {}",
            self.config.name
        ))
        .hint(format!("configured are: {}", self.config.editions.join(", "))))
    }

    /// Returns what is owed as soon as the service may have been suspended.
    pub(super) fn debt(&self) -> Option<Debt> {
        let resume = self.config.resume.as_ref().filter(|_| self.config.suspend.is_some())?;
        Some(Debt {
            what: format!("resume {}", self.target()),
            hook: self.hook(resume),
            variables: self.variables(ServiceState::Resuming),
        })
    }

    /// Suspends the service and waits until it has finished what it had begun.
    pub(super) fn suspend(&self, monitor: &dyn Monitor) -> Result<(), Cause> {
        let Some(suspend) = &self.config.suspend else { return Ok(()) };
        monitor.event(Event::Stage(ServiceState::Suspending.word()));
        self.step(suspend, ServiceState::Suspending, &|| monitor.cancelled())?;
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        while let Some(drained) = &self.config.drained
            && !self.program(drained, ServiceState::Suspending).decides(monitor)?
        {
            if monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            if clock.monotonic().saturating_sub(begin) > self.config.drain_timeout {
                let limit = crate::duration::text(self.config.drain_timeout);
                let target = self.target();
                return Err(WorkloadError::failed(format!(
                    "{target} did not finish within {limit} what it had begun before it was suspended"
                ))
                .hint("it was resumed; give it more time with drain_timeout, or run the backup when it has less to do")
                .into());
            }
            std::thread::sleep(ASK_EVERY);
        }
        monitor.event(Event::Stage(ServiceState::Suspended.word()));
        Ok(())
    }

    /// Resumes the service; tried more than once, since a service that is left suspended is worse than a missing point.
    pub(super) fn resume(&self) -> Result<(), Cause> {
        let Some(resume) = &self.config.resume else { return Ok(()) };
        let mut tries = 1;
        loop {
            match self.step(resume, ServiceState::Resuming, &|| false) {
                Ok(()) => return Ok(()),
                Err(_) if tries < RESUME_TRIES => {
                    tries += 1;
                    std::thread::sleep(ASK_EVERY);
                }
                Err(error) => {
                    let message =
                        format!("{} is still suspended: it could not be resumed", self.target());
                    return Err(WorkloadError::failed(message)
                        .hint("mend its resume command and run \"keepwell resume\"; the next run tries it first, too")
                        .because(error.chain())
                        .into());
                }
            }
        }
    }

    /// Returns how many things wait that no export contains.
    pub(super) fn count_pending(&self, monitor: &dyn Monitor) -> Result<u64, Cause> {
        let Some(pending) = &self.config.pending else { return Ok(0) };
        let answer = self.ask(pending, ServiceState::Suspended, monitor)?;
        answer.parse().map_err(|_| {
            WorkloadError::failed(format!(
                "\"{answer}\" is no number of things that wait in {}",
                self.target()
            ))
            .hint("the command under \"pending\" prints one number")
            .into()
        })
    }

    /// Refuses to go on while more waits than was accepted by number.
    pub(super) fn accept(&self, pending: u64, accepted: Option<u64>) -> Result<(), Cause> {
        let accepted = accepted.unwrap_or(self.config.accept_pending);
        if pending <= accepted {
            return Ok(());
        }
        let target = self.target();
        let waits =
            if pending == 1 { "1 thing waits".into() } else { format!("{pending} things wait") };
        Err(WorkloadError::refused(format!(
            "{waits} in {target} and would be lost; accepted are {accepted}"
        ))
        .hint(format!("let {target} finish them, or add \"--accept-pending {pending}\""))
        .into())
    }

    /// Runs a command that changes the state.
    pub(super) fn step(
        &self,
        command: &HookCommand,
        state: ServiceState,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Cause> {
        let variables = self.variables(state);
        let variables: Vec<(&str, String)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.hook(command).run(&variables, "", cancelled).map_err(|cause| {
            let message = format!("{} cannot go on to {}", self.target(), state.word());
            WorkloadError::failed(message).because(cause).into()
        })
    }

    fn hook(&self, command: &HookCommand) -> Hook {
        Hook {
            command: hooks::words(command),
            timeout: self.config.timeout,
            user: self.config.user.clone(),
        }
    }
}
