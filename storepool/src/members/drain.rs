//! Emptying a directory so that its disk can be taken away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::index::DirectoryNo;
use crate::lock::LockMode;
use crate::members::{remove_marker, write_markers};
use crate::monitor::{Event, Monitor};
use crate::pool::reconcile::list_packs;
use crate::pool::{OldIndex, Pool, PoolDirectory, PoolOptions, World};
use crate::prune::{Collection, Leaving, PRUNE_LOCK, Standing, require_whole};

/// What draining a directory did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Packs copied to other directories.
    pub packs_moved: u64,
    /// Bytes written for them.
    pub bytes_moved: u64,
    /// Packs removed from the directory, those that nobody needed included.
    pub packs_removed: u64,
}

/// Moves everything out of the directory `leaving` and takes it out of the pool. Backups and restores may run until the last step, which keeps others out for a moment. On
/// return the directory is no part of the pool any more; its files other than packs and marker stay. Run again after a crash or an error, it goes on where
/// it stopped.
///
/// # Errors
/// [`Error::NoPool`] if `leaving` is no directory of this pool; [`Error::NoSpace`] if the others cannot take its packs; [`Error::Busy`] if sessions keep the last step from
/// being done: then most has been moved already; damage if a pack there cannot be copied.
pub fn drain_directory(
    paths: &[PathBuf],
    leaving: &Path,
    options: PoolOptions,
    world: World,
    monitor: &dyn Monitor,
) -> Result<DrainReport> {
    let mut report = DrainReport::default();
    let pool = Arc::new(Pool::open(paths, options.clone(), world.clone())?);
    empty_directory(&pool, &find_directory(&pool, leaving)?, &mut report, monitor)?;
    drop(pool);

    monitor.event(Event::Stage("taking the directory out of the pool"));
    let pool = Arc::new(Pool::open_alone(paths, options, world, OldIndex::Use)?);
    let directory = find_directory(&pool, leaving)?;
    // What backups have put there meanwhile.
    empty_directory(&pool, &directory, &mut report, monitor)?;
    let _elsewhere = pool.lock_elsewhere()?;
    require_emptied(&pool, &directory, leaving)?;
    let members: Vec<_> = pool
        .directories()
        .iter()
        .map(|other| other.id)
        .filter(|other| *other != directory.id)
        .collect();
    write_markers(&pool, &members)?;
    // Last: until here the directory's own marker says what is going on.
    remove_marker(&*pool.world().disk, leaving)?;
    Ok(report)
}

fn find_directory(pool: &Pool, path: &Path) -> Result<PoolDirectory> {
    require_whole(pool)?;
    let mut all = pool.directories().iter();
    let found = all.find(|directory| directory.path.as_deref() == Some(path)).cloned();
    let found = found.ok_or_else(|| Error::NoPool { path: path.to_path_buf() })?;
    if pool.directories().len() == 1 {
        // There is nowhere to go.
        return Err(Error::NoSpace { path: path.to_path_buf(), shortage: None });
    }
    Ok(found)
}

fn empty_directory(
    pool: &Arc<Pool>,
    directory: &PoolDirectory,
    report: &mut DrainReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    let _lock = pool.locks().take(PRUNE_LOCK, LockMode::Exclusive)?;
    let _elsewhere = pool.lock_elsewhere()?;
    let session = pool.begin_session()?;
    let mut collection = Collection::begin(&session, monitor)?;
    let mut unneeded = Vec::new();
    let mut leaving = Vec::new();
    let own = packs_in(pool, directory.no)?;
    for pack in collection.pack_uses()?.into_iter().filter(|pack| own.contains(&pack.no)) {
        match pack.standing {
            Standing::Condemned if pack.needed_chunks > 0 => {
                collection.pardon(&[pack.no])?;
                leaving.push(Leaving::of(&pack));
            }
            Standing::Free if pack.needed_chunks == 0 => unneeded.push(pack.no),
            Standing::Free => leaving.push(Leaving::of(&pack)),
            Standing::Condemned | Standing::InUse | Standing::Unreadable => {}
        }
    }
    collection.condemn(&unneeded)?;
    collection.sweep()?;
    monitor.event(Event::Stage("copying packs"));
    monitor.event(Event::Expected {
        items: leaving.iter().map(|pack| pack.needed_chunks).sum(),
        bytes: leaving.iter().map(|pack| pack.needed_bytes).sum(),
    });
    let repacked = collection.repack(&leaving, Some(directory.no))?;
    report.packs_moved += repacked.packs;
    report.bytes_moved += repacked.stored.stored_bytes;
    report.packs_removed += collection.removed.packs;
    if repacked.stopped {
        let path = directory.path.clone().unwrap_or_default();
        return Err(Error::NoSpace { path, shortage: None });
    }
    Ok(())
}

fn packs_in(
    pool: &Pool,
    directory: DirectoryNo,
) -> Result<std::collections::HashSet<crate::index::PackNo>> {
    let rows = pool.index().packs()?.into_iter();
    Ok(rows.filter(|row| row.directory == directory).map(|row| row.no).collect())
}

// Nothing of the directory may be left behind: neither packs, even unusable ones, nor points that the others do not have.
fn require_emptied(pool: &Pool, directory: &PoolDirectory, path: &Path) -> Result<()> {
    let left = |what: String| Error::damaged(path.display().to_string(), what);
    let packs = list_packs(pool)?;
    let packs = packs.values().filter(|place| **place == directory.no).count();
    if packs > 0 {
        return Err(left(format!("{packs} packs in it cannot be moved")));
    }
    let mut others = Vec::new();
    let mut own = None;
    for files in pool.point_files() {
        let names = files.names()?.points;
        if files.directory == path {
            own = Some(names);
        } else {
            others.push(names);
        }
    }
    let alone = |point| others.iter().any(|names| !names.contains(point));
    match own.iter().flatten().find(|point| alone(point)) {
        Some(point) => {
            Err(left(format!("point {} is not in every other directory", point.short())))
        }
        None => Ok(()),
    }
}
