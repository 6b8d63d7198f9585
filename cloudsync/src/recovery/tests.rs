//! Recovery over a store that fails, and what it costs.

use std::sync::Arc;

use storepool::clock::Timestamp;
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::restore::{RestoreOptions, restore};
use tokio::runtime::Handle;

use super::VaultPoint;
use crate::error::StoreFault;
use crate::layout::{ObjectHash, ObjectKind};
use crate::store::ObjectStore;
use crate::testing::server::{Files, Server, content, files, joined};
use crate::testing::{Fault, FaultyStore};
use crate::vault::Ordinals;
use crate::vault::chain::Draft;
use crate::vault::commit::{Changes, CommitKind, ObjectRecord, PointRecord};

// Everything of the newest point into a folder; what is there already is kept if it is right.
async fn recover(
    server: &Server,
    store: Arc<dyn ObjectStore>,
    point: PointId,
    target: &std::path::Path,
) -> Option<u64> {
    let realm = server.realm(store).await.ok()?;
    let snapshot = realm.load(None).await.ok()?;
    let point = VaultPoint::open(&realm, &snapshot, point, Handle::current()).await.ok()?;
    let target = target.to_path_buf();
    let work = move || {
        let options = RestoreOptions { threads: 1, in_place: true, ..RestoreOptions::default() };
        let root = EntryPath::root();
        restore(&point.chunks, &point.manifest, &root, &target, &options, &SilentMonitor)
    };
    let report = tokio::task::spawn_blocking(work).await.expect("no panic").ok()?;
    (report.problem_count == 0).then_some(report.unchanged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_nothing_wrong_is_recovered_and_the_next_run_completes_it() {
    let server = Server::new().await;
    let tree = joined(&[&files(1, 6, 9000), &files(2, 20, 700)]);
    let point = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let faults = [
        Fault::Refuse(StoreFault::Timeout),
        Fault::Refuse(StoreFault::NotFound),
        Fault::LoseReply,
        Fault::CutBody(9),
        Fault::StaleList(5),
    ];
    for fault in faults {
        let mut call = 0;
        loop {
            let what = format!("{fault:?} at {call}");
            let folder = tempfile::tempdir().expect("a folder");
            let target = folder.path().join("out");
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));

            let first = recover(&server, faulty.clone(), point, &target).await;

            let ended = faulty.calls() <= call;
            assert!(!ended || first.is_some(), "{what}");
            if first.is_some() {
                assert_eq!(content(&target), tree, "{what}");
            } else if target.exists() {
                // Whatever is there under its name is right.
                let there: Files = content(&target);
                let is_right = |(name, bytes): (&String, &Vec<u8>)| tree.get(name) == Some(bytes);
                assert!(there.iter().all(is_right), "{what}");
            }
            recover(&server, server.memory.clone(), point, &target).await.expect(&what);
            assert_eq!(content(&target), tree, "{what}");
            if ended {
                break;
            }
            call += 1;
        }
        assert!(call > 8, "{fault:?}: only {call} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recovered_before_a_break_is_not_fetched_again() {
    let server = Server::new().await;
    // A frame holds a megabyte, and is fetched as a whole.
    let tree = files(1, 8, 1 << 20);
    let point = server.back_up("tree", &tree);
    server.sync(server.memory.clone()).await.expect("synced");
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("out");
    server.memory.take_requests();
    recover(&server, server.memory.clone(), point, &target).await.expect("recovered");
    let whole = server.memory.take_requests();

    std::fs::remove_file(target.join(tree.keys().next().expect("a file"))).expect("removed");
    let unchanged = recover(&server, server.memory.clone(), point, &target).await;

    assert!(unchanged.is_some_and(|unchanged| unchanged >= 7), "{unchanged:?}");
    let again = server.memory.take_requests();
    assert!(again.bytes_read * 3 < whole.bytes_read, "{again:?} of {whole:?}");
    assert_eq!(content(&target), tree);
}

/// A blank machine asks for nothing but this to list them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_points_are_listed_from_some_hundred_kilobytes() {
    let server = Server::new().await;
    let record = |number: u64| {
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        let (kind, salt) = (ObjectKind::Manifest, [1; 32]);
        ObjectRecord { kind, hash: ObjectHash(hash), copy: 0, size: 2000, salt }
    };
    let point = |number: u64| PointRecord {
        id: PointId(record(number).hash.0),
        started: Timestamp(number as i64 * 1_000_000_000),
        finished: Timestamp(number as i64 * 1_000_000_000 + 5),
        host: "web1.example.org".into(),
        group: "web".into(),
        source: "/srv/www".into(),
        workload: "files".into(),
        files: 78_611,
        bytes: 1_300_000_000,
        bytes_stored: 5_000_000,
        problems: 0,
        keep_until: None,
        on_demand: false,
        tags: Vec::new(),
        manifest: number,
        // A point that was copied again and again needs a part of everything before.
        needs: (0..=number)
            .filter(|other| other % 7 == 0 || *other == number)
            .collect::<Ordinals>(),
    };
    server
        .write(server.memory.clone(), async |writing| {
            let mut state = writing.begin().await?;
            for number in 0..1000 {
                let changes = Changes {
                    objects_added: vec![record(number)],
                    points_added: vec![point(number)],
                    ..Changes::default()
                };
                let draft = Draft { kind: CommitKind::Sync, changes, witnesses: Vec::new() };
                state = writing.realm.append(&state, draft, writing.anchor, writing.around).await?;
                writing.realm.checkpoint_if_due(&mut state).await?;
            }
            Ok(())
        })
        .await
        .expect("committed");
    let realm = server.realm(server.memory.clone()).await.expect("opened");
    server.memory.take_requests();

    let state = realm.load(None).await.expect("loaded");

    assert_eq!(state.points().len(), 1000);
    let requests = server.memory.take_requests();
    assert!(requests.total() < 280, "{requests:?}");
    assert!(requests.bytes_read < 1 << 20, "{requests:?}");
}
