//! One server of a history: real pool and vault code over a simulated disk, network and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloudsync::crypto::passphrase::Passphrase;
use cloudsync::crypto::slot::{KdfCosts, KdfLimits};
use cloudsync::layout::{Generation, InstanceId, Label, ObjectName};
use cloudsync::ledger::Ledger;
use cloudsync::recovery::VaultPoint;
use cloudsync::store::ObjectStore;
use cloudsync::testing::{MemoryStore, SeededEntropy};
use cloudsync::vault::anchor::Anchor;
use cloudsync::vault::chain::{Realm, Surroundings};
use cloudsync::vault::commit::Changes;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::key_file::UnlockedKey;
use cloudsync::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Vault};
use storepool::chunks::{ChunkSource, PoolChunks};
use storepool::clock::{Clock, Timestamp};
use storepool::entropy::random_bytes;
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::manifest::Manifest;
use storepool::pool::{Pool, PoolOptions, World};
use storepool::restore::read_file;
use storepool::space::Reserve;
use storepool::tree::{Node, TreeCursor};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::machine::{Fate, Machine, Process, copy_tree};
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

// What a server has after its registration.
struct Registered {
    key: UnlockedKey,
    anchor: Vec<u8>,
}

// A vault with two registered servers. Deriving keys is slow on purpose, so all histories of a run begin with the same one.
struct Beginning {
    store: MemoryStore,
    credentials: Credentials,
    servers: Vec<Registered>,
}

/// What passphrases cost here.
pub(crate) const COSTS: KdfCosts = KdfCosts { lanes: 1, ..KdfCosts::LIGHTEST };
/// The names of the servers in the vault.
const LABELS: [&str; 2] = ["web1", "web2"];

/// Returns the passphrase of every server.
pub(crate) fn passphrase() -> Passphrase {
    Passphrase::new("correct horse battery staple").expect("long enough")
}

fn label(server: usize) -> Label {
    LABELS[server].parse().expect("a label")
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
        let (credentials, servers) = runtime().block_on(async {
            let (vault, credentials) =
                Vault::create(store.clone(), &request, &around).await.expect("created");
            let mut servers = Vec::new();
            for number in 0..LABELS.len() {
                let (label, passphrase) = (label(number), passphrase());
                let anchor = folder.path().join(format!("anchor{number}"));
                let (label, passphrase) = (&label, &passphrase);
                let server = NewServer { label, passphrase, costs: COSTS, anchor: &anchor };
                let done = vault.register(&credentials, server, &around).await.expect("registered");
                let anchor = fs::read(anchor).expect("written at registration");
                servers.push(Registered { key: done.key, anchor });
            }
            (credentials, servers)
        });
        Beginning { store: store.copy(), credentials, servers }
    })
}

