//! Forget, prune and check, of the pool or of a vault: done by the daemon if one runs, else by the command itself, and entered in the journal either way.

use serde_json::Value;

use super::remote;
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::control::client::Client;
use crate::error::{Error, Outcome};
use crate::job::Task;
use crate::record::recorded;
use crate::vaults;

/// What is asked for.
pub(super) struct Request<'a> {
    /// Which work.
    pub(super) upkeep: Upkeep,
    /// `None`: on the pool; an empty name: on the only vault.
    pub(super) vault: Option<&'a str>,
    /// How, as the control socket takes it.
    pub(super) options: Value,
    /// Do not wait for the end of the daemon's job.
    pub(super) detach: bool,
}

impl Request<'_> {
    fn task(&self, assembly: &Assembly) -> Result<Task, Error> {
        let Some(name) = self.vault else { return Ok(Task::Pool(self.upkeep)) };
        let config = assembly.config()?;
        let (name, _) = vaults::choose(&config, Some(name).filter(|name| !name.is_empty()))?;
        Ok(Task::Vault(self.upkeep, name.to_string()))
    }
}

/// Has it done: by the daemon, or by `here`.
pub(super) fn run(
    assembly: &Assembly,
    request: &Request<'_>,
    here: impl FnOnce() -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    // As a job of the daemon, which enters it itself.
    if assembly.job.is_some() {
        return here();
    }
    let task = request.task(assembly)?;
    if let Some(client) = Client::connect(&assembly.place) {
        return remote::upkeep(assembly, &client, &task, &request.options, request.detach);
    }
    if request.detach {
        return Err(Error::usage("--detach leaves the work to the daemon, and none runs here"));
    }
    recorded(assembly, &task.to_string(), here)
}
