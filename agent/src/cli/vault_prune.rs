//! `keepwell prune --vault`: the space of a vault that no point needs.

use std::sync::Arc;
use std::time::Duration;

use cloudsync::prune::{PruneOptions, PruneReport, Tally};
use serde::Serialize;

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::{self, Engine, OwnVault};

#[derive(Serialize)]
struct Summary {
    vault: String,
    dry_run: bool,
    duration_seconds: f64,
    points_gone: Vec<String>,
    objects_condemned: u64,
    bytes_condemned: u64,
    orphans_condemned: u64,
    objects_deleted: u64,
    bytes_freed: u64,
    objects_waiting: u64,
    bytes_waiting: u64,
    packs_repacked: u64,
    packs_written: u64,
    bytes_uploaded: u64,
    chunks_from_pool: u64,
    chunks_from_vault: u64,
    packs_unreadable: u64,
    bytes_unused_left: Option<u64>,
    objects_missing: Vec<String>,
    clock_doubt: Option<String>,
    may_not_delete: bool,
    bytes_stored: u64,
    generation: u64,
    witness: String,
}

pub(super) fn run(
    assembly: &Assembly,
    name: Option<&str>,
    dry_run: bool,
    max_unused_percent: f64,
) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (name, vault) = vaults::choose(&config, name)?;
    let attempt = || format!("prune the vault \"{name}\"");
    let pool = assembly.open_configured(&config)?;
    let engine = Engine::start()?;
    let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
    let options = PruneOptions {
        dry_run,
        undelete: vault.undelete,
        max_unused_percent,
        repack_all: max_unused_percent == 0.0,
        ..PruneOptions::default()
    };
    let progress = Arc::new(assembly.console.progress("packs"));
    let pruned = own.prune(&engine, &pool, &options, progress.clone());
    let elapsed = vaults::finish(progress);
    let report = pruned.attempt(attempt)?;
    tell(&assembly.console, name, dry_run, &report, elapsed);
    let unsure = report.clock_doubt.is_some() || report.bytes_unused.is_none();
    let skipped = report.packs_unreadable > 0 || report.may_not_delete;
    Ok(match (report.missing.is_empty(), unsure && max_unused_percent < 100.0 || skipped) {
        (false, _) => Outcome::Damage,
        (true, true) => Outcome::Incomplete,
        (true, false) => Outcome::Done,
    })
}

fn tell(console: &Console, name: &str, dry_run: bool, report: &PruneReport, elapsed: Duration) {
    console.message(
        "summary",
        &Summary {
            vault: name.to_string(),
            dry_run,
            duration_seconds: seconds(elapsed),
            points_gone: report.points_gone.iter().map(ToString::to_string).collect(),
            objects_condemned: report.condemned.objects,
            bytes_condemned: report.condemned.bytes,
            orphans_condemned: report.orphans.objects,
            objects_deleted: report.deleted.objects,
            bytes_freed: report.deleted.bytes,
            objects_waiting: report.waiting.objects,
            bytes_waiting: report.waiting.bytes,
            packs_repacked: report.repacked.objects,
            packs_written: report.packs_written,
            bytes_uploaded: report.bytes_written,
            chunks_from_pool: report.chunks_from_pool,
            chunks_from_vault: report.chunks_from_vault,
            packs_unreadable: report.packs_unreadable,
            bytes_unused_left: report.bytes_unused,
            objects_missing: report.missing.iter().map(ToString::to_string).collect(),
            clock_doubt: report.clock_doubt.map(|doubt| doubt.to_string()),
            may_not_delete: report.may_not_delete,
            bytes_stored: report.bytes_stored,
            generation: report.generation.0,
            witness: report.witness.to_string(),
        },
    );
    let would = if dry_run { "would be " } else { "" };
    let amount =
        |tally: &Tally| format!("{}, {}", counted(tally.objects, "object"), size(tally.bytes));
    for (tally, what) in [
        (&report.deleted, "deleted"),
        (&report.condemned, "condemned, to be deleted by a later prune"),
        (&report.repacked, "copied without what is not needed"),
    ] {
        if tally.objects > 0 {
            console.note(format!("{would}{what}: {}", amount(tally)));
        }
    }
    if !report.points_gone.is_empty() {
        let points = counted(report.points_gone.len() as u64, "forgotten point");
        console.note(format!("{points} {would}gone for good"));
    }
    if report.waiting.objects > 0 {
        console.note(format!("waiting for their time: {}", amount(&report.waiting)));
    }
    console.note(format!(
        "the vault \"{name}\" holds {}; took {}; witness {}",
        size(report.bytes_stored),
        duration(elapsed),
        report.witness
    ));
    if let Some(doubt) = &report.clock_doubt {
        console.warn(format!("nothing was condemned or deleted: {doubt}"));
    }
    if report.may_not_delete {
        console.warn("the vault does not let this server delete: what is due waits for its owner");
    }
    if report.packs_unreadable > 0 {
        let packs = counted(report.packs_unreadable, "pack");
        console.warn(format!("{packs} cannot be read and stay; run \"keepwell check --vault\""));
    }
    for name in &report.missing {
        console.warn(format!("\"{name}\" is missing from the vault or was changed there"));
    }
    if !report.missing.is_empty() {
        console.hint("run \"keepwell repair --vault\" to put back from the pool what it has");
    }
}
