//! The pool: its directories, index, catalog and locks, opened together.
//!
//! A pool is opened once per process and shared by its threads. Opening reconciles the index with what is on disk
//! ([`reconcile`]), so no command has to be run after a crash.

pub(crate) mod reconcile;
mod tables;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::catalog::{Catalog, Notes, Point};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::entropy::{Entropy, random_bytes};
use crate::error::{Error, Result};
use crate::id::{ChunkId, DirectoryId, PackId, PointId, PoolId, hex};
use crate::index::{
    DirectoryNo, Index, IndexLookup, MIGRATIONS, PackNo, PackRow, Place, SessionNo,
};
use crate::lock::{HeldLock, LockMode, Locks};
use crate::manifest::Manifest;
use crate::marker::{MARKER_NAME, Marker};
use crate::pack::Slot;
use crate::pack::reader::PackReader;
use crate::pack::writer::pack_path;
use crate::point::PointFiles;
use crate::space::{Reserve, drop_ballast, raise_ballast, raise_lesser_ballast};
use crate::sqlite::Database;

/// Tables of contents kept in memory, in bytes; a session reads each of them about once.
const TOC_CACHE_BYTES: usize = 24 << 20;
/// Pack files kept open.
const OPEN_PACKS_MOST: usize = 128;
/// The lock that every open pool holds.
const POOL_LOCK: &str = "pool";
/// The index, in the first directory that is present.
const DATABASE_NAME: &str = "pool.db";

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

/// One directory of a pool.
#[derive(Clone, Debug)]
pub struct PoolDirectory {
    /// Its number in the index.
    pub no: DirectoryNo,
    /// Its id.
    pub id: DirectoryId,
    /// Where it is; `None` if it was not found under any of the given paths.
    pub path: Option<PathBuf>,
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
    open_packs: Mutex<PackCache>,
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

/// A chunk found in a pack whose table of contents confirms it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where the index had it.
    pub place: Place,
    /// The pack, open.
    pub pack: Arc<PackReader>,
    /// Where in the pack it lies.
    pub slot: Slot,
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
        reconcile::reconcile(&pool)?;
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

    /// Returns all directories, missing ones included.
    pub fn directories(&self) -> &[PoolDirectory] {
        &self.directories
    }

    /// Returns the given paths under which no directory of the pool was found.
    pub fn missing_paths(&self) -> &[PathBuf] {
        &self.missing_paths
    }

