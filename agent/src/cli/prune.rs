//! `keepwell prune`: the space that no point needs.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use storepool::prune::{Fate, PruneOptions, PruneReport, prune};

use super::{arguments, upkeep, vault_prune};
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Error, Outcome};

/// Give back the space that no point needs
///
/// Packs that nothing needs are deleted; poor ones are copied without what is not needed. Backups and restores may run meanwhile, and an interrupted
/// prune loses nothing. On a full disk the reserve is used.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell prune -n
  keepwell prune --max-unused 0 --wait 1h
  keepwell prune --vault")]
pub(super) struct Prune {
    /// Show what would be done, but change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Copy packs until at most so much of the pool is unused; 0 copies all, unlimited none
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = arguments::percent)]
    max_unused: f64,
    /// Prune a vault instead of the pool; forgotten points first go for good, what they needed is deleted by a later prune
    #[arg(long, value_name = "NAME")]
    vault: Option<Option<String>>,
    /// If another prune runs, wait for it this long
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    wait: Option<Duration>,
    /// Leave the work to the daemon and do not wait for its end
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    duration_seconds: f64,
    packs_deleted: u64,
    packs_repacked: u64,
    packs_kept: u64,
    packs_waiting: u64,
    packs_unreadable: u64,
    bytes_freed: i64,
    bytes_copied: u64,
    bytes_waiting: u64,
    bytes_unused_left: u64,
    chunks_removed: u64,
    stopped_for_space: bool,
    plan: BTreeMap<&'static str, Packs>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Packs {
    packs: u64,
    bytes: u64,
    bytes_unused: u64,
}

impl Prune {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        // A plan is asked for by somebody who waits for it, and is no run of the task.
        if self.dry_run {
            return self.act(assembly);
        }
        let vault = self.vault.clone();
        let request = upkeep::Request {
            upkeep: Upkeep::Prune,
            vault: vault.as_ref().map(|vault| vault.as_deref().unwrap_or_default()),
            options: json!({ "max_unused_percent": self.max_unused }),
            detach: self.detach,
        };
        upkeep::run(assembly, &request, || self.act(assembly))
    }

    fn act(&self, assembly: &Assembly) -> Result<Outcome, Error> {
        if let Some(vault) = &self.vault {
            let (dry_run, max_unused) = (self.dry_run, self.max_unused);
            return assembly.wait_while_busy(self.wait, || {
                vault_prune::run(assembly, vault.as_deref(), dry_run, max_unused)
            });
        }
        let options = PruneOptions {
            dry_run: self.dry_run,
            max_unused_percent: self.max_unused,
            repack_all: self.max_unused == 0.0,
        };
        let (report, elapsed) = assembly.wait_while_busy(self.wait, || {
            let pool = assembly.open_pool()?;
            let progress = assembly.console.progress("packs");
            let result = prune(&pool, &options, &progress);
            let elapsed = progress.finish();
            Ok((result.attempt(|| "prune".to_string())?, elapsed))
        })?;
        tell(assembly, &report, elapsed);
        let incomplete = report.packs_unreadable > 0 || report.stopped_for_space;
        Ok(if incomplete { Outcome::Incomplete } else { Outcome::Done })
    }
}

fn fate_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Keep => "keep",
        Fate::KeepInUse => "keep_in_use",
        Fate::KeepUnreadable => "keep_unreadable",
        Fate::Pardon => "pardon",
        Fate::Delete => "delete",
        Fate::RepackPoor => "repack_poor",
        Fate::RepackSmall => "repack_small",
    }
}

fn tell(assembly: &Assembly, report: &PruneReport, elapsed: Duration) {
    let console = &assembly.console;
    let mut plan: BTreeMap<&'static str, Packs> = BTreeMap::new();
    for planned in &report.plan.packs {
        let packs = plan.entry(fate_word(planned.fate)).or_default();
        packs.packs += 1;
        packs.bytes += planned.pack.length;
        packs.bytes_unused += planned.pack.unused_bytes;
        if console.verbosity() > 0 {
            console.note(format!(
                "{} {}: {} of {} unused",
                fate_word(planned.fate),
                planned.pack.id.short(),
                size(planned.pack.unused_bytes),
                size(planned.pack.length)
            ));
        }
    }
    console.message(
        "summary",
        &Summary {
            dry_run: report.dry_run,
            duration_seconds: seconds(elapsed),
            packs_deleted: report.packs_deleted,
            packs_repacked: report.packs_repacked,
            packs_kept: report.packs_kept,
            packs_waiting: report.packs_waiting,
            packs_unreadable: report.packs_unreadable,
            bytes_freed: report.bytes_freed,
            bytes_copied: report.bytes_copied,
            bytes_waiting: report.bytes_waiting,
            bytes_unused_left: report.bytes_unused_left,
            chunks_removed: report.chunks_removed,
            stopped_for_space: report.stopped_for_space,
            plan,
        },
    );
    let would = if report.dry_run { "would be " } else { "" };
    let freed = match u64::try_from(report.bytes_freed) {
        Ok(bytes) => format!("{} {would}freed", size(bytes)),
        Err(_) => format!("{} more in use", size(report.bytes_freed.unsigned_abs())),
    };
    console.note(format!(
        "{} {would}deleted, {} copied ({}), {} kept",
        counted(report.packs_deleted, "pack"),
        report.packs_repacked,
        size(report.bytes_copied),
        report.packs_kept
    ));
    console.note(format!("{freed} in {}", duration(elapsed)));
    if report.bytes_unused_left > 0 {
        console.note(format!("{} unused, not worth copying for", size(report.bytes_unused_left)));
    }
    if report.packs_waiting > 0 {
        let packs = counted(report.packs_waiting, "pack");
        let bytes = size(report.bytes_waiting);
        console.note(format!("{packs} ({bytes}) may still be in use; a later prune removes them"));
    }
    if report.packs_unreadable > 0 {
        let packs = counted(report.packs_unreadable, "pack");
        console.warn(format!("{packs} cannot be read and were left alone; run \"keepwell check\""));
    }
    if report.stopped_for_space {
        console.warn("the disk is too full to copy everything; run \"keepwell prune\" again");
    }
}
