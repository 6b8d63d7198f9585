//! Drills: restores done only to prove that they can be done. A drill restores a sample or all of a source into a sandbox, reads it again from the disk,
//! compares it with what the point says of itself, and leaves a sealed record. What it proves and what not: docs/drills.md.

mod database;
mod opened;
mod record;
mod sample;
mod sandbox;
mod source;

use std::path::PathBuf;

use storepool::catalog::Point;
use storepool::clock::{Clock, SystemClock};
use storepool::entropy::SystemEntropy;

pub(crate) use record::{DrillRecord, Grade, SealKey, Verdict};
pub(crate) use sample::Seed;

use crate::assembly::Assembly;
use crate::config::{Config, DrillConfig, DrillCopy, GroupConfig, SampleSize};
use crate::console::failure;
use crate::error::{Attempt, Cause, Error};
use crate::job::Task;
use crate::journal::DrillKey;
use crate::origin::{Origin, OriginArgs, Side};
use crate::record::open_journal;
use crate::vaults;
use source::SourceDrill;

/// How often the points are listed again when one that was just listed was replaced.
const LOOKS_MOST: usize = 5;
/// What the exit code of damage is.
const DAMAGE: u8 = 5;

/// How a group is drilled.
#[derive(Clone, Debug)]
pub(crate) struct DrillOrder {
    /// Which copy is restored.
    pub(crate) from: DrillCopy,
    /// Which vault; `None`: that of the group, or the only one.
    pub(crate) vault: Option<String>,
    /// How much.
    pub(crate) sample: SampleSize,
    /// The choice of a drill that is to be repeated; `None`: a fresh one.
    pub(crate) seed: Option<Seed>,
    /// The folder for the sandbox; `None`: as the group or the state has it.
    pub(crate) folder: Option<PathBuf>,
}

impl DrillOrder {
    /// Returns how a group is drilled when nothing else is asked for.
    pub(crate) fn of(group: &GroupConfig) -> Self {
        let usual = DrillConfig::default();
        let config = group.drill.as_ref().unwrap_or(&usual);
        Self {
            from: config.from,
            vault: None,
            sample: config.sample,
            seed: None,
            folder: config.folder.clone(),
        }
    }

    /// Returns whether it restores the same copy, and as much of it: then its success counts as that of the group's own drill.
    pub(crate) fn is_as_configured(&self, group: &GroupConfig) -> bool {
        let own = Self::of(group);
        let vault = self.vault.is_none() || self.vault == group.vault;
        self.from == own.from && self.sample == own.sample && vault
    }

    /// Returns what the drill of a group is called in the journal.
    pub(crate) fn name(&self, group: &GroupConfig) -> String {
        match self.is_as_configured(group) {
            true => Task::Drill(group.name.clone()).to_string(),
            // Not the task that comes again: it would count as done.
            false => self
                .options(group)
                .iter()
                .fold(format!("drill {}", group.name), |name, word| format!("{name} {word}")),
        }
    }

    /// Returns the words of the command that drills a group so.
    pub(crate) fn words(&self, group: &GroupConfig) -> Vec<String> {
        let mut words = vec!["drill".to_string(), group.name.clone()];
        words.extend(self.options(group));
        words.extend(self.seed.map(|seed| format!("--seed={seed}")));
        words
    }

    fn options(&self, group: &GroupConfig) -> Vec<String> {
        let own = Self::of(group);
        let mut words = vec![format!("--from={}", self.from.word())];
        words.extend(self.vault.as_ref().map(|vault| format!("--vault={vault}")));
        if self.sample != own.sample {
            words.push(format!("--sample={}", self.sample));
        }
        words
    }
}

/// What came of the drill of a source.
#[derive(Debug)]
pub(crate) struct SourceResult {
    /// The source.
    pub(crate) source: String,
    /// What was found, or why it could not be looked for.
    pub(crate) result: Result<DrillRecord, Error>,
}

