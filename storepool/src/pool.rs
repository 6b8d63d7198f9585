//! The pool: its directories, index, catalog and locks, opened together.
//!
//! A pool is opened once per process and shared by its threads. Opening reconciles the index with what is on disk
//! ([`reconcile`]), so no command has to be run after a crash.

mod directory;
mod opening;
mod packs;
pub(crate) mod reconcile;
mod session;
mod tables;

pub use directory::PoolDirectory;
pub(crate) use directory::{prepare_directory, require_empty};
pub(crate) use opening::OldIndex;
pub use packs::Found;
pub use session::Session;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::catalog::{Catalog, Notes, Point};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::entropy::{Entropy, random_bytes};
use crate::error::{Error, Result};
use crate::id::{PointId, PoolId, hex};
use crate::index::{Index, PackNo, PackRow};
use crate::lock::{HeldLock, LockMode, Locks};
use crate::manifest::Manifest;
use crate::marker::Marker;
use crate::point::PointFiles;
use crate::simulated::{self, Mistake};
use crate::space::Reserve;

/// The lock of point files.
const POINTS_LOCK: &str = "points";
/// How long to wait before looking at it again, and how often: half a minute.
const POINTS_PAUSE: Duration = Duration::from_millis(5);
const POINTS_TRIES: u32 = 6_000;

/// Choices that do not change the format.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// zstd level for new frames (-7 to 19).
    pub compression_level: i32,
    /// Packs are sealed when their frames reach this many bytes.
    pub pack_length: u64,
    /// Space kept back on each disk.
    pub reserve: Reserve,
    /// What others see when they meet this process's locks, such as `keepwell backup (process 17)`.
    pub holder: String,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            compression_level: 1,
            pack_length: 16 << 20,
            reserve: Reserve::default(),
            holder: format!("process {}", std::process::id()),
        }
    }
}

/// The seams through which a pool touches the world.
#[derive(Clone)]
pub struct World {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl World {
    /// Returns the real disk, clock and randomness.
    pub fn system() -> Self {
        Self {
            disk: Arc::new(crate::disk::SystemDisk),
            clock: Arc::new(crate::clock::SystemClock::new()),
            entropy: Arc::new(crate::entropy::SystemEntropy),
        }
    }
}

/// An open pool.
pub struct Pool {
    id: PoolId,
    marker: Marker,
    options: PoolOptions,
    world: World,
    directories: Vec<PoolDirectory>,
    missing_paths: Vec<PathBuf>,
    index: Index,
    catalog: Catalog,
    locks: Locks,
    packs: RwLock<HashMap<PackNo, PackRow>>,
    open_packs: Mutex<packs::PackCache>,
    // What stands in for an index that does not know a chunk.
    tables: Mutex<Option<Arc<tables::Tables>>>,
    rebuilt: bool,
    _lock: HeldLock,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pool {
    /// Returns the pool's id.
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// Returns the marker of the directory that holds the index.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Returns the options it was opened with.
    pub fn options(&self) -> &PoolOptions {
        &self.options
    }

    /// Returns the seams.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Returns whether the index was found missing or damaged and was made anew by [`Pool::open`].
    pub fn index_was_rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Returns the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Returns all points, oldest first.
    pub fn points(&self) -> Result<Vec<Point>> {
        self.catalog.points()
    }

    /// Returns the manifest of a point from the first directory that has a sound copy.
    pub fn manifest(&self, point: PointId) -> Result<Manifest> {
        let mut last = Error::PointNotFound { name: point.to_string() };
        for files in self.point_files() {
            match files.manifest(point) {
                Ok((manifest, _)) => return Ok(manifest),
                // Forgotten meanwhile, or never in this directory.
                Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Returns the `points` directories that are there.
    pub fn point_files(&self) -> impl Iterator<Item = PointFiles<'_>> {
        self.present_paths().map(|directory| PointFiles { disk: &*self.world.disk, directory })
    }

    /// Returns a fresh name in the `tmp` directory below `directory`. Files of dead processes there are removed at the next start.
    pub fn temporary(&self, directory: &Path) -> PathBuf {
        directory.join("tmp").join(hex(&random_bytes::<8>(&*self.world.entropy)))
    }

    /// Replaces the notes of a point in every directory and in the catalog.
    pub fn set_notes(&self, point: PointId, notes: &Notes) -> Result<()> {
        for files in self.point_files() {
            files.write_notes(point, notes, &self.temporary(files.directory))?;
        }
        self.catalog.set_notes(point, notes)
    }

    /// Makes points not exist any more: marks first, catalog next, files last. Their chunks stay until prune.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody else writes point files all the time.
    pub fn forget(&self, points: &[PointId]) -> Result<()> {
        let _alone = self.lock_points()?;
        self.forget_alone(points)
    }

    /// Waits for the lock under which point files are written again or removed, each time for a moment: who saw a point before it was forgotten must
    /// not write it again afterwards.
    pub(crate) fn lock_points(&self) -> Result<HeldLock> {
        let mut tries = 0;
        loop {
            match self.locks.take(POINTS_LOCK, LockMode::Exclusive) {
                Err(Error::Busy { .. }) if tries < POINTS_TRIES => tries += 1,
                other => return other,
            }
            std::thread::sleep(POINTS_PAUSE);
            // Whoever holds it goes on meanwhile, also where processes take turns.
            for directory in self.present_paths() {
                let path = directory.join("tmp");
                self.world.disk.list(&path).map_err(Error::io("list", &path))?;
            }
        }
    }

    /// The same as [`Pool::forget`] for who holds that lock.
    pub(crate) fn forget_alone(&self, points: &[PointId]) -> Result<()> {
        for files in self.point_files() {
            for point in points {
                if !simulated::makes(Mistake::ForgottenUnmarked) {
                    files.mark_forgotten(*point)?;
                }
            }
        }
        self.catalog.remove(points)?;
        for files in self.point_files() {
            files.remove_points(points)?;
        }
        if self.is_whole() {
            for files in self.point_files() {
                files.remove_marks(points)?;
            }
        }
        Ok(())
    }
}
