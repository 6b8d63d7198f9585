//! `keepwell restore POINT --to DIR --at WHEN`: a data directory that starts, out of a point of a database and the log that belongs to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::manifest::Manifest;

use super::restore_mariadb;
use crate::assembly::Assembly;
use crate::console::units::{counted, duration, seconds, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::origin::Origin;
use crate::workload::PointContents;
use crate::workload::mariadb::WORKLOAD as MARIADB;
use crate::workload::postgres::base::BaseDetail;
use crate::workload::postgres::recovery::{ClusterOrder, RestoredCluster, WalPoint, restore};
use crate::workload::postgres::route::Target;
use crate::workload::postgres::{PostgresDetail, WORKLOAD as POSTGRES};

/// The kinds whose points become data directories.
pub(super) const KINDS: [&str; 2] = [POSTGRES, MARIADB];

/// How often the list of points is read again when WAL that was just listed was replaced by newer WAL.
const LOOKS_MOST: usize = 5;

/// What was asked for.
#[derive(Debug)]
pub(super) struct DatabaseOrder<'a> {
    /// The point, as it was typed.
    pub(super) point: &'a str,
    /// The new data directory.
    pub(super) directory: &'a Path,
    /// How far: `base`, `latest`, a time, an LSN.
    pub(super) at: &'a str,
    /// `OLD=NEW`.
    pub(super) tablespaces: &'a [String],
    /// The timeline; `None`: the newest.
    pub(super) timeline: Option<u32>,
    /// Check and plan only.
    pub(super) dry_run: bool,
}

#[derive(Serialize)]
struct Summary {
    point: String,
    target: String,
    at: String,
    dry_run: bool,
    duration_seconds: f64,
    files: u64,
    bytes: u64,
    wal_files: u64,
    timeline: u32,
    base_end: String,
    tablespaces: Vec<String>,
}

/// Restores a database. `open` opens the copy that is read, anew each time.
pub(super) fn run(
    assembly: &Assembly,
    open: &dyn Fn() -> Result<Origin, Error>,
    order: &DatabaseOrder<'_>,
) -> Result<Outcome, Error> {
    let kind = open()?.select(order.point).attempt(|| "restore".to_string())?.0.point.workload;
    if kind == MARIADB {
        return restore_mariadb::run(assembly, &open()?, order);
    }
    let target = target(order.at).map_err(Error::usage)?;
    let tablespaces = tablespaces(order.tablespaces).map_err(Error::usage)?;
    let attempt = || format!("restore {} into {}", order.point, order.directory.display());
    let mut looks = 1;
    let (origin, base, wal) = loop {
        let origin = open()?;
        origin.allow_restore(assembly)?;
        let base = choose_base(&origin, order.point, target).attempt(attempt)?;
        match origin.wal_of(&base.point) {
            // A push replaced it in between.
            Err(Cause::Pool(storepool::Error::PointNotFound { .. })) if looks < LOOKS_MOST => {
                looks += 1;
            }
            wal => break (origin, base, wal.attempt(attempt)?),
        }
    };
    let ids = wal.iter().map(|(id, _)| *id).chain([base.point.id]);
    let chunks = origin.chunks(ids).attempt(attempt)?;
    let progress = assembly.console.progress("files");
    let contents =
        |id, manifest| PointContents { id, manifest, chunks: &*chunks, monitor: &progress };
    let point = contents(base.point.id, &base.manifest);
    let mut readable = Vec::new();
    for (id, manifest) in &wal {
        match WalPoint::open(contents(*id, manifest)) {
            Ok(point) => readable.push(point),
            // What it had is missing then, if it is needed, and told as that.
            Err(Cause::Pool(error)) if error.is_damage() => {
                let id = id.short();
                assembly.console.warn(format!("WAL point {id} is damaged and left out: {error}"));
            }
            Err(cause) => return Err(cause).attempt(attempt),
        }
    }
    let wal = readable;
    let cluster = ClusterOrder {
        directory: order.directory,
        tablespaces: &tablespaces,
        target,
        timeline: order.timeline,
        dry_run: order.dry_run,
    };
    let restored = restore(&point, &wal, &base.detail, &cluster).attempt(attempt)?;
    let elapsed = progress.finish();
    let summary = Summary {
        point: base.point.id.to_string(),
        target: order.directory.display().to_string(),
        at: target.to_string(),
        dry_run: order.dry_run,
        duration_seconds: seconds(elapsed),
        files: restored.files,
        bytes: restored.bytes,
        wal_files: restored.wal_files,
        timeline: restored.timeline,
        base_end: restored.base_end.to_string(),
        tablespaces: restored.tablespaces.iter().map(|path| path.display().to_string()).collect(),
    };
    assembly.console.message("summary", &summary);
    tell(assembly, &base.point, &restored, &summary, &duration(elapsed));
    Ok(Outcome::Done)
}

