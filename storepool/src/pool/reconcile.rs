//! Reconciliation: makes index and catalog say what the files say. Runs whenever a pool is opened.
//!
//! What a crash, a power cut or an old copy of the index can leave: packs without rows (their process died before the index learned of
//! them), rows without packs, points without rows, rows of points that are gone, scraps in `tmp/`. All of it is put right here, by
//! listing names; only what is unknown is read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::Point;
use crate::error::{Error, Result};
use crate::id::{PackId, PointId};
use crate::index::{DirectoryNo, PackNo, PackRow};
use crate::pack::writer::{SealedPack, pack_path};
use crate::point::{PointFiles, PointNames};
use crate::pool::Pool;
use crate::simulated::{self, Mistake};

/// Packs entered into the index in one transaction.
const BATCH_CHUNKS: usize = 500_000;

/// Makes index and catalog agree with the files of the directories that are there.
pub(crate) fn reconcile(pool: &Pool) -> Result<()> {
    remove_scraps(pool)?;
    // Rows before names: a pack that another process seals now has its file before its row.
    let rows = pool.index().packs()?;
    let files = list_packs(pool)?;
    let lost = drop_lost_packs(pool, &rows, &files)?;
    enter_unknown_packs(pool, &rows, &files)?;
    let returned = reconcile_points(pool)?;
    pardon_needed(pool, &rows, &lost, &returned)
}

