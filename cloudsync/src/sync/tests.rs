//! From a pool to a vault and back: what is copied restores, whatever fails on the way, and nothing is put twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use storepool::chunks::ChunkSource;
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::restore::{RestoreOptions, read_file, restore};
use tokio::runtime::{Builder, Handle};

use crate::crypto::passphrase::Passphrase;
use crate::error::{Error, StoreFault};
use crate::forget::{UNDELETE_PERIOD, dismiss};
use crate::layout::ObjectKind;
use crate::prune::PruneOptions;
use crate::recovery::VaultPoint;
use crate::store::ObjectStore;
use crate::store::directory::DirectoryStore;
use crate::testing::server::{Files, LIMITS, PASSPHRASE, Server, files, joined};
use crate::testing::{Fault, FaultyStore, MemoryStore};
use crate::vault::Vault;

/// The last two calls of a sync are the commit and its reading back.
const CALLS_OF_A_COMMIT: u64 = 2;

/// Files of many lengths, and a large one.
fn mixed(count: u64) -> Files {
    let lengths = (0..count).map(|number| 3000 + number as usize * 14_000);
    let mut mixed: Files = lengths.flat_map(|length| files(length as u64, 1, length)).collect();
    mixed.extend(files(1000, 1, 1_600_000));
    mixed
}

/// The names of all objects that are named by their content, of these kinds: `p`, `t`, `i`, `m`.
fn content_names(memory: &MemoryStore, kinds: &str) -> BTreeSet<String> {
    let of_kind = |name: &String| {
        let kind = name.split('/').nth(2).unwrap_or_default();
        kind.len() == 1 && kinds.contains(kind)
    };
    memory.names().into_iter().filter(of_kind).collect()
}

