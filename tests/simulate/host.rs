//! One server of a history: real pool and vault code over a simulated disk, network and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloudsync::crypto::passphrase::Passphrase;
use cloudsync::crypto::slot::KdfCosts;
use cloudsync::layout::ObjectName;
use cloudsync::ledger::Ledger;
use cloudsync::recovery::VaultPoint;
use cloudsync::store::ObjectStore;
use cloudsync::testing::{MemoryStore, SeededEntropy};
use cloudsync::vault::anchor::Anchor;
use cloudsync::vault::chain::{Realm, Surroundings};
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::key_file::UnlockedKey;
use cloudsync::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Vault};
use storepool::chunks::{ChunkSource, PoolChunks};
use storepool::clock::{Clock, Timestamp};
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::manifest::Manifest;
use storepool::pool::{Pool, PoolOptions, World};
use storepool::restore::read_file;
use storepool::space::Reserve;
use storepool::tree::{Node, TreeCursor};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::machine::{Fate, Machine, Process};
use crate::network::{Line, Network, Trouble};
use crate::script::{Death, IndexFate};

/// Names and contents that were read.
pub(crate) type Found = BTreeMap<String, Vec<u8>>;

/// A clock that moves when it is told to, and a little with each look.
pub(crate) struct SimulatedClock(AtomicI64);

impl SimulatedClock {
    pub(crate) fn shift(&self, nanos: i64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000, Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

// A vault with a registered server. Deriving keys is slow on purpose, so all histories of a run begin with the same one.
struct Beginning {
    store: MemoryStore,
    credentials: Credentials,
    key: UnlockedKey,
    anchor: Vec<u8>,
}

fn beginning() -> &'static Beginning {
    static BEGINNING: OnceLock<Beginning> = OnceLock::new();
    BEGINNING.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(MemoryStore::new());
        let clock = SimulatedClock(AtomicI64::new(store.now().0));
        let entropy = SeededEntropy::new(7);
        let around = Surroundings { clock: &clock, entropy: &entropy };
        let request = NewVault {
            name: "main".into(),
            address: "file:///srv/vault".parse().expect("an address"),
            registration_period: REGISTRATION_PERIOD,
            labels: Vec::new(),
            access: Default::default(),
        };
        let anchor = folder.path().join("anchor");
        let registered = runtime().block_on(async {
            let (vault, credentials) =
                Vault::create(store.clone(), &request, &around).await.expect("created");
            let passphrase = Passphrase::new("correct horse battery staple").expect("long enough");
            let label = "web1".parse().expect("a label");
            let costs = KdfCosts { lanes: 1, ..KdfCosts::LIGHTEST };
            let server =
                NewServer { label: &label, passphrase: &passphrase, costs, anchor: &anchor };
            let done = vault.register(&credentials, server, &around).await.expect("registered");
            (credentials, done.key)
        });
        let (credentials, key) = registered;
        let anchor = fs::read(anchor).expect("written at registration");
        Beginning { store: store.copy(), credentials, key, anchor }
    })
}

/// Creates a runtime of one thread.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// The server.
pub(crate) struct Host {
    folder: TempDir,
    pub(crate) machine: Arc<Machine>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) network: Arc<Network>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) absent: BTreeSet<PathBuf>,
    next_pid: u32,
    // Indexes and ledger as they were.
    old: BTreeMap<PathBuf, Vec<u8>>,
}

