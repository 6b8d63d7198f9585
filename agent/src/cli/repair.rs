//! `keepwell repair`: mends what can be mended, says what cannot.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use storepool::check::AffectedPoint;
use storepool::pool::World;
use storepool::repair::{RepairOptions, RepairReport, repair_from};

use super::check::{Affected, tell_affected};
use super::repair_vault::repair_vault;
use super::{arguments, check::READ_EVERYTHING};
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{count, counted, duration, local, rfc3339, seconds};
use crate::error::{Attempt, Error, Outcome};
use crate::healing::ConfiguredVaults;

/// Mend what can be mended, and say what cannot
///
/// Reads every pack. What can be read of a damaged pack is copied to a new one, then the damaged file is moved aside; index, point files and markers are
/// made anew from what is sound; what is lost here is fetched from the vaults. With --vault it is the other way round: what is damaged or missing in a
/// vault is replaced from the pool. Nothing that could still be read is ever deleted, and a point with holes stays.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell repair -n
  keepwell repair --wait 10m
  keepwell repair --vault              puts again what the vault has lost
  keepwell repair --vault --read-data  the same, after reading everything there
  keepwell repair --recover-points     brings back points of which only the packs know")]
pub(super) struct Repair {
    /// Show what is wrong and what would be done, but change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Write point files again of which only packs know; points forgotten since the last prune come back too
    #[arg(long)]
    recover_points: bool,
    /// Throw the index away and make it anew, even if it looks sound
    #[arg(long)]
    rebuild_index: bool,
    /// If the pool is in use, wait this long
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    wait: Option<Duration>,
    /// Repair the second copy in this vault, or the only one, instead of the pool
    #[arg(
        long, value_name = "NAME", num_args = 0..=1, require_equals = true,
        default_missing_value = "", conflicts_with_all = ["dry_run", "recover_points", "rebuild_index", "wait"]
    )]
    vault: Option<String>,
    /// With --vault: fetch and compare the data too, of all packs or of so many percent
    #[arg(
        long, value_name = "PERCENT", num_args = 0..=1, require_equals = true,
        default_missing_value = READ_EVERYTHING, value_parser = arguments::percent, requires = "vault"
    )]
    read_data: Option<f64>,
}

#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    whole: bool,
    duration_seconds: f64,
    index_rebuilt: bool,
    markers_mended: Vec<PathBuf>,
    point_files_mended: u64,
    packs_damaged: Vec<Pack>,
    points_found: Vec<Found>,
    manifests_stored: u64,
    chunks_healed: u64,
    chunks_missing: u64,
    affected_points: Vec<Affected>,
}

#[derive(Serialize)]
struct Pack {
    id: String,
    detail: String,
    path: PathBuf,
    chunks_sound: u64,
    chunks_lost: u64,
}

#[derive(Serialize)]
struct Found {
    id: String,
    started: String,
    group: String,
    source: String,
    recovered: bool,
}

impl Repair {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        if let Some(name) = &self.vault {
            return repair_vault(assembly, name, self.read_data);
        }
        let config = assembly.config()?;
        let vaults = ConfiguredVaults::new(assembly, &config);
        let options = RepairOptions {
            rebuild_index: self.rebuild_index,
            dry_run: self.dry_run,
            recover_points: self.recover_points,
        };
        let (report, elapsed) = assembly.wait_while_busy(self.wait, || {
            let pool = config.pool.options(assembly.holder());
            let progress = assembly.console.progress("packs");
            let (paths, world) = (&config.pool.paths, World::system());
            let result = repair_from(paths, pool, world, &options, &vaults, &progress);
            let elapsed = progress.finish();
            Ok((result.attempt(|| "repair the pool".to_string())?, elapsed))
        })?;
        for trouble in vaults.troubles() {
            assembly.console.warn(format!("a vault could not help: {trouble}"));
        }
        tell(&assembly.console, &report, elapsed);
        let damaged = !report.is_whole() || (self.dry_run && !report.packs_damaged.is_empty());
        Ok(if damaged { Outcome::Damage } else { Outcome::Done })
    }
}

fn summary(report: &RepairReport, elapsed: Duration) -> Summary {
    Summary {
        dry_run: report.dry_run,
        whole: report.is_whole(),
        duration_seconds: seconds(elapsed),
        index_rebuilt: report.index_rebuilt,
        markers_mended: report.markers_mended.clone(),
        point_files_mended: report.point_files_mended,
        packs_damaged: report
            .packs_damaged
            .iter()
            .map(|pack| Pack {
                id: pack.id.to_string(),
                detail: pack.detail.clone(),
                path: pack.path.clone(),
                chunks_sound: pack.chunks_sound,
                chunks_lost: pack.chunks_lost,
            })
            .collect(),
        points_found: report
            .points_found
            .iter()
            .map(|point| Found {
                id: point.id.to_string(),
                started: rfc3339(point.started),
                group: point.group.clone(),
                source: point.source.clone(),
                recovered: point.recovered,
            })
            .collect(),
        manifests_stored: report.manifests_stored,
        chunks_healed: report.chunks_healed,
        chunks_missing: report.chunks_missing,
        affected_points: report.affected_points.iter().map(Affected::of).collect(),
    }
}

fn tell(console: &Console, report: &RepairReport, elapsed: Duration) {
    console.message("summary", &summary(report, elapsed));
    let would = if report.dry_run { "would be " } else { "" };
    for path in &report.markers_mended {
        console.say(format!("marker {would}written anew: {}", path.display()));
    }
    if report.index_rebuilt {
        console.say("index made anew");
    }
    for pack in &report.packs_damaged {
        console.say(format!(
            "damaged pack {}: {}; {} {would}saved, {} lost; file {}",
            pack.id.short(),
            pack.detail,
            counted(pack.chunks_sound, "chunk"),
            count(pack.chunks_lost),
            pack.path.display()
        ));
    }
    if report.point_files_mended > 0 {
        console.say(format!("{} written again", counted(report.point_files_mended, "point file")));
    }
    for point in &report.points_found {
        let state = if point.recovered { "recovered" } else { "not in the list of points" };
        console.say(format!(
            "point {} of {}, {}: {state}",
            point.id.short(),
            point.source,
            local(point.started)
        ));
    }
    if report.manifests_stored > 0 {
        let manifests = counted(report.manifests_stored, "manifest");
        console.say(format!("{manifests} stored again from point files"));
    }
    if report.chunks_healed > 0 {
        console.say(format!("{} healed from the vault", counted(report.chunks_healed, "chunk")));
    }
    report.affected_points.iter().for_each(|point: &AffectedPoint| tell_affected(console, point));
    if !report.points_found.iter().all(|point| point.recovered) {
        console.hint(
            "\"keepwell repair --recover-points\" brings these points back, forgotten ones too",
        );
    }
    if report.is_whole() {
        console.note(format!("every point is whole ({})", duration(elapsed)));
        return;
    }
    let chunks = counted(report.chunks_missing, "chunk");
    let points = counted(report.affected_points.len() as u64, "point");
    console
        .warn(format!("{chunks} cannot be found anywhere; {points} cannot be restored completely"));
    console
        .hint("a new backup stores again what is still there at the source, and so may heal them");
}
