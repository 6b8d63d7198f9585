//! Commits that cannot be read any more: what is told of them, and how the history goes on.

use super::{EVERYTHING, HARMS, checked, healed, server_with_points};
use crate::error::{Error, StoreFault};
use crate::forget::UNDELETE_PERIOD;
use crate::layout::Generation;
use crate::prune::PruneOptions;
use crate::testing::server::{DAY, Files, Server, files};
use crate::testing::{Fault, FaultyStore, MemoryStore};
use std::fs;
use std::sync::Arc;
use storepool::id::PointId;

fn commits(memory: &MemoryStore) -> Vec<String> {
    let mut names = memory.names();
    // Folders of content are called by hexadecimal digits, too.
    names.retain(|name| name.split('/').nth(2) == Some("c"));
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_cannot_be_read_is_passed_over_by_readers_and_mended_by_the_owner() {
    let (server, points) = server_with_points().await;
    let start = server.memory.copy();
    let memories = server.memories();
    let commits = commits(&start);
    assert_eq!(commits.len(), 3);
    let (folder, _) = commits[0].rsplit_once('/').expect("it is in a folder");
    let next = format!("{folder}/{:016x}", 4);
    for (number, name) in commits.iter().chain([&next]).enumerate() {
        for ledger_is_lost in [false, true] {
            let what = format!("{name}, ledger lost: {ledger_is_lost}");
            server.memory.become_like(&start);
            server.remember(&memories);
            match number {
                3 => server.memory.tamper(name, b"half of a commit".as_slice()),
                _ => HARMS[1].1(&server.memory, name),
            }
            if ledger_is_lost {
                fs::remove_file(server.path("ledger")).expect("removed");
            }
            let realm = server.realm(server.memory.clone()).await.expect("opened");

            assert!(realm.load(None).await.expect_err("refused").is_damage(), "{what}");
            let sync = server.sync(server.memory.clone()).await;
            assert!(number < 2 || sync.is_err(), "{what}");
            // Whoever recovers sees everything before it.
            let readable = realm.load_readable().await.ok();
            let seen = readable.map(|(state, damage)| (state.points().len(), damage.is_some()));
            assert_eq!(seen, [None, Some((0, true)), Some((1, true)), Some((2, true))][number]);
            let report = healed(&server, server.memory.clone(), &server.pool).await;

            // Without a ledger only what can still be read is known.
            if ledger_is_lost && number < 3 {
                assert!(report.expect_err("unknown").is_damage(), "{what}");
                continue;
            }
            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(report.chain_mended && report.is_whole(), "{what}: {report:?}");
            let state = realm.load(None).await.expect("readable again");
            assert_eq!((state.generation(), state.points().len()), (Generation(4), 2), "{what}");
            for (point, files) in &points {
                assert_eq!(server.restored(*point).await, *files, "{what}");
            }
            server.back_up("tree", &files(7, 2, 3000));
            let sync = server.sync(server.memory.clone()).await.expect(&what);
            assert_eq!(sync.copied.len(), 1, "{what}");
            server.pool.forget(&sync.copied).expect("forgotten");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newest_commit_that_is_gone_stays_an_alarm() {
    let (server, _) = server_with_points().await;
    server.memory.lose(commits(&server.memory).last().expect("a commit"));
    server.memory.take_requests();

    let error = healed(&server, server.memory.clone(), &server.pool).await.expect_err("alarm");

    assert!(matches!(error, Error::Rewound { .. }), "{error}");
    assert_eq!(server.memory.take_requests().put, 0);
}

// Rots or loses the commit of this number, counted from 1; the newest one is never lost, because that looks like a vault that was rewound.
fn harm_commit(memory: &MemoryStore, number: usize) {
    let commits = commits(memory);
    match number < commits.len() && number.is_multiple_of(2) {
        true => HARMS[0].1(memory, &commits[number - 1]),
        false => HARMS[1].1(memory, &commits[number - 1]),
    }
}

async fn require_whole(server: &Server, points: &[(PointId, Files)], what: &str) {
    let report = checked(server, &EVERYTHING).await;
    assert!(report.is_sound() && report.affected_points.is_empty(), "{what}: {report:?}");
    assert_eq!(report.commits_needless, 1, "{what}");
    for (point, files) in points {
        assert_eq!(server.restored(*point).await, *files, "{what}");
    }
    let sync = server.sync(server.memory.clone()).await.expect(what);
    assert_eq!(sync.copied, [], "{what}");
}

/// Stopped between its commit and its checkpoint, a mending could never be run again: the ledger did not know the commit yet, and where the newest
/// commit was the rotten one it was taken for another history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mending_that_fails_at_any_call_is_simply_run_again() {
    let (server, points) = server_with_points().await;
    let start = server.memory.copy();
    let memories = server.memories();
    for number in 1..=3 {
        for fault in [Fault::Refuse(StoreFault::Timeout), Fault::LoseReply] {
            // Calls of a mending; the rest of a healing is cut elsewhere.
            for call in 0..16 {
                let what = format!("commit {number}, {fault:?} at {call}");
                server.memory.become_like(&start);
                server.remember(&memories);
                harm_commit(&server.memory, number);
                let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));
                let _ = healed(&server, faulty, &server.pool).await;

                let report = healed(&server, server.memory.clone(), &server.pool).await;

                let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(report.is_whole(), "{what}: {report:?}");
                require_whole(&server, &points, &what).await;
            }
        }
    }
}

/// They were not: a check told of the commit and called no point affected, though nobody but this machine could find them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_behind_a_commit_that_cannot_be_read_are_named() {
    let (server, points) = server_with_points().await;
    let start = server.memory.copy();
    let all: Vec<_> = points.iter().map(|(point, _)| *point).collect();
    for (number, hidden) in [(1, &all[..]), (2, &all[..]), (3, &all[1..])] {
        server.memory.become_like(&start);
        harm_commit(&server.memory, number);

        let report = checked(&server, &EVERYTHING).await;

        assert_eq!(report.damage_count, 1, "{number}: {report:?}");
        assert_eq!(report.damages[0].object, commits(&start)[number - 1]);
        let mut hidden = hidden.to_vec();
        hidden.sort_unstable();
        assert_eq!(report.affected_points, hidden, "{number}");
    }
}