/// Creates a runtime of one thread.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// The server.
pub(crate) struct Host {
    // Where the files of this server lie: those of another one lie beside them.
    home: PathBuf,
    // Which of the registered servers it is.
    number: usize,
    // Kept as long as any server of the history.
    folder: Arc<TempDir>,
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
        let store = Arc::new(beginning().store.copy());
        let mut host = Self {
            machine: Machine::new(&home),
            clock: Arc::new(SimulatedClock(AtomicI64::new(store.now().0))),
            store,
            network: Network::new(seed),
            roots,
            absent: BTreeSet::new(),
            next_pid: (seed as u32).wrapping_shl(12),
            old: BTreeMap::new(),
            home,
            number: 0,
            folder: Arc::new(folder),
        };
        host.settle_in();
        host
    }

    /// Sets up another server of the same vault, with a label and keys of its own. (Both are in one room: when the power goes, it goes for both.)
    pub(crate) fn neighbour(&self) -> Self {
        let mut host = self.beside("neighbour", 1);
        for root in &host.roots {
            fs::create_dir_all(root.join("locks")).expect("a folder for locks");
        }
        host.settle_in();
        host
    }

    /// Copies the whole machine: pool, keys, and what it knows of the vault.
    pub(crate) fn twin(&self) -> Self {
        let mut host = self.beside("twin", self.number);
        copy_tree_but(&self.home, &host.home);
        for (own, copy) in self.roots.iter().zip(&host.roots) {
            self.machine.files(|files| files.copy_below(own, copy)).expect("a copy of a disk");
        }
        // What both make in the same moment is not the same.
        host.clock = Arc::new(SimulatedClock(AtomicI64::new(self.clock.now().0 + 7_000_000_000)));
        host.remember();
        host
    }

    fn beside(&self, folder: &str, number: usize) -> Self {
        let home = self.home.join(folder);
        let moved = |root: &PathBuf| home.join(root.file_name().expect("a disk has a name"));
        Self {
            machine: self.machine.clone(),
            clock: Arc::new(SimulatedClock(AtomicI64::new(self.store.now().0))),
            store: self.store.clone(),
            network: self.network.clone(),
            roots: self.roots.iter().map(moved).collect(),
            absent: BTreeSet::new(),
            // Far from those of the server beside it.
            next_pid: self.next_pid + (1 << 11),
            old: BTreeMap::new(),
            home,
            number,
            folder: self.folder.clone(),
        }
    }

    // An empty pool, and what a registration leaves.
    fn settle_in(&mut self) {
        let anchor = &beginning().servers[self.number].anchor;
        fs::write(self.home.join("anchor"), anchor).expect("the anchor");
        let process = self.start(Fate::Lives);
        for root in &self.roots {
            self.machine.files(|files| files.create_folder(root)).expect("a disk");
        }
        Pool::create(&self.roots, options(), self.world(&process)).expect("a new pool");
    }

    /// Returns a path on the real file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
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

    /// Connects a process with another store, or with the vault in a moment in which nothing else arrives there.
    pub(crate) fn line_to(&self, process: &Process, store: Arc<MemoryStore>) -> Arc<Line> {
        Line::new(store, Network::new(0), process.clone(), Vec::new())
    }

    /// Unlocks the vault.
    pub(crate) async fn realm(&self, store: Arc<dyn ObjectStore>) -> cloudsync::Result<Realm> {
        let start = beginning();
        Vault::open(store, &start.credentials).await?.unlock_with(&start.servers[self.number].key)
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

    /// Returns the newest generation that this machine has seen in the vault.
    pub(crate) fn seen_generation(&self) -> Generation {
        let keys = &beginning().servers[self.number].key.keys;
        let anchor = Anchor::load(&self.path("anchor"), keys).expect("a sound anchor");
        anchor.expect("written at registration").generation()
    }

    /// Returns the generation of the state that this machine remembers.
    pub(crate) fn remembered_generation(&self) -> Option<Generation> {
        let keys = &beginning().servers[self.number].key.keys;
        let ledger = Ledger::open(&self.path("ledger"), keys.realm()).ok()?;
        Some(ledger.snapshot(keys).ok()??.generation())
    }

    /// Opens the server's part of the vault with nothing but credentials and passphrase.
    pub(crate) fn unlock(&self) -> cloudsync::Result<()> {
        let store: Arc<dyn ObjectStore> = self.store.clone();
        runtime().block_on(async {
            let vault = Vault::open(store, &beginning().credentials).await?;
            let server = vault.server(&label(self.number)).await?;
            let limits = KdfLimits { memory_kib: COSTS.memory_kib };
            vault.unlock(&server, &passphrase(), &limits).await?.realm.load(None).await?;
            Ok(())
        })
    }

    /// Becomes the server again, as a machine does whose place another one took.
    pub(crate) fn adopt(&mut self) -> cloudsync::Result<()> {
        let process = self.start(Fate::Lives);
        let line = self.line(&process, Vec::new());
        runtime().block_on(async {
            let realm = self.realm(line).await?;
            let state = realm.load(None).await?;
            let instance = InstanceId(random_bytes(&process));
            let path = self.path("anchor");
            let mut anchor = Anchor::begin(&path, realm.vault(), realm.id(), instance, &state);
            let around = Surroundings { clock: &*self.clock, entropy: &process };
            let (label, changes) = (label(self.number), Changes::default());
            realm.claim(&state, &label, changes, &mut anchor, &around).await?;
            Ok(())
        })
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

    /// Returns the names of the packs, indexes and manifests that this server has in the vault.
    pub(crate) fn contents(&self) -> Vec<String> {
        let mut names = self.objects();
        names.retain(|name| {
            name.parse::<ObjectName>().is_ok_and(|name| name.content_parts().is_some())
        });
        names
    }

    /// Returns the names of its commits, the oldest first.
    pub(crate) fn commits(&self) -> Vec<String> {
        self.of_kind("c")
    }

    /// Returns the names of its slots.
    pub(crate) fn slots(&self) -> Vec<String> {
        self.of_kind("k")
    }

    /// Returns the names of all its objects.
    pub(crate) fn objects(&self) -> Vec<String> {
        let realm = beginning().servers[self.number].key.keys.realm();
        let mut names = self.store.names();
        names.retain(|name| {
            name.strip_prefix("r/").is_some_and(|it| it.starts_with(&realm.to_string()))
        });
        names
    }

    fn of_kind(&self, kind: &str) -> Vec<String> {
        let mut names = self.objects();
        names.retain(|name| name.split('/').nth(2) == Some(kind));
        names
    }
}

// Copies what lies in a home: not what lies beside it in the same folder.
fn copy_tree_but(home: &Path, twin: &Path) {
    fs::create_dir_all(twin).expect("a folder for the copy");
    for entry in fs::read_dir(home).expect("a home") {
        let entry = entry.expect("an entry");
        let target = twin.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true if entry.path() == twin => {}
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy of a file")),
        }
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
