//! `keepwell sync`: the second copy now.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cloudsync::sync::SyncReport;
use serde::Serialize;
use storepool::pool::Pool;

use super::vault_forget::warn_of_full_source;
use super::{group_sync, remote};
use crate::assembly::Assembly;
use crate::config::VaultConfig;
use crate::console::Console;
use crate::console::units::{counted, duration, seconds, size};
use crate::control::client::Client;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::vaults::{self, Engine, OwnVault};

/// Copy all points that the vault does not have to the vault
///
/// Without --vault to every vault of the configuration. Only what the vault lacks is uploaded, encrypted with a key that the passphrase opens. Interrupted, it goes on where it was.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell sync
  keepwell sync web
  keepwell sync --vault main")]
pub(super) struct Sync {
    /// Only the points of these groups, each to its vault
    #[arg(value_name = "GROUP", conflicts_with = "vault")]
    groups: Vec<String>,
    /// Which vault of the configuration (all)
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    vault: String,
    points_copied: Vec<String>,
    points_skipped: Vec<SkippedPoint>,
    points_refused: Vec<String>,
    points: u64,
    packs: u64,
    objects: u64,
    bytes_uploaded: u64,
    bytes_stored: u64,
    generation: u64,
    witness: String,
    duration_seconds: f64,
}

#[derive(Serialize)]
struct SkippedPoint {
    point: String,
    reason: String,
}

impl Sync {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        if !self.groups.is_empty() {
            let client = match assembly.job {
                None => Client::connect(&assembly.place),
                Some(_) => None,
            };
            return match client {
                Some(client) => remote::sync(assembly, &client, &self.groups),
                None => group_sync::run(assembly, &config, &self.groups),
            };
        }
        let chosen = match &self.vault {
            None if config.vaults.len() > 1 => {
                config.vaults.iter().map(|(name, vault)| (name.as_str(), vault)).collect()
            }
            name => vec![vaults::choose(&config, name.as_deref())?],
        };
        let pool = assembly.open_configured(&config)?;
        let engine = Engine::start()?;
        let mut outcome = Outcome::Done;
        let mut failure = None;
        for (name, vault) in chosen {
            // One vault that fails is no reason not to copy to the next.
            match copy(assembly, &pool, &engine, name, vault) {
                Ok(Outcome::Done) => {}
                Ok(other) => outcome = other,
                Err(error @ Error { cause: Cause::Pool(storepool::Error::Interrupted), .. }) => {
                    return Err(error);
                }
                Err(error) => {
                    if let Some(before) = failure.replace(error) {
                        assembly.console.complain(&before);
                    }
                }
            }
        }
        failure.map_or(Ok(outcome), Err)
    }
}

fn copy(
    assembly: &Assembly,
    pool: &Arc<Pool>,
    engine: &Engine,
    name: &str,
    vault: &VaultConfig,
) -> Result<Outcome, Error> {
    let attempt = || format!("copy to the vault \"{name}\"");
    let mut own = OwnVault::open(assembly, engine, name, vault).attempt(attempt)?;
    let progress = Arc::new(assembly.console.progress("chunks"));
    let copied = own.sync(engine, pool, progress.clone());
    let elapsed = vaults::finish(progress);
    let report = copied.attempt(attempt)?;
    tell(&assembly.console, name, &report, elapsed);
    Ok(outcome(assembly, vault, &report))
}

/// Returns how a sync ended, and warns of sources that have as many points as there can be.
pub(super) fn outcome(assembly: &Assembly, vault: &VaultConfig, report: &SyncReport) -> Outcome {
    for full in &report.fullest {
        warn_of_full_source(&assembly.console, &full.source, full.points, vault);
    }
    match (report.refused.is_empty(), report.skipped.is_empty()) {
        (false, _) => Outcome::Refused,
        (true, false) => Outcome::Incomplete,
        (true, true) => Outcome::Done,
    }
}

pub(super) fn tell(console: &Console, name: &str, report: &SyncReport, elapsed: Duration) {
    let skipped = report.skipped.iter().map(|skipped| SkippedPoint {
        point: skipped.point.to_string(),
        reason: skipped.reason.clone(),
    });
    console.message(
        "summary",
        &Summary {
            vault: name.to_string(),
            points_copied: report.copied.iter().map(ToString::to_string).collect(),
            points_skipped: skipped.collect(),
            points_refused: report.refused.iter().map(ToString::to_string).collect(),
            points: report.points,
            packs: report.packs,
            objects: report.objects,
            bytes_uploaded: report.bytes,
            bytes_stored: report.bytes_stored,
            generation: report.generation.0,
            witness: report.witness.to_string(),
            duration_seconds: seconds(elapsed),
        },
    );
    let copied = report.copied.len() as u64;
    if copied == 0 && report.skipped.is_empty() {
        console.note(format!("the vault \"{name}\" has all points"));
    } else {
        console.note(format!(
            "copied {} to the vault \"{name}\": {} uploaded in {} in {}",
            counted(copied, "point"),
            size(report.bytes),
            counted(report.objects, "object"),
            duration(elapsed)
        ));
    }
    console.note(format!(
        "the vault holds {} in {}; witness {}",
        counted(report.points, "point"),
        size(report.bytes_stored),
        report.witness
    ));
    if !report.refused.is_empty() {
        let points = counted(report.refused.len() as u64, "point");
        console.warn(format!("{points} refused: the vault holds as many of the source as it can"));
    }
    for skipped in &report.skipped {
        console.warn(format!("point {} was not copied: {}", skipped.point.short(), skipped.reason));
    }
}
