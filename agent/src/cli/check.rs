//! `keepwell check`: the proof that every point can be restored.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use storepool::check::{AffectedPoint, CheckOptions, CheckReport, check};

use super::check_vault::check_vault;
use super::{arguments, upkeep};
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::console::Console;
use crate::console::units::{count, counted, duration, seconds, size};
use crate::error::{Attempt, Error, Outcome};

/// What `--read-data` means without a number.
pub(super) const READ_EVERYTHING: &str = "100%";

/// Prove that every point can be restored
///
/// Looks at the structure: directories, index, packs' tables, points and their trees. With --read-data every byte of every pack (or of a share of them,
/// another one each day) is read, decoded and compared too. Finds damage: exit code 5.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell check
  keepwell check --read-data
  keepwell check --read-data=5%        a share; within 20 days everything
  keepwell check --vault               the second copy: that everything is there
  keepwell check --vault --read-data   and that it is what it should be")]
pub(super) struct Check {
    /// Read and compare the data too, of all packs or of so many percent
    #[arg(
        long, value_name = "PERCENT", num_args = 0..=1, require_equals = true,
        default_missing_value = READ_EVERYTHING, value_parser = arguments::percent
    )]
    read_data: Option<f64>,
    /// Check the second copy in this vault, or the only one, instead of the pool
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    vault: Option<String>,
    /// Leave the work to the daemon and do not wait for its end
    #[arg(long)]
    detach: bool,
}

#[derive(Serialize)]
struct Summary {
    sound: bool,
    duration_seconds: f64,
    packs_checked: u64,
    packs_read: u64,
    bytes_read: u64,
    bytes_verified: u64,
    points_checked: u64,
    chunks_needed: u64,
    stale_rows: u64,
    damage_count: u64,
    affected_points: Vec<Affected>,
}

/// A point that cannot be restored completely, for programs.
#[derive(Serialize)]
pub(super) struct Affected {
    point: String,
    path_count: u64,
    paths: Vec<String>,
}

impl Affected {
    pub(super) fn of(affected: &AffectedPoint) -> Self {
        Self {
            point: affected.point.to_string(),
            path_count: affected.path_count,
            paths: affected.paths.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Serialize)]
struct DamageMessage<'a> {
    what: &'static str,
    id: &'a str,
    message: &'a str,
}

impl Check {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let request = upkeep::Request {
            upkeep: Upkeep::Check,
            vault: self.vault.as_deref(),
            options: json!({ "read_percent": self.read_data.unwrap_or_default() }),
            detach: self.detach,
        };
        upkeep::run(assembly, &request, || self.act(assembly))
    }

    fn act(&self, assembly: &Assembly) -> Result<Outcome, Error> {
        if let Some(name) = &self.vault {
            return check_vault(assembly, name, self.read_data);
        }
        let pool = assembly.open_pool()?;
        let options = CheckOptions { read_data: self.read_data };
        let progress =
            assembly.console.progress(if self.read_data.is_some() { "packs" } else { "items" });
        let result = check(&pool, &options, &progress);
        let elapsed = progress.finish();
        let report = result.attempt(|| "check the pool".to_string())?;
        tell(&assembly.console, &report, elapsed);
        let sound = report.is_sound() && report.affected_points.is_empty();
        Ok(if sound { Outcome::Done } else { Outcome::Damage })
    }
}

fn tell(console: &Console, report: &CheckReport, elapsed: Duration) {
    for damage in &report.damages {
        let (what, id, message) = (damage.what.word(), &damage.id, &damage.detail);
        console.message("error", &DamageMessage { what, id, message });
        console.say(format!("damaged: {what} {id}: {message}"));
    }
    let more = report.damage_count.saturating_sub(report.damages.len() as u64);
    if more > 0 {
        console.say(format!("and {} more", count(more)));
    }
    for affected in &report.affected_points {
        tell_affected(console, affected);
    }
    console.message(
        "summary",
        &Summary {
            sound: report.is_sound() && report.affected_points.is_empty(),
            duration_seconds: seconds(elapsed),
            packs_checked: report.packs_checked,
            packs_read: report.packs_read,
            bytes_read: report.bytes_read,
            bytes_verified: report.bytes_verified,
            points_checked: report.points_checked,
            chunks_needed: report.chunks_needed,
            stale_rows: report.stale_rows,
            damage_count: report.damage_count,
            affected_points: report.affected_points.iter().map(Affected::of).collect(),
        },
    );
    console.note(format!(
        "checked {}, {}, {} in {}",
        counted(report.points_checked, "point"),
        counted(report.packs_checked, "pack"),
        counted(report.chunks_needed, "chunk"),
        duration(elapsed)
    ));
    if report.packs_read > 0 {
        let packs = counted(report.packs_read, "pack");
        console.note(format!("read {packs} whole: {} verified", size(report.bytes_verified)));
    }
    if report.is_sound() && report.affected_points.is_empty() {
        console.note("no damage found");
        return;
    }
    let damages = counted(report.damage_count, "damaged object");
    let points = counted(report.affected_points.len() as u64, "point");
    console.warn(format!("{damages}; {points} cannot be restored completely"));
    console.hint("run \"keepwell repair\" to heal what can be healed; it never deletes what can still be read");
}

/// Prints which paths of a point cannot be restored.
pub(super) fn tell_affected(console: &Console, affected: &AffectedPoint) {
    console.say(format!(
        "affected: point {}, {}:",
        affected.point.short(),
        counted(affected.path_count, "path")
    ));
    for path in &affected.paths {
        console.say(format!("  {path}"));
    }
    let more = affected.path_count.saturating_sub(affected.paths.len() as u64);
    if more > 0 {
        console.say(format!("  and {} more", count(more)));
    }
}
