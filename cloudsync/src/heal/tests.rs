//! What is lost or rots on one side comes back from the other; what comes back nowhere is told.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::pool::{Pool, PoolOptions, World};
use storepool::repair::{RepairOptions, repair_from};
use storepool::space::Reserve;
use tokio::runtime::Handle;

use super::{Fate, HealReport, VaultHealer, heal};
use crate::check::{CheckOptions, CheckReport, check};
use crate::error::{Result, StoreFault};
use crate::ledger::Ledger;
use crate::store::ObjectStore;
use crate::testing::server::{DAY, Files, Server, files, joined};
use crate::testing::{Fault, FaultyStore, MemoryStore};

mod history;

const EVERYTHING: CheckOptions = CheckOptions { read_data: Some(100.0) };
const STRUCTURE: CheckOptions = CheckOptions { read_data: None };

/// What happens to an object behind everybody's back.
type Harm = fn(&MemoryStore, &str);

const HARMS: [(&str, Harm); 3] = [
    ("lost", |memory, name| assert!(memory.lose(name))),
    ("rotten", |memory, name| {
        let mut bytes = memory.peek(name).expect("there").to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        memory.tamper(name, bytes);
    }),
    ("cut", |memory, name| {
        let bytes = memory.peek(name).expect("there");
        memory.tamper(name, bytes.slice(..bytes.len() - 9));
    }),
];

async fn checked(server: &Server, options: &CheckOptions) -> CheckReport {
    let realm = server.realm(server.memory.clone()).await.expect("opened");
    let known = Ledger::open(&server.path("ledger"), realm.id()).expect("a ledger");
    let known = known.snapshot(realm.keys()).expect("read");
    let now = server.around().clock.now();
    let monitor = Arc::new(SilentMonitor);
    check(&realm, known, options, now, monitor).await.expect("checked").0
}

async fn healed(
    server: &Server,
    store: Arc<dyn ObjectStore>,
    pool: &Arc<Pool>,
) -> Result<HealReport> {
    let session = Arc::new(pool.begin_session()?);
    let monitor = Arc::new(SilentMonitor);
    let report = server
        .write(store, async |writing| heal(writing, session, &EVERYTHING, monitor).await)
        .await?;
    Ok(report.1)
}

fn content_objects(memory: &MemoryStore) -> Vec<String> {
    let folders = ["/p/", "/t/", "/i/", "/m/"];
    let mut names = memory.names();
    names.retain(|name| folders.iter().any(|folder| name.contains(folder)));
    names
}

// Two points in two commits.
async fn server_with_points() -> (Server, Vec<(PointId, Files)>) {
    let server = Server::new().await;
    let (a, b) = (files(1, 5, 9000), files(2, 3, 9000));
    let mut points = Vec::new();
    for tree in [a.clone(), joined(&[&a, &b])] {
        points.push((server.back_up("tree", &tree), tree));
        server.sync(server.memory.clone()).await.expect("synced");
    }
    (server, points)
}

