//! From a pool to a vault and back: what is copied restores, whatever fails on the way, and nothing is put twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storepool::backup::{BackupOptions, backup};
use storepool::chunks::ChunkSource;
use storepool::clock::SystemClock;
use storepool::entry::EntryPath;
use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::pool::{Pool, PoolOptions, World};
use storepool::restore::{RestoreOptions, read_file, restore};
use storepool::space::Reserve;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{SyncOptions, SyncReport, SyncSource, sync};
use crate::crypto::passphrase::Passphrase;
use crate::crypto::slot::{KdfCosts, KdfLimits};
use crate::error::{Error, StoreFault};
use crate::ledger::Ledger;
use crate::recovery::VaultPoint;
use crate::store::ObjectStore;
use crate::store::directory::DirectoryStore;
use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};
use crate::vault::anchor::Anchor;
use crate::vault::chain::Surroundings;
use crate::vault::credentials::Credentials;
use crate::vault::key_file::UnlockedKey;
use crate::vault::{NewServer, NewVault, REGISTRATION_PERIOD, Vault};

const COSTS: KdfCosts = KdfCosts { lanes: 1, ..KdfCosts::LIGHTEST };
const LIMITS: KdfLimits = KdfLimits { memory_kib: COSTS.memory_kib };
/// Small packs, so that a small tree makes several.
const OPTIONS: SyncOptions = SyncOptions { pack_length: 64 << 10, uploads: 3 };

/// A server with a pool, registered with a vault in memory.
struct Server {
    folder: TempDir,
    pool: Arc<Pool>,
    memory: Arc<MemoryStore>,
    credentials: Credentials,
    key: UnlockedKey,
    passphrase: Passphrase,
    clock: SystemClock,
    entropy: SeededEntropy,
}

impl Server {
    async fn new() -> Self {
        Self::with_store(None).await
    }

    async fn with_store(store: Option<Arc<dyn ObjectStore>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
        let pool = Pool::create(&[folder.path().join("pool")], options, World::system());
        let memory = Arc::new(MemoryStore::new());
        let (clock, entropy) = (SystemClock::new(), SeededEntropy::new(7));
        let around = Surroundings { clock: &clock, entropy: &entropy };
        let request = NewVault {
            name: "main".into(),
            address: "file:///srv/vault".parse().expect("an address"),
            registration_period: REGISTRATION_PERIOD,
            labels: Vec::new(),
            access: Default::default(),
        };
        let store = store.unwrap_or(memory.clone());
        let (vault, credentials) = Vault::create(store, &request, &around).await.expect("created");
        let passphrase = Passphrase::new("correct horse battery staple").expect("acceptable");
        let anchor = folder.path().join("anchor");
        let label = "web1".parse().expect("a label");
        let server =
            NewServer { label: &label, passphrase: &passphrase, costs: COSTS, anchor: &anchor };
        let registered = vault.register(&credentials, server, &around).await.expect("registered");
        memory.take_requests();
        let key = registered.key;
        let pool = Arc::new(pool.expect("a pool"));
        Self { folder, pool, memory, credentials, key, passphrase, clock, entropy }
    }

