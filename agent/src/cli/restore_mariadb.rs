//! `keepwell restore POINT --to DIR --at WHEN` for MariaDB and MySQL: a data directory that starts, or a dump of all databases, and the binary logs after
//! it ready to be replayed.

use serde::Serialize;
use storepool::catalog::Point;
use storepool::chunks::ChunkSource;
use storepool::manifest::Manifest;
use storepool::monitor::Monitor;

use super::restore_database::{DatabaseOrder, moment};
use crate::assembly::Assembly;
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::origin::Origin;
use crate::workload::PointContents;
use crate::workload::mariadb::MariadbDetail;
use crate::workload::mariadb::programs::Flavour;
use crate::workload::mariadb::recovery::{LogPoint, Target, restore};

#[derive(Serialize)]
struct Summary {
    point: String,
    target: String,
    at: String,
    dry_run: bool,
    duration_seconds: f64,
    bytes: u64,
    binlogs: u64,
    replay: Option<String>,
}

/// Restores a server.
pub(super) fn run(
    assembly: &Assembly,
    origin: &Origin,
    order: &DatabaseOrder<'_>,
) -> Result<Outcome, Error> {
    if !order.tablespaces.is_empty() || order.timeline.is_some() {
        return Err(Error::usage("--tablespace and --timeline are for PostgreSQL"));
    }
    let target = target(order.at)?;
    origin.allow_restore(assembly)?;
    let attempt = || format!("restore {} into {}", order.point, order.directory.display());
    let series = series(origin, order.point).attempt(attempt)?;
    let base = choose_base(&series, order.point, target, origin).attempt(attempt)?;
    let chunks = origin.chunks(series.iter().map(|one| one.point.id)).attempt(attempt)?;
    let progress = assembly.console.progress("files");
    let contents = |one| contents(one, &*chunks, &progress);
    let logs: Vec<LogPoint<'_>> = series
        .iter()
        .map(|one| LogPoint { contents: contents(one), detail: one.detail.clone() })
        .collect();
    let (directory, dry_run) = (order.directory, order.dry_run);
    let restored = restore(&contents(base), &base.detail, &logs, directory, target, dry_run)
        .attempt(attempt)?;
    let elapsed = progress.finish();
    let console = &assembly.console;
    let script = restored.script.as_ref().map(|path| path.display().to_string());
    console.message(
        "summary",
        &Summary {
            point: base.point.id.to_string(),
            target: directory.display().to_string(),
            at: order.at.to_string(),
            dry_run,
            duration_seconds: seconds(elapsed),
            bytes: restored.bytes,
            binlogs: restored.logs,
            replay: script.clone(),
        },
    );
    let kind = if base.detail.physical { "copy" } else { "dump" };
    let copy = format!("{kind} {}", base.point.id.short());
    let logs = counted(restored.logs, "binary log");
    if dry_run {
        console.note(format!("would restore {copy} and {logs} into {}", directory.display()));
        return Ok(Outcome::Done);
    }
    let done = if base.detail.physical { "restored and prepared" } else { "laid out" };
    console.note(format!(
        "{done} {copy} in {}: {} in {}",
        directory.display(),
        size(restored.bytes),
        duration(elapsed)
    ));
    let server = Flavour::of(&base.detail.version).name();
    match script {
        Some(script) if base.detail.physical => console.note(format!(
            "{logs} lie beside it: start {server} on it, reachable by you alone, then run {script} with the options that reach it"
        )),
        Some(script) => console.note(format!(
            "{logs} lie with it: start an empty {server} {}, reachable by you alone, then run {script} with the options that reach it",
            base.detail.version
        )),
        None => {}
    }
    Ok(Outcome::Done)
}

fn contents<'a>(
    one: &'a Described,
    chunks: &'a dyn ChunkSource,
    monitor: &'a dyn Monitor,
) -> PointContents<'a> {
    PointContents { id: one.point.id, manifest: &one.manifest, chunks, monitor }
}

fn target(text: &str) -> Result<Target, Error> {
    match text {
        "base" => Ok(Target::Base),
        "latest" => Ok(Target::Latest),
        text => moment(text).map(Target::Time).ok_or_else(|| {
            Error::usage("--at takes base, latest, or a time such as 2030-12-31T18:00 for MariaDB")
        }),
    }
}

struct Described {
    point: Point,
    manifest: Manifest,
    detail: MariadbDetail,
}

// All points of the series that the named one is of, oldest first.
fn series(origin: &Origin, text: &str) -> Result<Vec<Described>, Cause> {
    let named = origin.select(text)?.0.point;
    let mut series = Vec::new();
    let same = |other: &&Point| {
        (&other.host, &other.group, &other.source) == (&named.host, &named.group, &named.source)
    };
    for point in origin.points().iter().filter(same) {
        let manifest = match origin.manifest(point.id) {
            // Forgotten by somebody else a moment ago.
            Err(Cause::Pool(storepool::Error::PointNotFound { .. })) => continue,
            manifest => manifest?,
        };
        // A description that is not understood is not used; that it was needed is told by what is missing.
        if let Ok(detail) = serde_json::from_str(&manifest.detail) {
            series.push(Described { point: point.clone(), manifest, detail });
        }
    }
    Ok(series)
}

// The point that was named; for `latest` and a time, the newest copy that was complete by then.
fn choose_base<'s>(
    series: &'s [Described],
    text: &str,
    target: Target,
    origin: &Origin,
) -> Result<&'s Described, Cause> {
    let named = origin.select(text)?.0.point.id;
    let is_latest = text == "latest" || text.starts_with("latest:");
    let mut newest = series.iter().rev().filter(|one| one.detail.is_base());
    let found = match target {
        Target::Time(time) if is_latest => newest.find(|one| one.point.finished <= time),
        _ => series.iter().find(|one| one.point.id == named),
    };
    found.ok_or_else(|| {
        Cause::Usage(format!(
            "no copy or dump of the whole server in the series of {text} was complete by then"
        ))
    })
}