/// Everything in the vault, restored with nothing but the keys.
async fn everything(server: &Server, store: Arc<dyn ObjectStore>) -> BTreeMap<PointId, Files> {
    let realm = server.realm(store.clone()).await.expect("opened");
    let mut restored = BTreeMap::new();
    for point in realm.load(None).await.expect("loaded").points().keys() {
        restored.insert(*point, server.restored_from(store.clone(), *point).await);
    }
    restored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_copied_is_recovered_and_a_second_sync_asks_three_times() {
    let server = Server::new().await;
    let tree = mixed(20);
    let point = server.back_up("tree", &tree);

    let report = server.sync(server.memory.clone()).await.expect("synced");

    assert_eq!((report.copied.as_slice(), report.skipped.len()), ([point].as_slice(), 0));
    assert!(report.packs > 3, "{report:?}");
    assert_eq!(server.memory.take_requests().delete, 0);
    assert_eq!(server.restored(point).await, tree);
    server.memory.take_requests();

    let again = server.sync(server.memory.clone()).await.expect("synced");

    assert!(again.copied.is_empty());
    assert_eq!((again.generation, again.witness), (report.generation, report.witness));
    assert!(server.memory.take_requests().total() <= 3);
    let vault = Vault::open(server.memory.clone(), &server.credentials).await.expect("opened");
    let record = vault.servers().await.expect("listed").found.remove(0);
    let passphrase = Passphrase::new(PASSPHRASE).expect("acceptable");
    let stranger = vault.unlock(&record, &passphrase, &LIMITS).await.expect("unlocked");
    let snapshot = stranger.realm.load(None).await.expect("loaded");
    assert_eq!(snapshot.witness(stranger.realm.keys()), report.witness);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_point_costs_what_changed_and_both_are_recovered() {
    let server = Server::new().await;
    let before = mixed(20);
    let one = server.back_up("tree", &before);
    let first = server.sync(server.memory.clone()).await.expect("synced");
    let after = joined(&[&before, &files(5000, 1, 4000)]);
    let two = server.back_up("tree", &after);

    let second = server.sync(server.memory.clone()).await.expect("synced");

    assert!(second.bytes * 10 < first.bytes, "{} of {}", second.bytes, first.bytes);
    let known = BTreeMap::from([(one, before), (two, after)]);
    assert_eq!(everything(&server, server.memory.clone()).await, known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_every_committed_point_is_recovered_and_the_next_sync_completes() {
    let server = Server::new().await;
    let tree = mixed(4);
    let point = server.back_up("tree", &tree);
    let known = BTreeMap::from([(point, tree)]);
    let (start, memories) = (server.memory.copy(), server.memories());
    let faults = [
        Fault::Refuse(StoreFault::Timeout),
        Fault::Refuse(StoreFault::PermissionDenied),
        Fault::LoseReply,
        Fault::LandLate,
    ];
    for fault in faults {
        let mut call = 0;
        loop {
            server.memory.become_like(&start);
            server.remember(&memories);
            let name = format!("{fault:?}-{call}");
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));

            let outcome = server.sync(faulty.clone()).await;

            let committed = everything(&server, server.memory.clone()).await;
            assert!(committed.is_empty() || committed == known, "{name}");
            if faulty.calls() <= call {
                assert!(outcome.is_ok() && committed == known, "{name}: {outcome:?}");
                break;
            }
            let next = server.sync(server.memory.clone()).await;
            assert!(next.is_ok(), "{name}: {next:?} after {outcome:?}");
            assert_eq!(everything(&server, server.memory.clone()).await, known, "{name}");
            assert_eq!(server.memory.take_requests().delete, 0, "{name}");
            call += 1;
        }
        assert!(call > 8, "{fault:?}: only {call} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_sync_put_is_not_put_again() {
    let server = Server::new().await;
    let tree = mixed(20);
    let point = server.back_up("tree", &tree);
    let (start, memories) = (server.memory.copy(), server.memories());
    let rehearsal = Arc::new(FaultyStore::new(server.memory.clone(), []));
    server.sync(rehearsal.clone()).await.expect("synced");
    let commit = rehearsal.calls() - CALLS_OF_A_COMMIT;
    for ledger_is_lost in [false, true] {
        server.memory.become_like(&start);
        server.remember(&memories);
        server.memory.take_requests();
        let fault = Fault::Refuse(StoreFault::PermissionDenied);
        let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(commit, fault)]));
        server.sync(faulty).await.expect_err("interrupted");
        assert!(server.memory.take_requests().put > 6);
        if ledger_is_lost {
            server.lose_ledger();
        }

        let report = server.sync(server.memory.clone()).await.expect("synced");

        assert_eq!((report.packs, report.copied.as_slice()), (0, [point].as_slice()));
        // Index, manifest, commit: no pack.
        assert!(server.memory.take_requests().put <= 3);
        assert_eq!(server.restored(point).await, tree);
    }
}

/// A pack whose answer was still on its way when the sync was killed was put once more by the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrived_unheard_before_a_kill_is_not_put_again() {
    let server = Arc::new(Server::new().await);
    let tree = mixed(20);
    let point = server.back_up("tree", &tree);
    let (start, memories) = (server.memory.copy(), server.memories());
    let rehearsal = Arc::new(FaultyStore::new(server.memory.clone(), []));
    let packs = server.sync(rehearsal.clone()).await.expect("synced").packs;
    let undisturbed = content_names(&server.memory, "ptm");
    let mut killed = 0;
    for call in 0..rehearsal.calls() {
        server.memory.become_like(&start);
        server.remember(&memories);
        let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, Fault::Silence)]));
        // A call that is no put only fails.
        if !was_killed(&server, faulty).await {
            continue;
        }
        killed += 1;
        let arrived = content_names(&server.memory, "pt").len() as u64;
        let committed = server.state().await.points().contains_key(&point);

        let report = server.sync(server.memory.clone()).await.expect("synced");

        assert_eq!(report.copied.contains(&point), !committed, "call {call}");
        assert_eq!(report.packs, packs - arrived, "call {call}");
        assert_eq!(content_names(&server.memory, "ptm"), undisturbed, "call {call}");
        assert_eq!(content_names(&server.memory, "i").len(), 1, "call {call}");
        assert_eq!(server.restored(point).await, tree, "call {call}");
    }
    assert!(killed >= packs + 3, "{killed} puts were left without an answer");
}