/// Drills all sources of a group and keeps the records.
///
/// # Errors
/// The copy cannot be opened, or nothing can be restored from it now. What fails for one source stands in its result.
pub(crate) fn run(
    assembly: &Assembly,
    config: &Config,
    group: &GroupConfig,
    order: &DrillOrder,
) -> Result<Vec<SourceResult>, Error> {
    let attempt = || format!("drill group \"{}\"", group.name);
    let state = assembly.place.state();
    let swept = sandbox::sweep(&state).attempt(attempt)?;
    if swept > 0 {
        tracing::info!(swept, "sandboxes of drills that were ended were removed");
    }
    let key = SealKey::open(&state).attempt(attempt)?;
    let (copy, mut origin) = open(assembly, config, group, order)?;
    origin.allow_restore(assembly)?;
    let seed = order.seed.unwrap_or_else(|| Seed::fresh(&SystemEntropy));
    let mut results = Vec::new();
    for source in &group.sources {
        let name = source.name();
        let drill =
            SourceDrill { assembly, config, group, source: &name, order, seed, copy: &copy };
        let mut found = drilled(&drill, &origin);
        for _ in 1..LOOKS_MOST {
            match &found {
                // A push of the log replaced it after the points were listed.
                Err(Error {
                    cause: Cause::Pool(storepool::Error::PointNotFound { .. }), ..
                }) => {
                    (_, origin) = open(assembly, config, group, order)?;
                    found = drilled(&drill, &origin);
                }
                _ => break,
            }
        }
        let result = found.and_then(|record| {
            keep(assembly, config, &key, &record)
                .attempt(|| format!("keep the record of the drill of {name}"))?;
            Ok(record)
        });
        if let Err(Error { cause: Cause::Pool(storepool::Error::Interrupted), .. }) = &result {
            return Err(Error {
                attempt: String::new(),
                cause: storepool::Error::Interrupted.into(),
            });
        }
        results.push(SourceResult { source: name, result });
    }
    Ok(results)
}

fn open(
    assembly: &Assembly,
    config: &Config,
    group: &GroupConfig,
    order: &DrillOrder,
) -> Result<(String, Origin), Error> {
    match order.from {
        DrillCopy::Pool => {
            Ok(("pool".to_string(), OriginArgs::of(Side::Pool, None).open(assembly)?))
        }
        DrillCopy::Vault => {
            let wanted = order.vault.as_deref().or(group.vault.as_deref());
            let (name, _) = vaults::choose(config, wanted)?;
            let origin = OriginArgs::of(Side::Vault, Some(name.to_string())).open(assembly)?;
            Ok((format!("vault {name}"), origin))
        }
    }
}

// Damage that keeps anything from being restored is a result, too.
fn drilled(drill: &SourceDrill<'_>, origin: &Origin) -> Result<DrillRecord, Error> {
    let attempt = || format!("drill {}", drill.source);
    let point = drill.newest(origin).attempt(attempt)?;
    let now = SystemClock::new().now();
    match drill.run(origin, point, now) {
        Err(error) if failure::code(&error.cause) == DAMAGE => {
            let told = failure::explain(&error).message;
            Ok(drill.hopeless(point, now, told))
        }
        result => result,
    }
}

// With the point, if the pool has it, and in the journal, since a point may go long before the next drill.
fn keep(
    assembly: &Assembly,
    config: &Config,
    key: &SealKey,
    record: &DrillRecord,
) -> Result<(), Cause> {
    let journal = open_journal(assembly)?;
    let verdict = match record.verdict {
        Verdict::Proven => "proven",
        Verdict::Damaged => "damaged",
    };
    let of = DrillKey { group: &record.group, source: &record.source, copy: &record.copy, verdict };
    journal.drilled(&of, &key.seal(record), record.time())?;
    // A pool that is lost is no reason not to have proven the vault.
    let pool = match assembly.open_configured(config) {
        Ok(pool) => pool,
        Err(error) if record.copy != "pool" => {
            tracing::warn!(error = %error.cause.chain(), "the record is not kept with its point");
            return Ok(());
        }
        Err(error) => return Err(error.cause),
    };
    let is_it = |point: &&Point| point.id.to_string() == record.point;
    // Read again: people may have noted something meanwhile.
    if let Some(point) = pool.points()?.iter().find(is_it) {
        pool.set_notes(point.id, &key.with(&point.notes, record))?;
    }
    Ok(())
}
