//! The directories of a pool: adding one, emptying one, giving up lost ones.
//!
//! Membership stands in the marker of every directory; what counts is the union of the markers found. A change first writes the marker of the directory it
//! is about, so that a crash in between leaves a pool that opens, and the same command run again completes it. Changes keep every other process
//! out: one that knows fewer directories would forget points in those alone, and they would come back from the others.

mod drain;

use std::path::{Path, PathBuf};

pub use drain::{DrainReport, drain_directory};

use crate::disk::Disk;
use crate::entropy::random_bytes;
use crate::error::{Error, Result};
use crate::id::DirectoryId;
use crate::marker::Marker;
use crate::pool::{OldIndex, Pool, PoolOptions, World, prepare_directory, require_empty};
use crate::prune::require_whole;

/// One directory as `pool list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryReport {
    /// Its id.
    pub id: DirectoryId,
    /// Where it is; `None` if it was not found.
    pub path: Option<PathBuf>,
    /// Packs in it, as the index knows them.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that this process may still write there.
    pub free: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that only prune may use.
    pub reserve: u64,
}

/// Returns what is known of each directory of the pool, those that are missing included.
pub fn directory_report(pool: &Pool) -> Result<Vec<DirectoryReport>> {
    let rows = pool.index().packs()?;
    pool.directories()
        .iter()
        .map(|directory| {
            let own = rows.iter().filter(|row| row.directory == directory.no);
            let (packs, bytes) =
                own.fold((0, 0), |(packs, bytes), row| (packs + 1, bytes + row.length));
            let space = match &directory.path {
                Some(path) => {
                    Some(pool.world().disk.space(path).map_err(Error::io("measure", path))?)
                }
                None => None,
            };
            Ok(DirectoryReport {
                id: directory.id,
                path: directory.path.clone(),
                packs,
                bytes,
                free: space.map_or(0, |space| space.available),
                total: space.map_or(0, |space| space.total),
                reserve: space.map_or(0, |space| pool.options().reserve.bytes(space)),
            })
        })
        .collect()
}

/// Makes `new_path` (created if it does not exist; it must be empty) a directory of the pool in `paths` and copies the point files to it. Returns its id. Run again
/// after a crash, it completes what was begun.
///
/// # Errors
/// [`Error::Busy`] if the pool is open elsewhere; [`Error::DirectoryMissing`] unless all its directories are there; [`Error::PoolExists`] if `new_path` is one of them
/// already; [`Error::ForeignDirectory`], [`Error::DirectoryNotEmpty`].
pub fn add_directory(
    paths: &[PathBuf],
    new_path: &Path,
    options: PoolOptions,
    world: World,
) -> Result<DirectoryId> {
    let disk = &*world.disk;
    // With a marker it is foreign, or part of the pool, or an earlier run got as far as this.
    let marker = Marker::read(disk, new_path)?;
    let is_known = paths.iter().any(|path| path == new_path);
    let mut all = paths.to_vec();
    if !is_known {
        all.push(new_path.to_path_buf());
    }
    let found = if marker.is_some() { &all } else { paths };
    let pool = Pool::open_alone(found, options.clone(), world.clone(), OldIndex::Use)?;
    require_whole(&pool)?;
    let _elsewhere = pool.lock_elsewhere()?;
    let mut members: Vec<_> = pool.directories().iter().map(|directory| directory.id).collect();
    let new = match marker {
        Some(_) if is_known => return Err(Error::PoolExists { path: new_path.to_path_buf() }),
        Some(marker) => marker.directory,
        None => {
            require_empty(disk, new_path)?;
            prepare_directory(disk, new_path)?;
            let new = DirectoryId(random_bytes(&*world.entropy));
            members.push(new);
            new
        }
    };
    write_marker(&pool, new, new_path, &members)?;
    write_markers(&pool, &members)?;
    drop(pool);

    // Opening copies the point files to where they are missing.
    Pool::open_alone(&all, options, world, OldIndex::Use)?;
    Ok(new)
}

/// Gives up every directory of the pool that is not there: its packs are dropped from the index, and what only it held is lost. Returns the ids of the lost
/// directories. [`crate::check::check`] says beforehand which points are affected.
///
/// # Errors
/// [`Error::Busy`] if the pool is open elsewhere.
pub fn remove_lost_directories(
    paths: &[PathBuf],
    options: PoolOptions,
    world: World,
) -> Result<Vec<DirectoryId>> {
    let pool = Pool::open_alone(paths, options, world, OldIndex::Use)?;
    let _elsewhere = pool.lock_elsewhere()?;
    let (lost, present): (Vec<_>, Vec<_>) =
        pool.directories().iter().partition(|directory| directory.path.is_none());
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let gone: Vec<_> = pool.index().packs()?;
    let gone: Vec<_> = gone
        .into_iter()
        .filter(|row| lost.iter().any(|directory| directory.no == row.directory))
        .map(|row| (row.no, None))
        .collect();
    if !gone.is_empty() {
        pool.index().suspect("a pool directory was given up")?;
        pool.index().remove_packs(&gone)?;
    }
    let members: Vec<_> = present.iter().map(|directory| directory.id).collect();
    write_markers(&pool, &members)?;
    Ok(lost.iter().map(|directory| directory.id).collect())
}

// Writes the markers of all members that are there.
fn write_markers(pool: &Pool, members: &[DirectoryId]) -> Result<()> {
    for directory in pool.directories() {
        if let Some(path) = &directory.path
            && members.contains(&directory.id)
        {
            write_marker(pool, directory.id, path, members)?;
        }
    }
    Ok(())
}

fn write_marker(
    pool: &Pool,
    directory: DirectoryId,
    path: &Path,
    members: &[DirectoryId],
) -> Result<()> {
    let created = pool.marker().created.clone();
    let marker = Marker { pool: pool.id(), directory, members: members.to_vec(), created };
    marker.write(&*pool.world().disk, path)
}

fn remove_marker(disk: &dyn Disk, path: &Path) -> Result<()> {
    let file = path.join(crate::marker::MARKER_NAME);
    disk.remove(&file).map_err(Error::io("remove", &file))?;
    disk.sync_directory(path).map_err(Error::io("sync", path))
}

#[cfg(test)]
mod tests;