// Runs a sync until a put goes unanswered and then ends it like a kill: when this returns, nothing of it is left. Returns whether it came to that.
async fn was_killed(server: &Arc<Server>, faulty: Arc<FaultyStore>) -> bool {
    let server = server.clone();
    let work = move || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let killed = runtime.block_on(async {
            tokio::select! {
                _ = server.sync(faulty.clone()) => false,
                () = faulty.silence() => true,
            }
        });
        // Waits for every thread of it: the one that reads the pool still has the ledger open.
        drop(runtime);
        killed
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_lost_or_old_loses_no_deduplication_and_deletes_nothing() {
    let server = Server::new().await;
    let sync = || server.sync(server.memory.clone());
    let mut tree = mixed(20);
    let one = server.back_up("tree", &tree);
    let mut known = BTreeMap::from([(one, tree.clone())]);
    let first = sync().await.expect("synced");
    let old_ledger = fs::read(server.path("ledger")).expect("read");
    tree.extend(files(6000, 1, 50_000));
    known.insert(server.back_up("tree", &tree), tree.clone());
    sync().await.expect("synced");
    server.memory.take_requests();

    let ledgers = [None, Some(old_ledger), Some(b"not a database at all".to_vec())];
    for (number, ledger) in (7000..).zip(ledgers) {
        server.lose_ledger();
        if let Some(ledger) = ledger {
            fs::write(server.path("ledger"), ledger).expect("written");
        }
        tree.extend(files(number, 1, 2000));
        let point = server.back_up("tree", &tree);
        known.insert(point, tree.clone());

        let report = sync().await.expect("synced");

        assert_eq!(report.copied, [point]);
        assert!(report.bytes * 10 < first.bytes, "{number}: {} of {}", report.bytes, first.bytes);
        assert_eq!(server.memory.take_requests().delete, 0);
    }
    assert_eq!(everything(&server, server.memory.clone()).await, known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_small_file_of_a_point_costs_a_few_requests() {
    let server = Server::new().await;
    let small = files(1, 10, 9000);
    let point = server.back_up("tree", &joined(&[&small, &files(9000, 1, 8 << 20)]));
    server.sync(server.memory.clone()).await.expect("synced");
    let realm = server.realm(server.memory.clone()).await.expect("opened");
    let snapshot = realm.load(None).await.expect("loaded");
    server.memory.take_requests();

    let opened = VaultPoint::open(&realm, &snapshot, point, Handle::current()).await;
    let opened = opened.expect("opened");
    let (name, content) = small.into_iter().next().expect("a file");
    let read = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        let path = EntryPath::parse(name.as_bytes()).expect("a path");
        read_file(&opened.chunks as &dyn ChunkSource, &opened.manifest, &path, &mut out)
            .map(|_| out)
    });

    assert_eq!(read.await.expect("no panic").expect("read"), content);
    let requests = server.memory.take_requests();
    assert!(requests.total() <= 8, "{requests:?}");
    assert!(requests.bytes_read < 2 << 20, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_was_rewound_is_noticed_before_anything_is_written() {
    let server = Server::new().await;
    let tree = files(1, 3, 5000);
    server.back_up("tree", &tree);
    let old = Arc::new(server.memory.copy());
    server.sync(server.memory.clone()).await.expect("synced");
    server.back_up("tree", &joined(&[&tree, &files(2, 1, 5000)]));

    let error = server.sync(old.clone()).await.expect_err("refused");

    assert!(matches!(error, Error::Rewound { .. }), "{error}");
    assert_eq!(old.take_requests().put, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_a_vault_and_a_chunk_damaged_there_costs_only_its_file() {
    let server = Server::new().await;
    let folder = server.path("vault");
    let store = Arc::new(DirectoryStore::create(&folder).expect("a store"));
    for name in server.memory.names() {
        let body = server.memory.peek(&name).expect("there");
        store.put_new(&name.parse().expect("a name"), body).await.expect("put");
    }
    let mut tree = mixed(12);
    // Several frames, so that there is something apart from the damaged one.
    let apart = (0..60_000u64).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes());
    tree.insert("apart".to_string(), apart.collect());
    let id = server.back_up("tree", &tree);
    server.sync(store.clone()).await.expect("synced");
    assert_eq!(server.restored_from(store.clone(), id).await, tree);
    let realm = server.realm(store).await.expect("opened");
    let snapshot = realm.load(None).await.expect("loaded");
    let mut objects = snapshot.objects().values();
    let pack = objects.find(|object| object.record.kind == ObjectKind::Data).expect("a data pack");
    let path = folder.join(pack.record.name(realm.id()).as_str());
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("written");

    let point = VaultPoint::open(&realm, &snapshot, id, Handle::current()).await.expect("opened");
    let target = server.path("out");
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
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let (kept, gone) = (files(1, 4, 9000), files(2, 4, 9000));
    let first = server.back_up("tree", &gone);
    server.sync(memory()).await.expect("synced");
    let last_month = server.memories();
    let second = server.back_up("tree", &kept);
    server.sync(memory()).await.expect("synced");
    server.forget(memory(), &[first]).await.expect("forgotten");
    prune_for_good(&server).await;
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

async fn prune_for_good(server: &Server) {
    for _ in 0..3 {
        server.pass(UNDELETE_PERIOD * 2);
        let options = PruneOptions { max_unused_percent: 0.0, ..PruneOptions::default() };
        server.prune(server.memory.clone(), true, options).await.expect("pruned");
    }
}

/// What somebody did not want in the vault was sent there again as soon as it had gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_forgotten_by_name_is_not_copied_again_unless_it_is_taken_back() {
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let dismissed = async |point| {
        let points = BTreeSet::from([point]);
        let outcome = server.write(memory(), async |writing| {
            let mut snapshot = writing.begin().await?;
            dismiss(writing, &mut snapshot, &points).await
        });
        outcome.await
    };
    let (first, second) = (files(1, 2, 9000), files(2, 2, 9000));
    let unwanted = server.back_up("tree", &first);
    let back = server.back_up("tree", &second);
    let last = server.back_up("tree", &files(3, 2, 9000));
    server.sync(memory()).await.expect("synced");

    dismissed(unwanted).await.expect("forgotten");
    dismissed(back).await.expect("forgotten");
    server.undelete(memory(), &[back]).await.expect("taken back");
    assert_eq!(server.sync(memory()).await.expect("synced").copied, []);
    prune_for_good(&server).await;

    let state = server.state().await;
    assert!(!state.forgotten().contains_key(&unwanted), "it is gone for good");
    assert_eq!(server.sync(memory()).await.expect("synced").copied, []);
    // One that was taken back is wanted like any other, and a policy that forgot it may change.
    server.forget(memory(), &[back]).await.expect("forgotten by a policy");
    prune_for_good(&server).await;
    assert_eq!(server.sync(memory()).await.expect("synced").copied, [back]);
    assert_eq!(server.restored(back).await, second);
    // Refused is refused: nothing is remembered of it.
    dismissed(back).await.expect("forgotten");
    let refused = dismissed(last).await.expect_err("the last one stays");
    assert!(matches!(refused, Error::LastPoint { .. }), "{refused}");
    // Nor does a lost ledger keep anything from being copied.
    server.lose_ledger();
    server.undelete(memory(), &[back]).await.expect("taken back");
    let copied = server.sync(memory()).await.expect("synced").copied;
    assert_eq!(copied, [unwanted]);
    assert_eq!(server.restored(unwanted).await, first);
}

/// A store that keeps a part of what it was given, and a sync that ends before it can commit: the names stayed taken for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_object_left_by_a_break_is_not_in_the_way_of_the_next_sync() {
    let server = Server::new().await;
    let tree = files(1, 5, 9000);
    let point = server.back_up("tree", &tree);
    let start = server.memory.copy();
    let memories = server.memories();
    let rehearsal = Arc::new(FaultyStore::new(server.memory.clone(), []));
    server.sync(rehearsal.clone()).await.expect("synced");
    let commit = rehearsal.calls() - CALLS_OF_A_COMMIT;
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
                server.lose_ledger();
            }

            let report = server.sync(server.memory.clone()).await;

            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.copied, [point], "{what}");
            assert_eq!(server.restored(point).await, tree, "{what}");
            assert_eq!(server.memory.take_requests().delete, 0, "{what}");
        }
    }
}