    /// Returns the paths of the directories that are there.
    pub fn present_paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().filter_map(|directory| directory.path.as_deref())
    }

    /// Returns whether every directory of the pool is there.
    pub fn is_whole(&self) -> bool {
        self.directories.iter().all(|directory| directory.path.is_some())
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
    pub fn forget(&self, points: &[PointId]) -> Result<()> {
        for files in self.point_files() {
            for point in points {
                files.mark_forgotten(*point)?;
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

    /// Begins a session: until it is dropped, no pack condemned from now on loses its file.
    pub fn begin_session(self: &Arc<Self>) -> Result<Session> {
        let (name, lock) = self.locks.begin_session(&*self.world.entropy)?;
        let no = self.index.begin_session(&name)?;
        // After the row: what was condemned before this session must be seen as condemned.
        self.refresh_packs()?;
        Ok(Session { no, pool: self.clone(), _lock: lock })
    }

    /// Reads the list of packs again.
    pub fn refresh_packs(&self) -> Result<()> {
        let rows = self.index.packs()?;
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        *packs = rows.into_iter().map(|row| (row.no, row)).collect();
        Ok(())
    }

    /// Returns what is known of a pack, looking into the index if it is new.
    pub fn pack_row(&self, no: PackNo) -> Result<Option<PackRow>> {
        let known = self.packs.read().unwrap_or_else(PoisonError::into_inner).get(&no).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let row = self.index.pack(no)?;
        if let Some(row) = &row {
            let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
            packs.insert(no, row.clone());
        }
        Ok(row)
    }

    /// Returns the known packs in order of their numbers.
    pub fn pack_rows(&self) -> Vec<PackRow> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = packs.values().cloned().collect();
        rows.sort_unstable_by_key(|row| row.no);
        rows
    }

    /// Returns about how many chunks the known packs hold.
    pub fn known_chunks(&self) -> u64 {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        packs.values().map(|row| row.chunks).sum()
    }

    /// Returns the path of the directory with this number, if it is there.
    pub fn directory_path(&self, no: DirectoryNo) -> Option<&Path> {
        self.directories.iter().find(|directory| directory.no == no)?.path.as_deref()
    }

    /// Returns where the file of a pack is, if its directory is there.
    pub fn pack_file(&self, row: &PackRow) -> Option<PathBuf> {
        Some(pack_path(&self.directory_path(row.directory)?.join("packs"), row.id))
    }

    /// Opens a pack, or returns it from the cache.
    ///
    /// # Errors
    /// [`Error::PackMissing`], [`Error::PackDamaged`].
    pub fn open_pack(&self, row: &PackRow) -> Result<Arc<PackReader>> {
        if let Some(pack) = self.cache().get(row.no) {
            return Ok(pack);
        }
        let path = self.pack_file(row).ok_or(Error::PackMissing { pack: row.id })?;
        let pack = Arc::new(PackReader::open(&*self.world.disk, &path, row.id, self.id)?);
        self.cache().insert(row.no, pack.clone());
        Ok(pack)
    }

    /// Forgets that a pack is open: its file is about to go.
    pub fn close_pack(&self, no: PackNo) {
        self.cache().remove(no);
        self.packs.write().unwrap_or_else(PoisonError::into_inner).remove(&no);
    }

    /// Opens the pack with this name directly, without the index.
    pub fn open_pack_file(&self, directory: &Path, id: PackId) -> Result<PackReader> {
        let path = pack_path(&directory.join("packs"), id);
        PackReader::open(&*self.world.disk, &path, id, self.id)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, PackCache> {
        self.open_packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the directory with the most room for another pack, `avoid` left out.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if every disk is down to its reserve (`use_reserve`: to nothing).
    pub fn roomiest_directory(
        &self,
        use_reserve: bool,
        avoid: Option<DirectoryNo>,
    ) -> Result<(DirectoryNo, PathBuf)> {
        let reserve = if use_reserve { Reserve::Bytes(0) } else { self.options.reserve };
        let needed = self.options.pack_length * 2;
        let mut best: Option<(u64, &PoolDirectory, &Path)> = None;
        for directory in self.directories.iter().filter(|directory| Some(directory.no) != avoid) {
            let Some(path) = directory.path.as_deref() else { continue };
            let room = reserve.room(&*self.world.disk, path)?;
            if best.is_none_or(|(most, ..)| room > most) {
                best = Some((room, directory, path));
            }
        }
        let Some((room, directory, path)) = best else {
            let path = self.present_paths().next().map(Path::to_path_buf).unwrap_or_default();
            return Err(Error::NoSpace { path, available: 0, reserve: 0 });
        };
        // The reserve may be all there is: then anything that fits may be tried, the disk itself says no.
        if room >= needed || use_reserve {
            return Ok((directory.no, path.to_path_buf()));
        }
        let space = self.world.disk.space(path).map_err(Error::io("measure", path))?;
        Err(Error::NoSpace {
            path: path.to_path_buf(),
            available: space.available,
            reserve: self.options.reserve.bytes(space),
        })
    }

    /// Finds a chunk: follows the index's hints until a table of contents confirms one. Packs for which `usable` is false are passed over,
    /// as are missing and damaged ones; sealed packs are preferred to condemned ones.
    pub fn find(
        &self,
        lookup: &IndexLookup,
        id: &ChunkId,
        usable: impl Fn(&PackRow) -> bool,
    ) -> Result<Option<Found>> {
        let mut places = Vec::new();
        lookup.candidates(id, &mut places)?;
        self.confirm(places, id, usable)
    }

    // The first of these places that a table of contents confirms.
    fn confirm(
        &self,
        places: Vec<Place>,
        id: &ChunkId,
        usable: impl Fn(&PackRow) -> bool,
    ) -> Result<Option<Found>> {
        let mut condemned = None;
        for place in places {
            let Some(row) = self.pack_row(place.pack)? else { continue };
            if !usable(&row) || self.directory_path(row.directory).is_none() {
                continue;
            }
            let pack = match self.open_pack(&row) {
                Ok(pack) => pack,
                Err(error) if error.is_damage() => {
                    tracing::warn!(pack = %row.id, %error, "passed over a pack");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let confirmed = pack
                .toc()
                .chunks()
                .get(place.ordinal as usize)
                .is_some_and(|chunk| chunk.id == *id);
            let Some(slot) = pack.toc().slot(place.ordinal).filter(|_| confirmed) else { continue };
            let found = Found { place, pack, slot };
            if row.condemned_after.is_none() {
                return Ok(Some(found));
            }
            condemned.get_or_insert(found);
        }
        Ok(condemned)
    }
}

/// A claim on the pool by one run of an operation; see [`Pool::begin_session`]. Ends when dropped or when the process dies.
#[derive(Debug)]
pub struct Session {
    no: SessionNo,
    pool: Arc<Pool>,
    _lock: HeldLock,
}

impl Session {
    /// Returns the session's number.
    pub fn no(&self) -> SessionNo {
        self.no
    }

    /// Returns the pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Relies on all chunks of the point `base` from now on. Returns whether the point still exists; if not, nothing may be taken from it.
    pub fn rely_on(&self, base: PointId) -> Result<bool> {
        self.pool.index.rely_on(self.no, base)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.pool.index.end_sessions(&[self.no]) {
            // The lock is released all the same; the row is removed by the next prune.
            tracing::debug!(%error, "session row stays until the next prune");
        }
    }
}

#[derive(Default)]
struct PackCache {
    packs: HashMap<PackNo, (Arc<PackReader>, u64)>,
    bytes: usize,
    tick: u64,
}

impl PackCache {
    fn get(&mut self, no: PackNo) -> Option<Arc<PackReader>> {
        self.tick += 1;
        let (pack, used) = self.packs.get_mut(&no)?;
        *used = self.tick;
        Some(pack.clone())
    }

    fn insert(&mut self, no: PackNo, pack: Arc<PackReader>) {
        self.tick += 1;
        self.bytes += toc_bytes(&pack);
        if let Some((old, _)) = self.packs.insert(no, (pack, self.tick)) {
            self.bytes -= toc_bytes(&old);
        }
        while self.packs.len() > 1
            && (self.bytes > TOC_CACHE_BYTES || self.packs.len() > OPEN_PACKS_MOST)
        {
            let oldest = self.packs.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = *oldest.expect("the cache is not empty").0;
            self.remove(oldest);
        }
    }

    fn remove(&mut self, no: PackNo) {
        if let Some((pack, _)) = self.packs.remove(&no) {
            self.bytes -= toc_bytes(&pack);
        }
    }
}

fn toc_bytes(pack: &PackReader) -> usize {
    pack.toc().chunks().len() * 40 + pack.toc().frames().len() * 32 + 1024
}

/// Fails if `path` holds anything that is not what an interrupted `create` leaves.
pub(crate) fn require_empty(disk: &dyn Disk, path: &Path) -> Result<()> {
    if Marker::read(disk, path)?.is_some() {
        return Err(Error::PoolExists { path: path.to_path_buf() });
    }
    match disk.list(path) {
        Ok(names) => {
            // What an interrupted `create` may have left.
            let ours = ["packs", "points", "tmp", "locks", "reserve", "lost+found"];
            let marker = format!("{MARKER_NAME}.new");
            if names.iter().all(|name| ours.contains(&name.as_str()) || *name == marker) {
                Ok(())
            } else {
                Err(Error::DirectoryNotEmpty { path: path.to_path_buf() })
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("list", path)(error)),
    }
}

/// Makes the directories inside a pool directory, and the ballast.
pub(crate) fn prepare_directory(disk: &dyn Disk, path: &Path) -> Result<()> {
    let exists = |name: &str| disk.exists(&path.join(name)).unwrap_or(false);
    let groups = disk.list(&path.join("packs")).map_or(0, |names| names.len());
    // Counted, because tools that copy a pool may leave empty folders out.
    if exists("tmp") && exists("points") && exists("locks") && groups >= 256 {
        return Ok(());
    }
    for name in ["packs", "points", "locks"] {
        let directory = path.join(name);
        disk.create_directory(&directory).map_err(Error::io("create", &directory))?;
    }
    for byte in 0..=255u8 {
        let directory = path.join("packs").join(hex(&[byte]));
        disk.create_directory(&directory).map_err(Error::io("create", &directory))?;
    }
    let packs = path.join("packs");
    disk.sync_directory(&packs).map_err(Error::io("sync", &packs))?;
    raise_ballast(disk, path);
    // Last: its presence says that the others are there.
    let temporary = path.join("tmp");
    disk.create_directory(&temporary).map_err(Error::io("create", &temporary))?;
    disk.sync_directory(path).map_err(Error::io("sync", path))
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
