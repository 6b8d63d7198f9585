//! Opening a pool: one directory after the other is found, the index is trusted or made anew, and reconciled with the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use super::directory::{prepare_directory, require_empty};
use super::{Pool, PoolDirectory, PoolOptions, World, reconcile};
use crate::catalog::Catalog;
use crate::entropy::random_bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkId, DirectoryId, PoolId};
use crate::index::{Index, MIGRATIONS};
use crate::lock::{HeldLock, LockMode, Locks};
use crate::marker::Marker;
use crate::simulated::{self, Mistake};
use crate::space::{drop_ballast, raise_lesser_ballast};
use crate::sqlite::Database;

/// The lock that every open pool holds.
const POOL_LOCK: &str = "pool";
/// The index, in the first directory that is present.
const DATABASE_NAME: &str = "pool.db";

/// What to do with the index that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldIndex {
    /// It is used if it is sound.
    Use,
    /// It is removed and made anew.
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Shared,
    Alone(OldIndex),
}

impl Pool {
    /// Makes a new pool in `paths` (created if they do not exist; they must be empty) and opens it.
    ///
    /// # Errors
    /// [`Error::PoolExists`], [`Error::DirectoryNotEmpty`].
    pub fn create(paths: &[PathBuf], options: PoolOptions, world: World) -> Result<Self> {
        let pool = PoolId(random_bytes(&*world.entropy));
        let members: Vec<_> =
            paths.iter().map(|_| DirectoryId(random_bytes(&*world.entropy))).collect();
        for path in paths {
            require_empty(&*world.disk, path)?;
        }
        let created = jiff::Timestamp::from_second(world.clock.now().seconds())
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_string();
        // Markers last: a directory without one is no pool, and `create` can be run again.
        for path in paths {
            prepare_directory(&*world.disk, path)?;
        }
        for (path, directory) in paths.iter().zip(&members) {
            let marker = Marker {
                pool,
                directory: *directory,
                members: members.clone(),
                created: created.clone(),
            };
            marker.write(&*world.disk, path)?;
        }
        Self::open(paths, options, world)
    }

    /// Opens the pool in `paths`, reconciling its index with its files. Directories that are missing are tolerated as long as one is there.
    ///
    /// # Errors
    /// [`Error::NoPool`], [`Error::ForeignDirectory`], [`Error::Busy`] if another process rebuilds the index.
    pub fn open(paths: &[PathBuf], options: PoolOptions, world: World) -> Result<Self> {
        Self::open_as(paths, options, world, Opening::Shared)
    }

    /// Opens the pool as [`Pool::open`] does, keeping every other process out until it is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] if the pool is open anywhere else.
    pub(crate) fn open_alone(
        paths: &[PathBuf],
        options: PoolOptions,
        world: World,
        index: OldIndex,
    ) -> Result<Self> {
        Self::open_as(paths, options, world, Opening::Alone(index))
    }

    fn open_as(
        paths: &[PathBuf],
        options: PoolOptions,
        world: World,
        opening: Opening,
    ) -> Result<Self> {
        let open = |opening| Self::open_once(paths, options.clone(), world.clone(), opening);
        let full = match open(opening) {
            Err(Error::Index { corrupt: true, detail, .. }) if opening == Opening::Shared => {
                tracing::warn!(%detail, "the index is damaged and is made anew");
                let pool = open(Opening::Alone(OldIndex::Remove))?;
                pool._lock.share()?;
                return Ok(pool);
            }
            Err(full @ Error::NoSpace { .. }) => full,
            result => return result,
        };
        // Even looking needs room for the index's shared memory, and a full disk is when people look. Without a marker a path is not ours.
        let disk = &*world.disk;
        let is_ours =
            |path: &&PathBuf| Marker::read(disk, path).is_ok_and(|marker| marker.is_some());
        let dropped = paths.iter().filter(is_ours).filter(|path| drop_ballast(disk, path)).count();
        if dropped == 0 {
            return Err(full);
        }
        let pool = open(opening);
        for path in paths.iter().filter(is_ours) {
            raise_lesser_ballast(disk, path);
        }
        pool
    }