    fn around(&self) -> Surroundings<'_> {
        Surroundings { clock: &self.clock, entropy: &self.entropy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn back_up(&self) -> PointId {
        let tree = FileTree::open(&[self.path("tree")], FileTreeOptions::default());
        let options = BackupOptions {
            host: "web1".into(),
            group: String::new(),
            source: "tree".into(),
            tags: Vec::new(),
            program: "test".into(),
            dry_run: false,
            threads: 1,
            force: false,
        };
        let report = backup(&self.pool, &tree.expect("a tree"), &options, &SilentMonitor);
        report.expect("backed up").point.expect("a point")
    }

    async fn sync_through(
        &self,
        store: Arc<dyn ObjectStore>,
        ledger: &str,
        anchor: &str,
    ) -> crate::Result<SyncReport> {
        let vault = Vault::open(store, &self.credentials).await?;
        let realm = vault.unlock_with(&self.key)?;
        let ledger = Arc::new(Ledger::open(&self.path(ledger), realm.id())?);
        let mut anchor =
            Anchor::load(&self.path(anchor), realm.keys())?.expect("written at registration");
        let source = SyncSource {
            session: Arc::new(self.pool.begin_session()?),
            points: self.pool.points()?,
            configuration: None,
        };
        let monitor = Arc::new(SilentMonitor);
        sync(&realm, &mut anchor, &ledger, source, &OPTIONS, &self.around(), monitor).await
    }

    async fn sync(&self) -> crate::Result<SyncReport> {
        self.sync_through(self.memory.clone(), "ledger", "anchor").await
    }

    /// Restores every point of the vault with nothing but the keys; returns how many there are.
    async fn recover_all(&self, store: Arc<dyn ObjectStore>, trees: &[(PointId, &Path)]) -> usize {
        let vault = Vault::open(store, &self.credentials).await.expect("opened");
        let realm = vault.unlock_with(&self.key).expect("open");
        let snapshot = realm.load(None).await.expect("loaded");
        for id in snapshot.points().keys() {
            let (_, tree) = trees.iter().find(|(point, _)| point == id).expect("a known point");
            let point =
                VaultPoint::open(&realm, &snapshot, *id, Handle::current()).await.expect("opened");
            let target = tempfile::tempdir().expect("a folder");
            let path = target.path().join("out");
            let out = path.clone();
            let report = tokio::task::spawn_blocking(move || {
                let options = RestoreOptions { threads: 1, ..RestoreOptions::default() };
                let root = EntryPath::root();
                restore(&point.chunks, &point.manifest, &root, &out, &options, &SilentMonitor)
            });
            let report = report.await.expect("no panic").expect("restored");
            assert_eq!(report.problems, []);
            assert_eq!(content(&path), content(tree));
        }
        snapshot.points().len()
    }
}

fn content(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(root).expect("below").to_path_buf();
                    found.push((name, fs::read(&path).expect("read")));
                }
            }
        }
    }
    found.sort();
    found
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn plant(root: &Path, files: u64) {
    for number in 0..files {
        let folder = root.join(format!("d{}", number % 3));
        fs::create_dir_all(&folder).expect("a folder");
        let length = 3000 + number as usize * 7000;
        fs::write(folder.join(format!("file{number}")), random(number, length)).expect("written");
    }
    fs::write(root.join("large"), random(1000, 300_000)).expect("written");
}