impl Host {
    /// Sets up a server with an empty pool of so many disks.
    pub(crate) fn new(seed: u64, disks: usize) -> Self {
        let shared = Path::new("/dev/shm");
        let folder = match shared.is_dir() {
            true => tempfile::tempdir_in(shared),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("a folder");
        let home = folder.path().join("home");
        let roots: Vec<_> = (0..disks).map(|disk| home.join(format!("disk{disk}"))).collect();
        for root in &roots {
            // Locks and the index are on the real file system.
            fs::create_dir_all(root.join("locks")).expect("a folder for locks");
        }
        let start = beginning();
        fs::write(home.join("anchor"), &start.anchor).expect("the anchor");
        let store = Arc::new(start.store.copy());
        let mut host = Self {
            machine: Machine::new(&home),
            clock: Arc::new(SimulatedClock(AtomicI64::new(store.now().0))),
            store,
            network: Network::new(seed),
            roots,
            absent: BTreeSet::new(),
            next_pid: (seed as u32).wrapping_shl(12),
            old: BTreeMap::new(),
            folder,
        };
        let process = host.start(Fate::Lives);
        for root in &host.roots {
            host.machine.files(|files| files.create_folder(root)).expect("a disk");
        }
        Pool::create(&host.roots, options(), host.world(&process)).expect("a new pool");
        host
    }

    /// Returns a path on the real file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// Starts a process.
    pub(crate) fn start(&mut self, fate: Fate) -> Process {
        self.next_pid += 1;
        self.machine.start(self.next_pid, fate)
    }

    /// Returns the world as a process sees it.
    pub(crate) fn world(&self, process: &Process) -> World {
        World {
            disk: Arc::new(process.clone()),
            clock: self.clock.clone(),
            entropy: Arc::new(process.clone()),
        }
    }

    /// Opens the pool.
    pub(crate) fn open(&self, process: &Process) -> storepool::Result<Arc<Pool>> {
        Pool::open(&self.roots, options(), self.world(process)).map(Arc::new)
    }

    /// Connects a process with the vault.
    pub(crate) fn line(&self, process: &Process, troubles: Vec<(u64, Trouble)>) -> Arc<Line> {
        Line::new(self.store.clone(), self.network.clone(), process.clone(), troubles)
    }

    /// Unlocks the vault.
    pub(crate) async fn realm(&self, store: Arc<dyn ObjectStore>) -> cloudsync::Result<Realm> {
        let start = beginning();
        Vault::open(store, &start.credentials).await?.unlock_with(&start.key)
    }

    /// Opens the ledger.
    pub(crate) fn ledger(&self, realm: &Realm) -> cloudsync::Result<Ledger> {
        Ledger::open(&self.path("ledger"), realm.id())
    }

    /// Loads the anchor.
    pub(crate) fn anchor(&self, realm: &Realm) -> cloudsync::Result<Anchor> {
        let loaded = Anchor::load(&self.path("anchor"), realm.keys())?;
        Ok(loaded.expect("written at registration, and nothing removes it"))
    }

    /// Remembers index and ledger, so that they can be as old later.
    pub(crate) fn remember(&mut self) {
        let roots = self.roots.iter().map(|root| root.join("pool.db"));
        for path in roots.chain([self.path("ledger")]).collect::<Vec<_>>() {
            // Closed, so that everything is in the one file.
            if let Ok(bytes) = fs::read(&path) {
                self.old.insert(path, bytes);
            }
        }
    }

    /// Removes a database.
    pub(crate) fn lose(&self, path: &Path) {
        for suffix in ["", "-wal", "-shm", "-damaged"] {
            let mut name = path.as_os_str().to_os_string();
            name.push(suffix);
            let _ = fs::remove_file(PathBuf::from(name));
        }
    }

    /// Makes a database as it was when it was remembered.
    pub(crate) fn bring_back(&self, path: &Path) {
        if let Some(bytes) = self.old.get(path) {
            self.lose(path);
            fs::write(path, bytes).expect("an old database");
        }
    }

    /// Starts the machine again after all its processes died.
    pub(crate) fn restart(&self, death: Death, index: IndexFate) {
        let power_went = self.machine.is_dead() && death != Death::Kill;
        self.machine.restart();
        if !power_went {
            return;
        }
        let mut luck = match death {
            Death::Torn(seed) => Some(crate::chance::Chance::new(seed)),
            _ => None,
        };
        self.machine.files(|files| files.cut_power(luck.as_mut()));
        for root in &self.roots {
            let path = root.join("pool.db");
            match index {
                IndexFate::Kept => {}
                IndexFate::Gone => self.lose(&path),
                IndexFate::Old => self.bring_back(&path),
                IndexFate::RolledBack(seed) => cut_log(&path.with_extension("db-wal"), seed),
            }
        }
    }

    /// Returns the names of the vault's packs and manifests.
    pub(crate) fn contents(&self) -> Vec<String> {
        let is_content = |name: &String| {
            name.parse::<ObjectName>().is_ok_and(|name| name.content_parts().is_some())
        };
        self.store.names().into_iter().filter(is_content).collect()
    }
}

/// Returns options that make many small packs.
pub(crate) fn options() -> PoolOptions {
    PoolOptions {
        compression_level: 1,
        pack_length: 8 << 10,
        reserve: Reserve::Bytes(0),
        holder: "a simulation".to_string(),
    }
}

// The log of a database is synced before it is written back: until then any end of it may be missing after a power cut.
fn cut_log(log: &Path, seed: u64) {
    const WRITTEN_BACK_AT: u64 = 3 << 20;
    let Ok(file) = fs::OpenOptions::new().write(true).open(log) else { return };
    let length = file.metadata().expect("open").len();
    if length < WRITTEN_BACK_AT {
        file.set_len(seed % (length + 1)).expect("a shorter log");
    }
}

/// Reads a point of the pool as a restore would.
pub(crate) fn read_pool_point(pool: &Arc<Pool>, point: PointId) -> Result<Found, String> {
    let read = || {
        let session = pool.begin_session()?;
        read_all(&PoolChunks::new(&session), &pool.manifest(point)?)
    };
    read().map_err(|error| error.to_string())
}

/// Reads a point of the vault as a machine would that has nothing but the keys.
pub(crate) async fn read_vault_point(
    realm: &Realm,
    snapshot: &cloudsync::vault::snapshot::Snapshot,
    point: PointId,
) -> Result<Found, String> {
    let handle = tokio::runtime::Handle::current();
    let point = VaultPoint::open(realm, snapshot, point, handle).await;
    let point = point.map_err(|error| error.to_string())?;
    let read = tokio::task::spawn_blocking(move || read_all(&point.chunks, &point.manifest));
    read.await.expect("reading does not panic").map_err(|error| error.to_string())
}

fn read_all(source: &dyn ChunkSource, manifest: &Manifest) -> storepool::Result<Found> {
    let reader = source.reader()?;
    let mut open = vec![(String::new(), manifest.root)];
    let mut names = Vec::new();
    while let Some((prefix, tree)) = open.pop() {
        for entry in TreeCursor::new(&*reader, tree) {
            let entry = entry?;
            let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
            match entry.node {
                Node::Directory { tree, .. } => open.push((format!("{name}/"), tree)),
                _ => names.push(name),
            }
        }
    }
    let mut found = Found::new();
    for name in names {
        let mut bytes = Vec::new();
        let path = EntryPath::parse(name.as_bytes()).expect("a name of the source");
        read_file(source, manifest, &path, &mut bytes)?;
        found.insert(name, bytes);
    }
    Ok(found)
}
