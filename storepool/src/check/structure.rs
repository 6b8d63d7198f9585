//! The structure of a pool: markers, point files, tables of contents, and whether the index says the same.

use crate::check::{CheckReport, DamagedObject, has_gone};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::index::{PackRow, RowSum};
use crate::marker::{MARKER_NAME, Marker};
use crate::monitor::{Event, Monitor};
use crate::pool::Pool;
use crate::pool::reconcile::list_packs;
use crate::prune::existing_points;

/// Checks that every directory is there and its marker names all of them.
pub(super) fn check_directories(pool: &Pool, report: &mut CheckReport) -> Result<()> {
    for path in pool.missing_paths() {
        report.add(DamagedObject::Directory, path.display(), "there is no pool directory here");
    }
    for directory in pool.directories() {
        let Some(path) = &directory.path else {
            if pool.missing_paths().is_empty() {
                report.add(
                    DamagedObject::Directory,
                    directory.id,
                    "is not at any of the given paths",
                );
            }
            continue;
        };
        let marker = path.join(MARKER_NAME).display().to_string();
        match Marker::read(&*pool.world().disk, path) {
            Ok(Some(found)) => {
                let known = pool.directories().iter();
                if known.clone().any(|other| !found.members.contains(&other.id)) {
                    report.add(DamagedObject::Directory, marker, "does not name all directories");
                }
            }
            Ok(None) => report.add(DamagedObject::Directory, marker, "is missing"),
            Err(error) => report.add(DamagedObject::Directory, marker, error),
        }
    }
    Ok(())
}

/// Checks index and tables of contents against each other. Returns the packs that can be opened.
pub(super) fn check_packs(
    pool: &Pool,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Vec<PackRow>> {
    if let Some(complaint) = pool.index().database().integrity()? {
        report.add(DamagedObject::Index, "pool.db", complaint);
    }
    // Files before rows: a file without a row is one that cannot be used, or was named just now.
    let files = list_packs(pool)?;
    let survey = pool.index().survey()?;
    report.stale_rows = survey.stale_rows;
    let known: std::collections::HashSet<_> = survey.packs.iter().map(|row| row.id).collect();
    for (id, directory) in files.into_iter().filter(|(id, _)| !known.contains(id)) {
        let Some(path) = pool.directory_path(directory) else { continue };
        match pool.open_pack_file(path, id) {
            Ok(_) | Err(Error::PackMissing { .. }) => {}
            Err(error) if error.is_damage() => report.add(DamagedObject::Pack, id, error),
            Err(error) => return Err(error),
        }
    }
    monitor.event(Event::Expected { items: survey.packs.len() as u64, bytes: 0 });
    let mut usable = Vec::with_capacity(survey.packs.len());
    for row in survey.packs {
        if monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        if pool.directory_path(row.directory).is_none() {
            continue;
        }
        match pool.open_pack(&row) {
            Ok(pack) => {
                report.packs_checked += 1;
                let sum = survey.sums.get(&row.no).copied().unwrap_or_default();
                let expected = RowSum::of(row.no, pack.toc());
                if sum != expected {
                    let detail = format!(
                        "of pack {} it has {} rows of chunks that are not all those of its {} chunks",
                        row.id.short(),
                        sum.rows,
                        expected.rows
                    );
                    report.add(DamagedObject::Index, "pool.db", detail);
                    pool.distrust_index();
                }
                usable.push(row);
            }
            Err(error) if has_gone(pool, &row, &error)? => {}
            Err(error) if error.is_damage() => report.add(DamagedObject::Pack, row.id, error),
            Err(error @ Error::Io { .. }) => report.add(DamagedObject::Pack, row.id, error),
            Err(error) => return Err(error),
        }
        monitor.event(Event::Done { items: 1, bytes: 0 });
    }
    Ok(usable)
}

/// Checks every copy of every point file. Returns the points.
pub(super) fn check_points(pool: &Pool, report: &mut CheckReport) -> Result<Vec<PointId>> {
    let mut points = Vec::new();
    for point in pool.points()? {
        let mut failures = Vec::new();
        for files in pool.point_files() {
            let notes = files.notes(point.id).map(|_| ());
            if let Err(error) = files.manifest(point.id).map(|_| ()).and(notes) {
                failures.push(format!("{}: {}", files.path().display(), with_cause(&error)));
            }
        }
        // It may have been forgotten just now.
        if !failures.is_empty() && !pool.catalog().contains(point.id)? {
            continue;
        }
        for failure in failures {
            report.add(DamagedObject::Point, point.id, failure);
        }
        points.push(point.id);
    }
    check_unlisted_points(pool, report)?;
    Ok(points)
}

// Point files that the catalog does not list: written just now, or so damaged that they could not be taken in.
fn check_unlisted_points(pool: &Pool, report: &mut CheckReport) -> Result<()> {
    for point in existing_points(pool)? {
        if pool.catalog().contains(point)? {
            continue;
        }
        let sound = pool.point_files().any(|files| files.manifest(point).is_ok());
        // It may have been forgotten since it was listed.
        if !sound && existing_points(pool)?.contains(&point) {
            report.add(DamagedObject::Point, point, "no copy of its file can be read");
        }
    }
    Ok(())
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
