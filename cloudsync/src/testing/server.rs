//! A whole server for tests of this crate: a real pool, a vault in memory, and clocks that move only when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storepool::backup::{BackupOptions, backup};
use storepool::catalog::{Notes, Pin};
use storepool::clock::{Clock, Timestamp};
use storepool::disk::SystemDisk;
use storepool::entry::EntryPath;
use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::pool::{Pool, PoolOptions, World};
use storepool::restore::{RestoreOptions, restore};
use storepool::space::Reserve;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::crypto::passphrase::Passphrase;
use crate::crypto::slot::{KdfCosts, KdfLimits};
use crate::error::Result;
use crate::forget::{forget, undelete};
use crate::ledger::Ledger;
use crate::prune::{PruneOptions, PruneReport, prune};
use crate::recovery::VaultPoint;
use crate::store::ObjectStore;
use crate::sync::{SyncOptions, SyncReport, SyncSource, sync};
use crate::testing::{MemoryStore, SeededEntropy};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Realm, Surroundings};
use crate::vault::credentials::Credentials;
use crate::vault::key_file::UnlockedKey;
use crate::vault::owner::OwnerKey;
use crate::vault::snapshot::Snapshot;
use crate::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Vault};
use crate::writing::Writing;

/// Key derivation as cheap as a reader accepts.
pub(crate) const COSTS: KdfCosts = KdfCosts { lanes: 1, ..KdfCosts::LIGHTEST };
/// What a reader of it needs.
pub(crate) const LIMITS: KdfLimits = KdfLimits { memory_kib: COSTS.memory_kib };
/// The passphrase of every test server.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
/// A day.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// Small packs, so that a small tree makes several.
const PACK_LENGTH: usize = 32 << 10;

