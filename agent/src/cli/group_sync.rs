//! `keepwell sync GROUP...`: the second copy of groups, each to its own vault.

use std::sync::Arc;

use super::sync::{outcome, tell};
use super::workshop;
use crate::assembly::Assembly;
use crate::config::Config;
use crate::error::{Attempt, Error, Outcome};
use crate::job::{self, Task};
use crate::journal::Reason;
use crate::record::{Record, open_journal};
use crate::vaults;

/// Copies the points of the groups `names`.
pub(super) fn run(
    assembly: &Assembly,
    config: &Config,
    names: &[String],
) -> Result<Outcome, Error> {
    let pool = assembly.open_configured(config)?;
    let journal = open_journal(assembly).attempt(|| "enter the run in the journal".to_string())?;
    let workshop = workshop(assembly, config, &pool, &journal);
    let mut worst = Outcome::Done;
    for name in names {
        let group = job::group(config, name)?;
        let attempt = || format!("copy group \"{name}\" to its vault");
        let task = Task::Sync(name.clone()).to_string();
        let record = Record::begin(assembly, &journal, task, Reason::Hand).attempt(attempt)?;
        let progress = Arc::new(assembly.console.progress("chunks"));
        let copied = job::sync::sync(&workshop, assembly, group, progress.clone());
        let elapsed = vaults::finish(progress);
        let result = copied.attempt(attempt).map(|report| {
            let vault = group.vault.as_deref().unwrap_or_default();
            tell(&assembly.console, vault, &report, elapsed);
            match config.vaults.get(vault) {
                Some(config) => outcome(assembly, config, &report),
                None => Outcome::Done,
            }
        });
        let entered = match &result {
            Ok(outcome) => record.end(Ok(*outcome), None),
            Err(error) => record.end(Err(error), None),
        };
        entered.attempt(attempt)?;
        worst = worst.max(result?);
    }
    Ok(worst)
}