// Files in tmp/ belong to nobody once no session is alive.
fn remove_scraps(pool: &Pool) -> Result<()> {
    let mut scraps = Vec::new();
    for directory in pool.present_paths() {
        let path = directory.join("tmp");
        let names = pool.world().disk.list(&path).map_err(Error::io("list", &path))?;
        scraps.extend(names.into_iter().map(|name| path.join(name)));
    }
    if scraps.is_empty() || any_session_alive(pool)? {
        return Ok(());
    }
    for scrap in scraps {
        match pool.world().disk.remove(&scrap) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &scrap)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn any_session_alive(pool: &Pool) -> Result<bool> {
    for name in pool.locks().session_files()? {
        if pool.locks().is_alive(&name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the pack files of the directories that are there.
pub(crate) fn list_packs(pool: &Pool) -> Result<HashMap<PackId, DirectoryNo>> {
    let mut files = HashMap::new();
    for directory in pool.directories() {
        let Some(path) = &directory.path else { continue };
        let packs = path.join("packs");
        let disk = &pool.world().disk;
        for group in disk.list(&packs).map_err(Error::io("list", &packs))? {
            let group: PathBuf = packs.join(group);
            for name in disk.list(&group).map_err(Error::io("list", &group))? {
                if let Some(Ok(id)) = name.strip_suffix(".pack").map(str::parse) {
                    files.insert(id, directory.no);
                }
            }
        }
    }
    Ok(files)
}

// Rows of packs that are gone, or that lie in another directory than the row says.
fn drop_lost_packs(
    pool: &Pool,
    rows: &[PackRow],
    files: &HashMap<PackId, DirectoryNo>,
) -> Result<Vec<PackNo>> {
    let present: HashSet<_> = pool
        .directories()
        .iter()
        .filter(|directory| directory.path.is_some())
        .map(|directory| directory.no)
        .collect();
    let lost: Vec<_> = rows
        .iter()
        .filter(|row| match files.get(&row.id) {
            Some(directory) => *directory != row.directory,
            None => present.contains(&row.directory),
        })
        .collect();
    for row in &lost {
        if row.condemned_after.is_none() && !files.contains_key(&row.id) {
            tracing::warn!(pack = %row.id, "a pack has disappeared from the pool");
            pool.index().suspect("a pack has disappeared from the pool")?;
        }
    }
    let removal: Vec<_> = lost.iter().map(|row| (row.no, None)).collect();
    if !removal.is_empty() {
        pool.index().remove_packs(&removal)?;
    }
    Ok(lost.iter().map(|row| row.no).collect())
}

fn enter_unknown_packs(
    pool: &Pool,
    rows: &[PackRow],
    files: &HashMap<PackId, DirectoryNo>,
) -> Result<()> {
    let known: HashMap<_, _> = rows.iter().map(|row| (row.id, row.directory)).collect();
    let mut unknown: Vec<_> =
        files.iter().filter(|(id, directory)| known.get(*id) != Some(*directory)).collect();
    unknown.sort_unstable();
    make_durable(pool, &unknown)?;
    let mut batch = Vec::new();
    let mut chunks = 0;
    for (id, directory) in unknown {
        let path = pool.directory_path(*directory).expect("the file was listed there");
        match pool.open_pack_file(path, *id) {
            Ok(pack) => {
                chunks += pack.toc().chunks().len();
                let sealed = SealedPack {
                    id: *id,
                    kind: pack.header().kind,
                    length: pack.length(),
                    toc: Arc::clone(pack.toc()),
                };
                batch.push((sealed, *directory));
            }
            // It stays where it is: check reports it, repair saves what it can.
            Err(error) => tracing::warn!(pack = %id, %error, "an unknown pack cannot be used"),
        }
        if chunks >= BATCH_CHUNKS {
            pool.index().add_packs(&std::mem::take(&mut batch))?;
            chunks = 0;
        }
    }
    if !batch.is_empty() {
        pool.index().add_packs(&batch)?;
    }
    Ok(())
}

// A run that was killed may have given a pack its name and not synced the directory. Whoever relies on the pack from now on must not lose it with the
// power.
fn make_durable(pool: &Pool, unknown: &[(&PackId, &DirectoryNo)]) -> Result<()> {
    let folder = |(id, no): &(&PackId, &DirectoryNo)| {
        let path = pack_path(&pool.directory_path(**no)?.join("packs"), **id);
        path.parent().map(Path::to_path_buf)
    };
    let folders: BTreeSet<PathBuf> = unknown.iter().filter_map(folder).collect();
    if simulated::makes(Mistake::LeftoversUnsynced) {
        return Ok(());
    }
    sync_all(pool, folders)
}

fn sync_all(pool: &Pool, folders: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for folder in folders {
        let synced = pool.world().disk.sync_directory(&folder);
        synced.map_err(Error::io("sync", &folder))?;
    }
    Ok(())
}

// Returns the points that the catalog did not know.
fn reconcile_points(pool: &Pool) -> Result<Vec<PointId>> {
    let names = list_points(pool)?;
    let listed: BTreeSet<_> = pool.points()?.iter().map(|point| point.id).collect();
    let agrees = |names: &PointNames| names.forgotten.is_empty() && names.points == listed;
    if names.iter().all(|(_, names)| agrees(names)) {
        return Ok(Vec::new());
    }
    // What was seen without the lock may be forgotten meanwhile.
    let _alone = pool.lock_points()?;
    reconcile_alone(pool)
}

fn list_points(pool: &Pool) -> Result<Vec<(PointFiles<'_>, PointNames)>> {
    pool.point_files().map(|files| Ok((files, files.names()?))).collect()
}

fn reconcile_alone(pool: &Pool) -> Result<Vec<PointId>> {
    let names = list_points(pool)?;
    let forgotten: BTreeSet<_> =
        names.iter().flat_map(|(_, names)| &names.forgotten).copied().collect();
    finish_forgetting(pool, &forgotten)?;
    let mut existing: BTreeMap<PointId, usize> = BTreeMap::new();
    for (_, names) in &names {
        for point in names.points.difference(&forgotten) {
            *existing.entry(*point).or_default() += 1;
        }
    }
    let listed: BTreeSet<_> = pool.points()?.iter().map(|point| point.id).collect();
    let mut gone = Vec::new();
    for point in listed.iter().filter(|point| !existing.contains_key(point)) {
        // Looked at again: it may have been made since the names were listed.
        if !has_file(pool, *point)? {
            tracing::warn!(point = %point, "the file of a point has disappeared from the pool");
            gone.push(*point);
        }
    }
    if !gone.is_empty() {
        pool.catalog().remove(&gone)?;
    }
    if existing.keys().any(|point| !listed.contains(point))
        && !simulated::makes(Mistake::LeftoversUnsynced)
    {
        // What is shown from now on, and may be why an older point is forgotten, stays.
        sync_all(pool, pool.point_files().map(|files| files.path()))?;
    }
    let mut returned = Vec::new();
    for (point, copies) in &existing {
        if listed.contains(point) && *copies == names.len() {
            continue;
        }
        match spread_point(pool, *point) {
            Ok(entry) if !listed.contains(point) => {
                pool.catalog().add(&entry, &[])?;
                returned.push(*point);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(point = %point, %error, "a point file cannot be used"),
        }
    }
    Ok(returned)
}

fn has_file(pool: &Pool, point: PointId) -> Result<bool> {
    for files in pool.point_files() {
        if files.exists(point)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn finish_forgetting(pool: &Pool, forgotten: &BTreeSet<PointId>) -> Result<()> {
    if forgotten.is_empty() {
        return Ok(());
    }
    let points: Vec<_> = forgotten.iter().copied().collect();
    pool.forget_alone(&points)
}

// Copies a point's file to the directories that lack it, from the first sound copy.
fn spread_point(pool: &Pool, point: PointId) -> Result<Point> {
    let mut sound = None;
    let mut lacking = Vec::new();
    let mut failure = None;
    for files in pool.point_files() {
        match files.manifest(point) {
            Ok(found) if sound.is_none() => {
                // Unreadable notes must not hide a sound point.
                sound = Some((found, files.notes(point).unwrap_or_default()));
            }
            Ok(_) => {}
            Err(error) => {
                failure.get_or_insert(error);
                lacking.push(files);
            }
        }
    }
    let Some(((manifest, bytes), notes)) = sound else {
        return Err(failure.unwrap_or(Error::PointNotFound { name: point.to_string() }));
    };
    for files in lacking {
        files.write(point, &bytes, &pool.temporary(files.directory))?;
        files.write_notes(point, &notes, &pool.temporary(files.directory))?;
    }
    Ok(Point::of(point, &manifest, notes))
}

// A point that the catalog had not seen may need packs that were condemned without knowing of it. Which ones is not
// known without a walk through its trees, so all are taken back; the next prune decides anew.
fn pardon_needed(
    pool: &Pool,
    rows: &[PackRow],
    lost: &[PackNo],
    returned: &[PointId],
) -> Result<()> {
    if returned.is_empty() {
        return Ok(());
    }
    let condemned: Vec<_> = rows
        .iter()
        .filter(|row| row.condemned_after.is_some() && !lost.contains(&row.no))
        .map(|row| row.no)
        .collect();
    if condemned.is_empty() { Ok(()) } else { pool.index().pardon(&condemned) }
}