    fn open_once(
        paths: &[PathBuf],
        options: PoolOptions,
        world: World,
        opening: Opening,
    ) -> Result<Self> {
        let mut markers = BTreeMap::new();
        let mut missing_paths = Vec::new();
        for path in paths {
            match Marker::read(&*world.disk, path)? {
                Some(marker) => {
                    markers.insert(path.clone(), marker);
                }
                None => missing_paths.push(path.clone()),
            }
        }
        let first = paths.iter().find(|path| markers.contains_key(*path));
        let Some(primary) = first.cloned() else {
            let path = paths.first().cloned().unwrap_or_default();
            return Err(Error::NoPool { path });
        };
        let marker = markers[&primary].clone();
        if let Some((path, other)) = markers.iter().find(|(_, other)| other.pool != marker.pool) {
            return Err(Error::ForeignDirectory {
                path: path.clone(),
                found: other.pool,
                expected: marker.pool,
            });
        }
        for path in markers.keys() {
            prepare_directory(&*world.disk, path)?;
        }
        let locks = Locks::new(primary.join("locks"), options.holder.clone());
        let (lock, database, rebuilt) = match opening {
            Opening::Shared => open_index(&locks, &primary)?,
            Opening::Alone(index) => open_index_alone(&locks, &primary, index)?,
        };
        let index = Index::new(database.clone());
        let directories = number_directories(&index, &markers)?;
        let pool = Self {
            id: marker.pool,
            marker,
            options,
            world,
            directories,
            missing_paths,
            index,
            catalog: Catalog::new(database),
            locks,
            packs: RwLock::default(),
            open_packs: Mutex::default(),
            tables: Mutex::default(),
            rebuilt,
            _lock: lock,
        };
        if rebuilt || !simulated::makes(Mistake::IndexIsTruth) {
            reconcile::reconcile(&pool)?;
        }
        if rebuilt && !pool.points()?.is_empty() {
            // Packs that were lost together with the index are not missed by anybody.
            pool.index.suspect("the index was made anew")?;
        }
        pool.refresh_packs()?;
        if opening == Opening::Shared {
            // Only now may others join: they rely on a reconciled index.
            pool._lock.share()?;
        }
        Ok(pool)
    }

    /// Keeps out processes that opened this pool while the directory of its index was missing: they lock in another directory, and
    /// neither would see the other's sessions.
    ///
    /// # Errors
    /// [`Error::Busy`] naming such a process.
    pub(crate) fn lock_elsewhere(&self) -> Result<Vec<HeldLock>> {
        self.present_paths()
            .map(|path| Locks::new(path.join("locks"), self.options.holder.clone()))
            .filter(|locks| locks.directory() != self.locks.directory())
            .map(|locks| locks.take(POOL_LOCK, LockMode::Exclusive))
            .collect()
    }
}

// Returns the lock held exclusively (shared if others are in the pool already) and whether the index had to be thrown away.
fn open_index(locks: &Locks, primary: &Path) -> Result<(HeldLock, Arc<Database>, bool)> {
    let path = primary.join(DATABASE_NAME);
    let exists = path.try_exists().map_err(Error::io("look for", &path))?;
    if exists && Database::is_distrusted(&path) {
        // As long as others have it open it serves: whatever it does not know is looked up in the packs.
        match locks.take(POOL_LOCK, LockMode::Exclusive) {
            Ok(lock) => {
                Database::remove(&path)?;
                return Ok((lock, open_sound(&path)?, true));
            }
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if exists {
        match locks.take(POOL_LOCK, LockMode::Shared) {
            Ok(lock) => match open_sound(&path) {
                Ok(database) => return Ok((lock, database, false)),
                Err(Error::Index { corrupt: true, detail, .. }) => {
                    tracing::warn!(%detail, "the index is damaged and is made anew");
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    let lock = locks.take(POOL_LOCK, LockMode::Exclusive)?;
    // Another process may have mended it between the two locks.
    match open_sound(&path) {
        Ok(database) => return Ok((lock, database, !exists)),
        Err(Error::Index { corrupt: true, .. }) => {}
        Err(error) => return Err(error),
    }
    Database::remove(&path)?;
    Ok((lock, open_sound(&path)?, true))
}

fn open_index_alone(
    locks: &Locks,
    primary: &Path,
    index: OldIndex,
) -> Result<(HeldLock, Arc<Database>, bool)> {
    let path = primary.join(DATABASE_NAME);
    let lock = locks.take(POOL_LOCK, LockMode::Exclusive)?;
    let exists = path.try_exists().map_err(Error::io("look for", &path))?;
    if index == OldIndex::Use && !Database::is_distrusted(&path) {
        match open_sound(&path) {
            Ok(database) => return Ok((lock, database, !exists)),
            Err(Error::Index { corrupt: true, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Database::remove(&path)?;
    Ok((lock, open_sound(&path)?, true))
}

fn open_sound(path: &Path) -> Result<Arc<Database>> {
    let database = Arc::new(Database::open(path, MIGRATIONS)?);
    // Touches every table, so that a file that is no longer a sound index is found out now.
    let index = Index::new(database.clone());
    index.packs()?;
    index.sessions()?;
    index.is_suspect()?;
    index.lookup()?.candidates(&ChunkId([0; 32]), &mut Vec::new())?;
    Catalog::new(database.clone()).points()?;
    Ok(database)
}

fn number_directories(
    index: &Index,
    markers: &BTreeMap<PathBuf, Marker>,
) -> Result<Vec<PoolDirectory>> {
    let mut members = Vec::new();
    for member in markers.values().flat_map(|marker| &marker.members) {
        if !members.contains(member) {
            members.push(*member);
        }
    }
    members
        .into_iter()
        .map(|id| {
            let path = markers.iter().find(|(_, marker)| marker.directory == id);
            Ok(PoolDirectory {
                no: index.directory(id)?,
                id,
                path: path.map(|(path, _)| path.clone()),
            })
        })
        .collect()
}