/// Once the history goes on behind a lost commit, nothing is wrong any more; a check said so for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_that_a_checkpoint_made_needless_is_no_damage() {
    let (server, points) = server_with_points().await;
    harm_commit(&server.memory, 2);
    let report = healed(&server, server.memory.clone(), &server.pool).await.expect("healed");
    assert!(report.chain_mended && report.is_whole(), "{report:?}");

    require_whole(&server, &points, "healed").await;
}

/// A ledger that ended at the lost commit or before it took the vault for rewound or damaged until somebody repaired it once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_ledger_goes_on_behind_a_commit_that_was_lost() {
    let server = Server::new().await;
    let mut ledgers = Vec::new();
    for seed in 1..=3 {
        server.back_up("tree", &files(seed, 3, 9000));
        server.sync(server.memory.clone()).await.expect("synced");
        ledgers.push(server.memories().split_off(1));
    }
    let start = server.memory.copy();
    let memories = server.memories();
    // Commits 2 to 4 are the syncs.
    for number in 2..=4 {
        server.memory.become_like(&start);
        server.remember(&memories);
        harm_commit(&server.memory, number);
        healed(&server, server.memory.clone(), &server.pool).await.expect("healed");
        for (known, ledger) in (2..).zip(&ledgers) {
            server.remember(ledger);

            let sync = server.sync(server.memory.clone()).await;

            let sync = sync.unwrap_or_else(|error| panic!("{number}, known {known}: {error}"));
            assert_eq!(sync.copied, [], "{number}, known {known}");
        }
    }
}

/// The time of a forgotten point or a condemned object is that of a commit; a prune failed for ever once that commit could not be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_commit_decided_is_waited_for_from_the_next_one_on() {
    for rotten in [false, true] {
        let (server, points) = server_with_points().await;
        let memory = || server.memory.clone();
        server.forget(memory(), &[points[0].0]).await.expect("forgotten");
        let newest = commits(&server.memory).pop().expect("a commit");
        server.pass(DAY);
        server.back_up("tree", &files(3, 2, 3000));
        server.sync(memory()).await.expect("synced");
        HARMS[usize::from(rotten)].1(&server.memory, &newest);
        healed(&server, memory(), &server.pool).await.expect("healed");

        server.pass(UNDELETE_PERIOD - DAY / 2);
        let early = server.prune(memory(), true, PruneOptions::default()).await.expect("pruned");
        server.pass(DAY / 2);
        let due = server.prune(memory(), true, PruneOptions::default()).await.expect("pruned");

        assert_eq!((early.points_gone, due.points_gone), (vec![], vec![points[0].0]));
    }
}

/// What lies under the next name and cannot be read is half of a commit, or one of a copy of this machine that rotted; the copy went on from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_another_installation_went_on_from_is_not_passed_over() {
    for harm in [HARMS[0].1, HARMS[1].1] {
        let (server, _) = server_with_points().await;
        let before = server.memories();
        for seed in 3..5 {
            server.back_up("tree", &files(seed, 2, 3000));
            server.sync(server.memory.clone()).await.expect("synced");
        }
        let after = server.memories();
        harm(&server.memory, &commits(&server.memory)[3]);
        server.remember(&before);
        let objects = server.memory.names();

        let error = healed(&server, server.memory.clone(), &server.pool).await;

        let error = error.expect_err("refused");
        assert!(matches!(error, Error::Twin { generation: Generation(4) }), "{error}");
        assert_eq!(server.memory.names(), objects);
        server.remember(&after);
        let report = healed(&server, server.memory.clone(), &server.pool).await.expect("healed");
        assert!(report.chain_mended && report.is_whole(), "{report:?}");
    }
}