/// Names and contents of files.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    fn shift(&self, nanos: i64) {
        let mut now = self.0.lock().expect("no test panics while it holds the clock");
        now.0 += nanos;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no test panics while it holds the clock")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A server with a pool, registered with a vault in memory.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) pool: Arc<Pool>,
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) credentials: Credentials,
    pub(crate) owner: OwnerKey,
    pub(crate) key: UnlockedKey,
    pub(crate) clock: Arc<ManualClock>,
    entropy: SeededEntropy,
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with_memory(MemoryStore::new()).await
    }

    pub(crate) async fn with_memory(memory: MemoryStore) -> Self {
        // In memory where that is possible: nothing here is about power cuts, and syncs cost most of the time.
        let shared = Path::new("/dev/shm");
        let folder = match shared.is_dir() {
            true => tempfile::tempdir_in(shared),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("a folder");
        let memory = Arc::new(memory);
        let clock = Arc::new(ManualClock(Mutex::new(memory.now())));
        let world = World {
            disk: Arc::new(SystemDisk),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        let options = PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
        let pool = Pool::create(&[folder.path().join("pool")], options, world).expect("a pool");
        let entropy = SeededEntropy::new(7);
        let around = Surroundings { clock: &*clock, entropy: &entropy };
        let request = NewVault {
            name: "main".into(),
            address: "file:///srv/vault".parse().expect("an address"),
            registration_period: REGISTRATION_PERIOD,
            labels: Vec::new(),
            access: Default::default(),
        };
        let store: Arc<dyn ObjectStore> = memory.clone();
        let owner = OwnerKey::generate(&entropy);
        let created = Vault::create_owned(store, &request, &owner, &around).await;
        let (vault, credentials) = created.expect("created");
        let passphrase = Passphrase::new(PASSPHRASE).expect("acceptable");
        let anchor = folder.path().join("anchor");
        let label = "web1".parse().expect("a label");
        let server =
            NewServer { label: &label, passphrase: &passphrase, costs: COSTS, anchor: &anchor };
        let registered = vault.register(&credentials, server, &around).await.expect("registered");
        memory.take_requests();
        let (key, pool) = (registered.key, Arc::new(pool));
        Self { folder, pool, memory, credentials, owner, key, clock, entropy }
    }

    pub(crate) fn around(&self) -> Surroundings<'_> {
        Surroundings { clock: &*self.clock, entropy: &self.entropy }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets time pass, for the vault and for the agent.
    pub(crate) fn pass(&self, time: Duration) {
        self.memory.advance(time);
        self.clock.shift(time.as_nanos() as i64);
    }

    /// Sets the agent's clock wrong.
    pub(crate) fn jump(&self, days: i64) {
        self.clock.shift(days * DAY.as_nanos() as i64);
    }

    /// Makes a point of these files, of the data source `source`.
    pub(crate) fn back_up(&self, source: &str, files: &Files) -> PointId {
        let tree = self.path(&format!("tree-{source}"));
        let _ = fs::remove_dir_all(&tree);
        for (name, bytes) in files {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, bytes).expect("written");
        }
        let tree = FileTree::open(&[tree], FileTreeOptions::default()).expect("a tree");
        let options = BackupOptions {
            host: "web1".into(),
            group: String::new(),
            source: source.into(),
            tags: Vec::new(),
            set: None,
            program: "test".into(),
            dry_run: false,
            threads: 1,
            force: true,
        };
        let report = backup(&self.pool, &tree, &options, &SilentMonitor).expect("backed up");
        report.point.expect("a point")
    }

    /// Pins and tags a point in the pool.
    pub(crate) fn annotate(
        &self,
        point: PointId,
        pins: &[(&str, Option<Timestamp>)],
        tags: &[&str],
    ) {
        let pin = |(reason, until): &(&str, Option<Timestamp>)| Pin {
            reason: (*reason).to_string(),
            until: until.map(|until| until.0),
        };
        let notes = Notes {
            tags: tags.iter().map(ToString::to_string).collect(),
            pins: pins.iter().map(pin).collect(),
            ..Notes::default()
        };
        self.pool.set_notes(point, &notes).expect("annotated");
    }

    /// Opens the vault through this store.
    pub(crate) async fn realm(&self, store: Arc<dyn ObjectStore>) -> Result<Realm> {
        Vault::open(store, &self.credentials).await?.unlock_with(&self.key)
    }

    pub(crate) async fn state(&self) -> Snapshot {
        let realm = self.realm(self.memory.clone()).await.expect("opened");
        realm.load(None).await.expect("loaded")
    }

    /// Copies all points of the pool.
    pub(crate) async fn sync(&self, store: Arc<dyn ObjectStore>) -> Result<SyncReport> {
        let realm = self.realm(store).await?;
        let ledger = Arc::new(Ledger::open(&self.path("ledger"), realm.id())?);
        let mut anchor = self.anchor(&realm)?;
        let source = SyncSource {
            session: Arc::new(self.pool.begin_session()?),
            points: self.pool.points()?,
            configuration: None,
        };
        let options = SyncOptions { pack_length: PACK_LENGTH, uploads: 3 };
        let monitor = Arc::new(SilentMonitor);
        sync(&realm, &mut anchor, &ledger, source, &options, &self.around(), monitor).await
    }

    fn anchor(&self, realm: &Realm) -> Result<Anchor> {
        Ok(Anchor::load(&self.path("anchor"), realm.keys())?.expect("written at registration"))
    }

    /// Does something that writes, through this store, with anchor and ledger as the last run left them.
    pub(crate) async fn write<T>(
        &self,
        store: Arc<dyn ObjectStore>,
        action: impl AsyncFnOnce(&mut Writing<'_>) -> Result<T>,
    ) -> Result<T> {
        let realm = self.realm(store).await?;
        let ledger = Ledger::open(&self.path("ledger"), realm.id())?;
        let mut anchor = self.anchor(&realm)?;
        let around = self.around();
        let mut writing =
            Writing { realm: &realm, anchor: &mut anchor, ledger: &ledger, around: &around };
        action(&mut writing).await
    }

    pub(crate) async fn forget(
        &self,
        store: Arc<dyn ObjectStore>,
        points: &[PointId],
    ) -> Result<()> {
        let points: BTreeSet<_> = points.iter().copied().collect();
        self.write(store, async |writing| {
            let mut snapshot = writing.begin().await?;
            forget(writing, &mut snapshot, &points, &[]).await
        })
        .await
    }

    pub(crate) async fn undelete(
        &self,
        store: Arc<dyn ObjectStore>,
        points: &[PointId],
    ) -> Result<()> {
        let points: BTreeSet<_> = points.iter().copied().collect();
        self.write(store, async |writing| {
            let mut snapshot = writing.begin().await?;
            undelete(writing, &mut snapshot, &points).await
        })
        .await
    }

    /// Prunes, with the pool at hand if `use_pool`.
    pub(crate) async fn prune(
        &self,
        store: Arc<dyn ObjectStore>,
        use_pool: bool,
        options: PruneOptions,
    ) -> Result<PruneReport> {
        let session = match use_pool {
            true => Some(Arc::new(self.pool.begin_session()?)),
            false => None,
        };
        let options = PruneOptions { pack_length: PACK_LENGTH, ..options };
        self.write(store, async |writing| {
            prune(writing, session, false, &options, Arc::new(SilentMonitor)).await
        })
        .await
    }

    /// Restores a point from the vault with nothing but the keys.
    pub(crate) async fn restored(&self, point: PointId) -> Files {
        self.restored_from(self.memory.clone(), point).await
    }

    /// Restores a point from a vault in this store with nothing but the keys.
    pub(crate) async fn restored_from(&self, store: Arc<dyn ObjectStore>, point: PointId) -> Files {
        let realm = self.realm(store).await.expect("opened");
        let snapshot = realm.load(None).await.expect("loaded");
        let point = VaultPoint::open(&realm, &snapshot, point, Handle::current()).await;
        let point = point.expect("a point");
        let target = tempfile::tempdir().expect("a folder");
        let out = target.path().join("out");
        let path = out.clone();
        let work = move || {
            let options = RestoreOptions { threads: 1, ..RestoreOptions::default() };
            let root = EntryPath::root();
            restore(&point.chunks, &point.manifest, &root, &path, &options, &SilentMonitor)
        };
        let report = tokio::task::spawn_blocking(work).await.expect("no panic").expect("restored");
        assert_eq!(report.problems, []);
        content(&out)
    }

    /// Copies what this installation remembers, so that it can be put back.
    pub(crate) fn memories(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let names = ["anchor", "ledger", "ledger-wal", "ledger-shm"];
        names.iter().map(|name| (self.path(name), fs::read(self.path(name)).ok())).collect()
    }

    /// Loses the ledger.
    pub(crate) fn lose_ledger(&self) {
        for name in ["ledger", "ledger-wal", "ledger-shm"] {
            let _ = fs::remove_file(self.path(name));
        }
    }

    /// Puts back what [`Server::memories`] returned.
    pub(crate) fn remember(&self, memories: &[(PathBuf, Option<Vec<u8>>)]) {
        for (path, bytes) in memories {
            match bytes {
                Some(bytes) => fs::write(path, bytes).expect("written"),
                None => drop(fs::remove_file(path)),
            }
        }
    }
}

/// Returns all files below a folder.
pub(crate) fn content(root: &Path) -> Files {
    let mut found = Files::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(root).expect("below").to_string_lossy();
                    found.insert(name.into_owned(), fs::read(&path).expect("read"));
                }
            }
        }
    }
    found
}

/// Returns `count` files of `length` bytes that do not compress, different for each seed.
pub(crate) fn files(seed: u64, count: u64, length: usize) -> Files {
    let file = |number: u64| {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        (format!("d{}/{seed}-{number}", number % 3), bytes)
    };
    (0..count).map(file).collect()
}

/// Joins files.
pub(crate) fn joined(parts: &[&Files]) -> Files {
    parts.iter().flat_map(|files| (*files).clone()).collect()
}