fn empty_pool(server: &Server, name: &str) -> Arc<Pool> {
    let options = PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
    Arc::new(Pool::create(&[server.path(name)], options, World::system()).expect("a pool"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_that_is_lost_or_rots_is_found_and_replaced_from_the_pool() {
    let (server, points) = server_with_points().await;
    let start = server.memory.copy();
    let memories = server.memories();
    let names = content_objects(&server.memory);
    assert!(names.len() >= 7, "{names:?}");
    for name in &names {
        for (word, harm) in HARMS {
            let what = format!("{name} {word}");
            server.memory.become_like(&start);
            server.remember(&memories);
            harm(&server.memory, name);

            let found = checked(&server, &EVERYTHING).await;
            assert_eq!(found.damage_count, 1, "{what}: {found:?}");
            assert_eq!(found.damages[0].object, *name, "{what}");
            // What an index says stands in the packs as well.
            assert_eq!(found.affected_points.is_empty(), name.contains("/i/"), "{what}");
            server.memory.take_requests();
            let report = healed(&server, server.memory.clone(), &server.pool).await;

            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(report.is_whole() && report.objects.len() == 1, "{what}: {report:?}");
            assert_eq!(server.memory.take_requests().delete, 0);
            let after = checked(&server, &EVERYTHING).await;
            assert!(after.is_sound(), "{what}: {after:?}");
            assert_eq!((after.packs_read, after.points_walked), (after.packs, 2), "{what}");
            for (point, files) in &points {
                assert_eq!(server.restored(*point).await, *files, "{what}");
            }
            assert_eq!(server.sync(server.memory.clone()).await.expect("synced").copied, []);
        }
    }
}

/// Found by simulation: only points that were not forgotten were named, though the others can be had back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_points_that_need_what_is_damaged_are_named_too() {
    let (server, points) = server_with_points().await;
    server.forget(server.memory.clone(), &[points[0].0]).await.expect("forgotten");
    for pack in content_objects(&server.memory).iter().filter(|name| name.contains("/p/")) {
        HARMS[1].1(&server.memory, pack);
    }

    let found = checked(&server, &EVERYTHING).await;

    let mut all: Vec<_> = points.iter().map(|(point, _)| *point).collect();
    all.sort_unstable();
    assert_eq!(found.affected_points, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_without_data_says_that_it_read_none_and_shares_see_everything_in_time() {
    let (server, _) = server_with_points().await;
    // Enough packs that no share of a day holds them all, whatever their names are.
    server.back_up("more", &files(9, 8, 1_100_000));
    server.sync(server.memory.clone()).await.expect("synced");
    let packs: Vec<_> =
        content_objects(&server.memory).into_iter().filter(|name| name.contains("/p/")).collect();
    for pack in &packs {
        HARMS[1].1(&server.memory, pack);
    }

    let structure = checked(&server, &STRUCTURE).await;
    assert!(structure.is_sound() && structure.packs_read == 0 && structure.packs > 0);

    let mut found = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let share = checked(&server, &CheckOptions { read_data: Some(25.0) }).await;
        assert!(share.packs_read < share.packs);
        found.extend(share.damages.into_iter().map(|damage| damage.object));
        server.pass(DAY);
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), packs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_pool_what_is_left_of_a_pack_is_kept_and_the_rest_is_told() {
    let server = Server::new().await;
    // Small files: several chunks of the pack are in frames that stay sound.
    let tree = files(1, 40, 9000);
    let point = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let names = content_objects(&server.memory);
    let pack = names.iter().find(|name| name.contains("/p/")).expect("a pack");
    HARMS[1].1(&server.memory, pack);
    let elsewhere = empty_pool(&server, "another pool");

    let report = healed(&server, server.memory.clone(), &elsewhere).await.expect("healed");

    assert!(!report.is_whole(), "{report:?}");
    assert_eq!(report.affected_points, [point]);
    let [object] = report.objects.as_slice() else { panic!("{report:?}") };
    assert!(matches!(object.fate, Fate::Partly | Fate::Left), "{object:?}");
    assert!(object.chunks_lost >= 1);
    // The damaged pack was not thrown away, and the pool mends it later.
    assert!(server.memory.names().contains(pack));
    let report = healed(&server, server.memory.clone(), &server.pool).await.expect("healed");
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(server.restored(point).await, tree);
}

/// Found by simulation: what a lost pack had held counted as copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_later_sync_relies_on_a_pack_that_nobody_could_replace() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Memory {
        Kept,
        Lost,
        OfBefore,
    }
    let server = Server::new().await;
    let tree = files(1, 5, 9000);
    let first = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let (start, before) = (server.memory.copy(), server.memories());
    let packs: Vec<String> = content_objects(&server.memory)
        .into_iter()
        .filter(|name| name.contains("/p/") || name.contains("/t/"))
        .collect();
    assert!(packs.len() >= 2, "{packs:?}");
    let elsewhere = empty_pool(&server, "another pool");
    for (word, harm) in HARMS {
        for memory in [Memory::Kept, Memory::Lost, Memory::OfBefore] {
            // Without the ledger only a new check finds bytes that are wrong.
            if word == "rotten" && memory != Memory::Kept {
                continue;
            }
            // The same content makes the same packs, other content others.
            for more in [0, 3] {
                let what = format!("{word}, ledger {memory:?}, {more} more files");
                server.memory.become_like(&start);
                server.remember(&before);
                packs.iter().for_each(|pack| harm(&server.memory, pack));
                let report = healed(&server, server.memory.clone(), &elsewhere).await;
                assert!(!report.expect(&what).is_whole(), "{what}");
                match memory {
                    Memory::Kept => {}
                    Memory::Lost => server.lose_ledger(),
                    Memory::OfBefore => {
                        let anchor = fs::read(server.path("anchor")).expect("an anchor");
                        server.remember(&before);
                        fs::write(server.path("anchor"), anchor).expect("written");
                    }
                }
                let again = joined(&[&tree, &files(2, more, 9000)]);
                let second = server.back_up("tree", &again);

                let copied = server.sync(server.memory.clone()).await.expect(&what).copied;

                assert_eq!(copied, [second], "{what}");
                assert_eq!(server.restored(second).await, again, "{what}");
                let found = checked(&server, &EVERYTHING).await;
                assert!(!found.affected_points.contains(&second), "{what}: {found:?}");
                // And the first is healed as soon as its content is back.
                let report = healed(&server, server.memory.clone(), &server.pool).await;
                let report = report.expect(&what);
                assert!(report.is_whole(), "{what}: {report:?}");
                assert_eq!(server.restored(first).await, tree, "{what}");
                assert!(checked(&server, &EVERYTHING).await.is_sound(), "{what}");
                server.pool.forget(&[second]).expect("forgotten");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_sound_after_all_is_trusted_again() {
    let server = Server::new().await;
    let tree = files(1, 5, 9000);
    server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let start = server.memory.copy();
    let names = content_objects(&server.memory);
    let pack = names.iter().find(|name| name.contains("/p/")).expect("a pack");
    HARMS[0].1(&server.memory, pack);
    let elsewhere = empty_pool(&server, "another pool");
    // Nothing can be replaced, so no commit is made.
    let report = healed(&server, server.memory.clone(), &elsewhere).await.expect("healed");
    assert!(!report.is_whole());
    server.memory.become_like(&start);

    let report = healed(&server, server.memory.clone(), &elsewhere).await.expect("healed");

    assert!(report.is_whole() && report.objects.is_empty(), "{report:?}");
    server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    // A new manifest, and no data.
    let packs = |memory| content_objects(memory).iter().filter(|it| it.contains("/p/")).count();
    assert_eq!(packs(&server.memory), packs(&start));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healing_that_fails_at_any_call_is_simply_run_again() {
    let (server, points) = server_with_points().await;
    let names = content_objects(&server.memory);
    for kind in ["/p/", "/m/", "/i/"] {
        let name = names.iter().find(|name| name.contains(kind)).expect("an object");
        HARMS[1].1(&server.memory, name);
    }
    let start = server.memory.copy();
    let memories = server.memories();
    for fault in [Fault::Refuse(StoreFault::Timeout), Fault::LoseReply, Fault::LandLate] {
        let mut call = 0;
        loop {
            let what = format!("{fault:?} at {call}");
            server.memory.become_like(&start);
            server.remember(&memories);
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));

            let first = healed(&server, faulty.clone(), &server.pool).await;
            let ended = faulty.calls() <= call;
            assert!(!ended || first.as_ref().is_ok_and(HealReport::is_whole), "{what}: {first:?}");
            let again = healed(&server, server.memory.clone(), &server.pool).await;

            let again = again.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(again.is_whole(), "{what}: {again:?}");
            assert!(checked(&server, &EVERYTHING).await.is_sound(), "{what}");
            for (point, files) in &points {
                assert_eq!(server.restored(*point).await, *files, "{what}");
            }
            if ended {
                break;
            }
            // The lists of 64 folders are alike.
            call += if !(8..=75).contains(&call) { 1 } else { 9 };
        }
        assert!(call > 80, "{fault:?}: only {call} calls");
    }
}

/// A store that keeps less than it says, or nothing: what a sync calls copied is healed as soon as somebody looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lying_store_did_not_keep_is_found_and_put_again() {
    let server = Server::new().await;
    let tree = files(1, 5, 9000);
    let point = server.back_up("tree", &tree);
    let start = server.memory.copy();
    let memories = server.memories();
    for fault in [Fault::CutBody(7), Fault::Pretend] {
        let mut call = 0;
        loop {
            let what = format!("{fault:?} at {call}");
            server.memory.become_like(&start);
            server.remember(&memories);
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));
            let first = server.sync(faulty.clone()).await;
            let ended = faulty.calls() <= call;
            assert!(!ended || first.is_ok(), "{what}: {first:?}");

            let report = healed(&server, server.memory.clone(), &server.pool).await;

            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(report.is_whole(), "{what}: {report:?}");
            server.sync(server.memory.clone()).await.expect(&what);
            assert_eq!(server.restored(point).await, tree, "{what}");
            if ended {
                break;
            }
            call += 1;
        }
        assert!(call > 8, "{fault:?}: only {call} calls");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

fn packs_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let groups = fs::read_dir(folder.join("packs")).expect("packs");
    let groups = groups.map(|group| group.expect("a group").path());
    let packs = groups.flat_map(|group| fs::read_dir(group).expect("a group"));
    packs.map(|pack| pack.expect("a pack").path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_lost_its_packs_gets_every_chunk_back_from_the_vault() {
    let (server, points) = server_with_points().await;
    let options = || PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
    type Harm = (&'static str, fn(&Path));
    let harms: [Harm; 2] = [
        ("lost", |pack| fs::remove_file(pack).expect("removed")),
        ("rotten", |pack| {
            let mut bytes = fs::read(pack).expect("read");
            for index in (100..bytes.len()).step_by(1000) {
                bytes[index] ^= 0x10;
            }
            fs::write(pack, bytes).expect("written");
        }),
    ];
    for (word, harm) in harms {
        let copy = server.path(&format!("copy of the pool, {word}"));
        copy_tree(&server.path("pool"), &copy);
        packs_below(&copy).iter().for_each(|pack| harm(pack));
        for (point, _) in &points {
            fs::remove_file(copy.join(format!("points/{point}.point"))).expect("removed");
            // Half of them by name only: their content comes from the vault as well.
            fs::write(copy.join(format!("points/{point}.point")), b"rotten").expect("written");
        }
        let realm = server.realm(server.memory.clone()).await.expect("opened");
        let healer = VaultHealer::new(realm, server.state().await, Handle::current());
        let paths = [copy];

        let (paths, report) = tokio::task::spawn_blocking(move || {
            let (repair, world) = (RepairOptions::default(), World::system());
            let report = repair_from(&paths, options(), world, &repair, &healer, &SilentMonitor);
            assert_eq!(healer.trouble(), None);
            (paths, report.expect("repaired"))
        })
        .await
        .expect("no panic");

        assert!(report.is_whole(), "{word}: {report:?}");
        assert!(report.chunks_healed > 5, "{word}: {report:?}");
        let pool = Pool::open(&paths, options(), World::system()).expect("opened");
        assert_eq!(pool.points().expect("listed").len(), 2, "{word}");
        let again = storepool::check::check(
            &Arc::new(pool),
            &storepool::check::CheckOptions { read_data: Some(100.0) },
            &SilentMonitor,
        );
        assert!(again.expect("checked").is_sound(), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_cannot_be_reached_does_not_stop_a_repair() {
    let (server, _) = server_with_points().await;
    let copy = server.path("copy");
    copy_tree(&server.path("pool"), &copy);
    packs_below(&copy).iter().for_each(|pack| fs::remove_file(pack).expect("removed"));
    let state = server.state().await;
    let faults = (1..1000).map(|call| (call, Fault::Refuse(StoreFault::Unreachable)));
    let faulty = Arc::new(FaultyStore::new(server.memory.clone(), faults));
    let realm = server.realm(faulty).await.expect("opened");
    let healer = VaultHealer::new(realm, state, Handle::current());

    let (report, trouble) = tokio::task::spawn_blocking(move || {
        let options = PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
        let (repair, world) = (RepairOptions::default(), World::system());
        let report = repair_from(&[copy], options, world, &repair, &healer, &SilentMonitor);
        (report.expect("repaired"), healer.trouble())
    })
    .await
    .expect("no panic");

    assert!(!report.is_whole() && report.chunks_healed == 0);
    assert!(trouble.is_some_and(|trouble| trouble.contains("no connection")));
}