fn tell(
    assembly: &Assembly,
    point: &Point,
    restored: &RestoredCluster,
    summary: &Summary,
    elapsed: &str,
) {
    let console = &assembly.console;
    let wal = counted(restored.wal_files, "file");
    if summary.dry_run {
        console.note(format!(
            "would restore base {} and {wal} of WAL into {}, to {}",
            point.id.short(),
            summary.target,
            summary.at
        ));
        return;
    }
    console.note(format!(
        "restored base {}: {}, {} in {elapsed}; {wal} of WAL lie beside it",
        point.id.short(),
        counted(restored.files, "file"),
        size(restored.bytes),
    ));
    for place in &summary.tablespaces {
        console.note(format!("a tablespace is in {place}"));
    }
    console.note(format!(
        "start PostgreSQL on {}: it recovers to {} and then takes connections",
        summary.target, summary.at
    ));
    console.note(
        "archive_mode is off in it, and keepwell_wal in it may go after its recovery: see the end of postgresql.auto.conf",
    );
}

/// A base that was chosen.
struct Base {
    point: Point,
    manifest: Manifest,
    detail: BaseDetail,
}

// The point that was named; for `latest` and a time or a place, the newest base that ended before.
fn choose_base(origin: &Origin, text: &str, target: Target) -> Result<Base, Cause> {
    let (selection, manifest) = origin.select(text)?;
    let point = selection.point;
    let is_latest = text == "latest" || text.starts_with("latest:");
    if !is_latest || !matches!(target, Target::Time(_) | Target::Lsn(_)) {
        return base_of(point, manifest)?.ok_or_else(no_base);
    }
    let series = origin.points().iter().rev().filter(|other| {
        (&other.host, &other.group, &other.source) == (&point.host, &point.group, &point.source)
    });
    for other in series {
        let manifest = match origin.manifest(other.id) {
            Err(Cause::Pool(storepool::Error::PointNotFound { .. })) => continue,
            manifest => manifest?,
        };
        let Some(base) = base_of(other.clone(), manifest)? else { continue };
        let ended_before = match target {
            Target::Time(time) => base.point.finished <= time,
            Target::Lsn(lsn) => base.detail.end <= lsn,
            Target::Base | Target::Latest => true,
        };
        if ended_before {
            return Ok(base);
        }
    }
    Err(Cause::Usage(format!("no base of {} ended before {target}", point.source)))
}

fn base_of(point: Point, manifest: Manifest) -> Result<Option<Base>, Cause> {
    if point.workload != POSTGRES {
        return Err(Cause::Usage(format!(
            "--at is for points of databases; point {} is of kind {}",
            point.id.short(),
            point.workload
        )));
    }
    let detail: Option<PostgresDetail> = serde_json::from_str(&manifest.detail).ok();
    let base = detail.and_then(|detail| detail.base);
    Ok(base.map(|detail| Base { point, manifest, detail }))
}

fn no_base() -> Cause {
    Cause::Usage("the point has dumps only, no base of the whole cluster".to_string())
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "base" => return Ok(Target::Base),
        "latest" => return Ok(Target::Latest),
        _ => {}
    }
    if text.contains('/') {
        return text.parse().map(Target::Lsn);
    }
    moment(text).map(Target::Time).ok_or_else(|| {
        "--at takes base, latest, a time such as 2030-12-31T18:00, or an LSN such as 0/3000148"
            .to_string()
    })
}

/// Reads a moment with a zone, or one of the local zone.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    let moment: Option<jiff::Timestamp> = text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::system()).ok()?.timestamp())
    });
    let nanos = moment.and_then(|moment| i64::try_from(moment.as_nanosecond()).ok());
    nanos.map(Timestamp)
}

fn tablespaces(texts: &[String]) -> Result<BTreeMap<PathBuf, PathBuf>, String> {
    let wrong = || "--tablespace takes OLD=NEW, two absolute paths".to_string();
    let pair = |text: &String| {
        let (old, new) = text.split_once('=').ok_or_else(wrong)?;
        let both_absolute = old.starts_with('/') && new.starts_with('/');
        both_absolute.then(|| (old.into(), new.into())).ok_or_else(wrong)
    };
    texts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::postgres::lsn::Lsn;

    #[test]
    fn a_target_is_a_word_a_time_or_a_place() {
        assert_eq!(target("base"), Ok(Target::Base));
        assert_eq!(target("latest"), Ok(Target::Latest));
        assert_eq!(target("1/A0"), Ok(Target::Lsn(Lsn(0x1_0000_00a0))));
        let time = Target::Time(Timestamp(1_701_388_800_500_000_000));
        assert_eq!(target("2023-12-01T00:00:00.5Z"), Ok(time));
        assert_eq!(target("2023-12-01T01:00:00.5+01:00"), Ok(time));
        assert!(target("2023-12-01 00:00").is_ok());
        for wrong in ["", "yesterday", "1/x", "/"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tablespaces_are_moved_by_pairs_of_paths() {
        let one = tablespaces(&["/old=/new".to_string()]).unwrap();
        assert_eq!(one.get(Path::new("/old")), Some(&PathBuf::from("/new")));
        for wrong in ["/old", "old=/new", "/old=new"] {
            assert!(tablespaces(&[wrong.to_string()]).is_err(), "{wrong}");
        }
    }
}