fn copy_tree(from: &Path, to: &Path) {
    for (name, bytes) in content(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_copied_is_recovered_and_a_second_sync_asks_three_times() {
    let server = Server::new().await;
    plant(&server.path("tree"), 20);
    let point = server.back_up();

    let report = server.sync().await.expect("synced");

    assert_eq!((report.copied.as_slice(), report.skipped.len()), ([point].as_slice(), 0));
    assert!(report.packs > 3, "{report:?}");
    assert_eq!(server.memory.take_requests().delete, 0);
    let tree = server.path("tree");
    assert_eq!(server.recover_all(server.memory.clone(), &[(point, &tree)]).await, 1);
    server.memory.take_requests();

    let again = server.sync().await.expect("synced");

    assert!(again.copied.is_empty());
    assert_eq!((again.generation, again.witness), (report.generation, report.witness));
    assert!(server.memory.take_requests().total() <= 3);
    let vault = Vault::open(server.memory.clone(), &server.credentials).await.expect("opened");
    let record = vault.servers().await.expect("listed").found.remove(0);
    let stranger = vault.unlock(&record, &server.passphrase, &LIMITS).await.expect("unlocked");
    let snapshot = stranger.realm.load(None).await.expect("loaded");
    assert_eq!(snapshot.witness(stranger.realm.keys()), report.witness);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_point_costs_what_changed_and_both_are_recovered() {
    let server = Server::new().await;
    let (tree, before) = (server.path("tree"), server.path("before"));
    plant(&tree, 20);
    let one = server.back_up();
    let first = server.sync().await.expect("synced");
    copy_tree(&tree, &before);
    fs::write(tree.join("d0/file0"), random(5000, 4000)).expect("written");
    let two = server.back_up();

    let second = server.sync().await.expect("synced");

    assert!(second.bytes * 10 < first.bytes, "{} of {}", second.bytes, first.bytes);
    let known = [(one, before.as_path()), (two, tree.as_path())];
    assert_eq!(server.recover_all(server.memory.clone(), &known).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_every_committed_point_is_recovered_and_the_next_sync_completes() {
    let server = Server::new().await;
    let tree = server.path("tree");
    plant(&tree, 4);
    let point = server.back_up();
    let known = [(point, tree.as_path())];
    let faults = [
        Fault::Refuse(StoreFault::Timeout),
        Fault::Refuse(StoreFault::PermissionDenied),
        Fault::LoseReply,
        Fault::LandLate,
    ];
    let fresh_anchor = fs::read(server.path("anchor")).expect("read");
    for fault in faults {
        let mut call = 0;
        loop {
            let memory = Arc::new(server.memory.copy());
            let name = format!("{fault:?}-{call}");
            fs::write(server.path("anchor"), &fresh_anchor).expect("written");
            let faulty = Arc::new(FaultyStore::new(memory.clone(), [(call, fault)]));

            let outcome = server.sync_through(faulty.clone(), &name, "anchor").await;

            let committed = server.recover_all(memory.clone(), &known).await;
            if faulty.calls() <= call {
                assert!(outcome.is_ok() && committed == 1, "{name}: {outcome:?}");
                break;
            }
            let next = server.sync_through(memory.clone(), &name, "anchor").await;
            assert!(next.is_ok(), "{name}: {next:?} after {outcome:?}");
            assert_eq!(server.recover_all(memory.clone(), &known).await, 1, "{name}");
            assert_eq!(memory.take_requests().delete, 0, "{name}");
            call += 1;
        }
        assert!(call > 8, "{fault:?}: only {call} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_sync_put_is_not_put_again() {
    let server = Server::new().await;
    let tree = server.path("tree");
    plant(&tree, 20);
    let point = server.back_up();
    let rehearsal = Arc::new(FaultyStore::new(Arc::new(server.memory.copy()), []));
    let anchor = fs::read(server.path("anchor")).expect("read");
    server.sync_through(rehearsal.clone(), "rehearsal", "anchor").await.expect("synced");
    fs::write(server.path("anchor"), &anchor).expect("written");
    // The last two calls are the commit and its reading back.
    let commit = rehearsal.calls() - 2;
    for ledger_is_lost in [false, true] {
        let memory = Arc::new(server.memory.copy());
        let fault = Fault::Refuse(StoreFault::PermissionDenied);
        let faulty = Arc::new(FaultyStore::new(memory.clone(), [(commit, fault)]));
        let name = format!("ledger-{ledger_is_lost}");
        fs::write(server.path("anchor"), &anchor).expect("written");
        server.sync_through(faulty, &name, "anchor").await.expect_err("interrupted");
        let put = memory.take_requests().put;
        assert!(put > 6);
        if ledger_is_lost {
            fs::remove_file(server.path(&name)).expect("removed");
        }

        let report = server.sync_through(memory.clone(), &name, "anchor").await.expect("synced");

        assert_eq!((report.packs, report.copied.as_slice()), (0, [point].as_slice()));
        // Index, manifest, commit: no pack.
        assert!(memory.take_requests().put <= 3);
        assert_eq!(server.recover_all(memory.clone(), &[(point, &tree)]).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_lost_or_old_loses_no_deduplication_and_deletes_nothing() {
    let server = Server::new().await;
    let tree = server.path("tree");
    plant(&tree, 20);
    let one = server.back_up();
    let first = server.sync().await.expect("synced");
    let old_ledger = fs::read(server.path("ledger")).expect("read");
    let before = server.path("before");
    copy_tree(&tree, &before);
    fs::write(tree.join("large"), random(6000, 50_000)).expect("written");
    let two = server.back_up();
    server.sync().await.expect("synced");
    let between = server.path("between");
    copy_tree(&tree, &between);
    let mut known = vec![(one, before.clone()), (two, between)];
    server.memory.take_requests();

    for (number, ledger) in
        [None, Some(&old_ledger), Some(&b"not a database at all".to_vec())].into_iter().enumerate()
    {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(server.path(&format!("ledger{suffix}")));
        }
        if let Some(ledger) = ledger {
            fs::write(server.path("ledger"), ledger).expect("written");
        }
        let changed = tree.join(format!("d0/new{number}"));
        fs::write(changed, random(7000 + number as u64, 2000)).expect("written");
        let point = server.back_up();
        let stand = server.path(&format!("stand{number}"));
        copy_tree(&tree, &stand);
        known.push((point, stand));

        let report = server.sync().await.expect("synced");

        assert_eq!(report.copied, [point]);
        assert!(report.bytes * 10 < first.bytes, "{number}: {} of {}", report.bytes, first.bytes);
        assert_eq!(server.memory.take_requests().delete, 0);
    }
    let known: Vec<_> = known.iter().map(|(point, path)| (*point, path.as_path())).collect();
    assert_eq!(server.recover_all(server.memory.clone(), &known).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_small_file_of_a_point_costs_a_few_requests() {
    let server = Server::new().await;
    let tree = server.path("tree");
    plant(&tree, 10);
    fs::write(tree.join("bulk"), random(9000, 8 << 20)).expect("written");
    let id = server.back_up();
    server.sync().await.expect("synced");
    let vault = Vault::open(server.memory.clone(), &server.credentials).await.expect("opened");
    let realm = vault.unlock_with(&server.key).expect("unlocked");
    let snapshot = realm.load(None).await.expect("loaded");
    server.memory.take_requests();

    let point = VaultPoint::open(&realm, &snapshot, id, Handle::current()).await.expect("opened");
    let read = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        let path = EntryPath::parse(b"d1/file1").expect("a path");
        read_file(&point.chunks as &dyn ChunkSource, &point.manifest, &path, &mut out).map(|_| out)
    });
    let bytes = read.await.expect("no panic").expect("read");

    assert_eq!(bytes, fs::read(tree.join("d1/file1")).expect("read"));
    let requests = server.memory.take_requests();
    assert!(requests.total() <= 8, "{requests:?}");
    assert!(requests.bytes_read < 2 << 20, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_was_rewound_is_noticed_before_anything_is_written() {
    let server = Server::new().await;
    plant(&server.path("tree"), 3);
    server.back_up();
    let old = Arc::new(server.memory.copy());
    server.sync().await.expect("synced");
    fs::write(server.path("tree/more"), b"more").expect("written");
    server.back_up();

    let error = server.sync_through(old.clone(), "ledger", "anchor").await.expect_err("refused");

    assert!(matches!(error, Error::Rewound { .. }), "{error}");
    assert_eq!(old.take_requests().put, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_a_vault_and_a_chunk_damaged_there_costs_only_its_file() {
    let place = tempfile::tempdir().expect("a folder");
    let store = Arc::new(DirectoryStore::create(&place.path().join("vault")).expect("a store"));
    let server = Server::with_store(Some(store.clone())).await;
    let tree = server.path("tree");
    plant(&tree, 12);
    // Several frames, so that there is something apart from the damaged one.
    let apart: Vec<u8> =
        (0..60_000u64).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
    fs::write(tree.join("apart"), apart).expect("written");
    let id = server.back_up();
    server.sync_through(store.clone(), "ledger", "anchor").await.expect("synced");
    assert_eq!(server.recover_all(store.clone(), &[(id, &tree)]).await, 1);
    let vault = Vault::open(store, &server.credentials).await.expect("opened");
    let realm = vault.unlock_with(&server.key).expect("unlocked");
    let snapshot = realm.load(None).await.expect("loaded");
    let pack = snapshot
        .objects()
        .values()
        .find(|object| object.record.kind == crate::layout::ObjectKind::Data)
        .expect("a data pack");
    let path = place.path().join("vault").join(pack.record.name(realm.id()).as_str());
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("written");

    let point = VaultPoint::open(&realm, &snapshot, id, Handle::current()).await.expect("opened");
    let target = place.path().join("out");
    let report = tokio::task::spawn_blocking(move || {
        let root = EntryPath::root();
        let options = RestoreOptions::default();
        restore(&point.chunks, &point.manifest, &root, &target, &options, &SilentMonitor)
    });
    let report = report.await.expect("no panic").expect("the rest is restored");

    assert!(report.problem_count >= 1);
    assert!(report.files >= 1, "{report:?}");
}

/// The ledger of last month names packs that were pruned since: nobody may rely on them, and nothing of it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_last_month_does_not_believe_in_what_was_pruned_since() {
    use crate::forget::UNDELETE_PERIOD;
    use crate::prune::PruneOptions;
    use crate::testing::server::{Server, files, joined};
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let (kept, gone) = (files(1, 4, 9000), files(2, 4, 9000));
    let first = server.back_up("tree", &gone);
    server.sync(memory()).await.expect("synced");
    let last_month = server.memories();
    let second = server.back_up("tree", &kept);
    server.sync(memory()).await.expect("synced");
    server.forget(memory(), &[first]).await.expect("forgotten");
    let options = || PruneOptions { max_unused_percent: 0.0, ..PruneOptions::default() };
    for _ in 0..3 {
        server.pass(UNDELETE_PERIOD * 2);
        server.prune(memory(), true, options()).await.expect("pruned");
    }
    let pruned = server.memory.names().len();
    let anchor = fs::read(server.path("anchor")).expect("read");
    server.remember(&last_month);
    fs::write(server.path("anchor"), anchor).expect("only the ledger is old");
    server.pool.forget(&[first]).expect("forgotten here, too");
    server.memory.take_requests();

    // The files of the pruned point are back at the source.
    let third = server.back_up("tree", &joined(&[&kept, &gone]));
    let report = server.sync(memory()).await.expect("synced");

    assert_eq!(report.copied, [third]);
    assert_eq!(server.memory.take_requests().delete, 0);
    assert!(server.memory.names().len() > pruned, "what was gone was put again");
    assert_eq!(server.restored(third).await, joined(&[&kept, &gone]));
    assert_eq!(server.restored(second).await, kept);
}

/// A store that keeps a part of what it was given, and a sync that ends before it can commit: the names stayed taken for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_object_left_by_a_break_is_not_in_the_way_of_the_next_sync() {
    use crate::testing::server::{Server, files};
    let server = Server::new().await;
    let tree = files(1, 5, 9000);
    let point = server.back_up("tree", &tree);
    let start = server.memory.copy();
    let memories = server.memories();
    let rehearsal = Arc::new(FaultyStore::new(server.memory.clone(), []));
    server.sync(rehearsal.clone()).await.expect("synced");
    let commit = rehearsal.calls() - 2;
    for ledger_is_lost in [false, true] {
        for call in 0..commit {
            let what = format!("cut at {call}, ledger lost: {ledger_is_lost}");
            server.memory.become_like(&start);
            server.remember(&memories);
            let faults =
                [(call, Fault::CutBody(7)), (commit, Fault::Refuse(StoreFault::PermissionDenied))];
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), faults));
            let _ = server.sync(faulty).await;
            if ledger_is_lost {
                let _ = fs::remove_file(server.path("ledger"));
            }

            let report = server.sync(server.memory.clone()).await;

            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.copied, [point], "{what}");
            assert_eq!(server.restored(point).await, tree, "{what}");
            assert_eq!(server.memory.take_requests().delete, 0, "{what}");
        }
    }
}
