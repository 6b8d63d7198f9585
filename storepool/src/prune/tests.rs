//! What prune promises, on small real pools.

use std::collections::BTreeSet;

use super::*;
use crate::check::{CheckOptions, check};
use crate::monitor::SilentMonitor;
use crate::testing::fixture::{
    Files, HandBackup, create_pool, files, make_point, noise, open_pool, pack_files, read_point,
    test_world,
};

const ALL: PruneOptions =
    PruneOptions { dry_run: false, max_unused_percent: 0.0, repack_all: true };

fn sound(pool: &Arc<Pool>) {
    let report = check(pool, &CheckOptions { read_data: Some(100.0) }, &SilentMonitor).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn what_the_remaining_points_need_stays_and_the_rest_goes() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let common = files("common", 20, 1500);
    let mut first = files("first", 20, 1500);
    first.extend(common.clone());
    let mut second = files("second", 20, 1500);
    second.extend(common);
    let forgotten = make_point(&pool, &first).unwrap();
    let kept = make_point(&pool, &second).unwrap();
    let before: u64 = pool.index().packs().unwrap().iter().map(|row| row.length).sum();

    pool.forget(&[forgotten]).unwrap();
    let plan = prune(&pool, &PruneOptions { dry_run: true, ..ALL }, &SilentMonitor).unwrap();
    let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!(read_point(&pool, kept).unwrap(), second);
    let after: u64 = pool.index().packs().unwrap().iter().map(|row| row.length).sum();
    assert_eq!(before as i64 - after as i64, report.bytes_freed, "{report:?}");
    assert!(report.bytes_freed > 20 * 1500, "{report:?}");
    assert_eq!(report.chunks_removed, 20 + 3, "20 files, two trees and a manifest");
    assert_eq!(plan.chunks_removed, report.chunks_removed);
    assert_eq!(report.packs_waiting, 0);
    assert_eq!(pack_files(&paths).len(), pool.index().packs().unwrap().len());
    sound(&pool);
    let again = prune(&pool, &ALL, &SilentMonitor).unwrap();
    assert_eq!((again.packs_deleted, again.packs_repacked, again.bytes_freed), (0, 0, 0));
}

#[test]
fn a_dry_run_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let point = make_point(&pool, &files("a", 30, 1500)).unwrap();
    pool.forget(&[point]).unwrap();
    let before = (pack_files(&paths), pool.index().packs().unwrap());

    let report = prune(&pool, &PruneOptions { dry_run: true, ..ALL }, &SilentMonitor).unwrap();

    assert!(report.dry_run && report.packs_deleted > 0, "{report:?}");
    assert_eq!((pack_files(&paths), pool.index().packs().unwrap()), before);
}

#[test]
fn a_pack_waits_for_the_session_that_began_before_it_was_condemned() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 30, 1500);
    let point = make_point(&pool, &content).unwrap();
    let reading = pool.begin_session().unwrap();
    pool.forget(&[point]).unwrap();

    let first = prune(&pool, &ALL, &SilentMonitor).unwrap();
    let later = pool.begin_session().unwrap();
    drop(reading);
    let second = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!((first.packs_deleted, first.bytes_freed), (0, 0));
    assert!(first.packs_waiting > 0);
    assert_eq!(second.packs_deleted, first.packs_waiting, "a later session needs none of it");
    drop(later);
}

#[test]
fn a_backup_that_met_a_chunk_before_it_was_condemned_keeps_it() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 30, 1500);
    let point = make_point(&pool, &content).unwrap();
    let session = pool.begin_session().unwrap();
    let mut backup = HandBackup::begin(&session).unwrap();
    pool.forget(&[point]).unwrap();
    let root = backup.store(&content).unwrap();

    let during = prune(&pool, &ALL, &SilentMonitor).unwrap();
    let new = backup.commit(&root).unwrap();
    drop(session);
    let after = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(during.packs_waiting > 0 && during.packs_deleted == 0, "{during:?}");
    assert_eq!(after.packs_waiting, 0);
    assert_eq!(read_point(&pool, new).unwrap(), content);
    sound(&pool);
}

#[test]
fn a_point_whose_backup_died_before_the_catalog_keeps_what_it_relied_on() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 30, 1500);
    let point = make_point(&pool, &content).unwrap();
    pool.forget(&[point]).unwrap();
    let session = pool.begin_session().unwrap();
    let mut backup = HandBackup::begin(&session).unwrap();
    let root = backup.store(&content).unwrap();
    let during = prune(&pool, &ALL, &SilentMonitor).unwrap();

    let (new, _) = backup.write_point(&root).unwrap();
    drop(backup);
    drop(session);
    let after = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(during.packs_waiting > 0);
    assert_eq!(after.packs_waiting, 0);
    drop(pool);
    let pool = open_pool(&paths, test_world()).unwrap();
    assert_eq!(read_point(&pool, new).unwrap(), content);
    sound(&pool);
}

#[test]
fn packs_of_a_backup_that_has_not_committed_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 30, 1500);
    let session = pool.begin_session().unwrap();
    let mut backup = HandBackup::begin(&session).unwrap();
    let root = backup.store(&content).unwrap();
    backup.flush().unwrap();

    let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!((report.packs_deleted, report.packs_waiting), (0, 0));
    assert!(pool.index().packs().unwrap().iter().all(|row| row.condemned_after.is_none()));
    let point = backup.commit(&root).unwrap();
    assert_eq!(read_point(&pool, point).unwrap(), content);
}

#[test]
fn the_base_of_a_live_session_stays_although_it_was_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 30, 1500);
    let base = make_point(&pool, &content).unwrap();
    let session = pool.begin_session().unwrap();
    assert!(session.rely_on(base).unwrap());
    let root = pool.manifest(base).unwrap().root_entry.node;
    pool.forget(&[base]).unwrap();
    let before = pack_files(&paths);

    let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!((report.packs_deleted, report.packs_waiting), (0, 0), "{report:?}");
    assert_eq!(pack_files(&paths), before);
    let point = HandBackup::begin(&session).unwrap().commit(&root).unwrap();
    drop(session);
    prune(&pool, &ALL, &SilentMonitor).unwrap();
    assert_eq!(read_point(&pool, point).unwrap(), content);
}

#[test]
fn nothing_is_deleted_while_a_tree_cannot_be_read() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let forgotten = make_point(&pool, &files("a", 30, 1500)).unwrap();
    make_point(&pool, &files("b", 30, 1500)).unwrap();
    pool.forget(&[forgotten]).unwrap();
    let rows = pool.index().packs().unwrap();
    let trees = rows.iter().rfind(|row| row.kind == crate::pack::PackKind::Metadata).unwrap();
    let path = pool.pack_file(trees).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = pack_files(&paths);

    let error = prune(&pool, &ALL, &SilentMonitor).unwrap_err();

    assert!(error.is_damage(), "{error}");
    assert_eq!(pack_files(&paths), before);
    assert!(pool.index().packs().unwrap().iter().all(|row| row.condemned_after.is_none()));
}

#[test]
fn a_second_prune_is_told_who_is_busy() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let _held = pool.locks().take(PRUNE_LOCK, LockMode::Exclusive).unwrap();

    let error = prune(&pool, &ALL, &SilentMonitor).unwrap_err();

    assert!(matches!(error, Error::Busy { holder } if holder == "a test"));
}

#[test]
fn a_pool_that_is_not_whole_is_not_pruned() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 2, test_world());
    make_point(&pool, &files("a", 30, 1500)).unwrap();
    drop(pool);
    std::fs::rename(&paths[1], home.path().join("away")).unwrap();
    let pool = open_pool(&paths, test_world()).unwrap();

    let error = prune(&pool, &ALL, &SilentMonitor).unwrap_err();

    assert!(matches!(error, Error::DirectoryMissing { path } if path == paths[1]));
}

#[test]
fn many_backups_leave_few_packs_after_prune() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let mut content = Files::new();
    let mut points = BTreeSet::new();
    for run in 0..40 {
        content.extend(files(&format!("run{run}"), 1, 100));
        points.insert(make_point(&pool, &content).unwrap());
    }
    let before = pack_files(&paths).len();

    let report = prune(&pool, &PruneOptions::default(), &SilentMonitor).unwrap();

    assert!(before >= 80 && pack_files(&paths).len() < 16, "{before} packs before");
    assert_eq!(report.chunks_removed, 0);
    let newest = pool.points().unwrap().iter().max_by_key(|point| point.started).unwrap().id;
    assert_eq!(read_point(&pool, newest).unwrap(), content);
    sound(&pool);
}

#[test]
fn a_large_frame_that_is_needed_whole_is_copied_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let options =
        crate::pool::PoolOptions { pack_length: 4 << 20, ..crate::testing::fixture::small_packs() };
    let pool = Pool::create(&[home.path().join("pool")], options, test_world());
    let pool = Arc::new(pool.unwrap());
    let large = Files::from([("large".to_string(), noise("large", 700_000))]);
    let mut both = files("small", 3, 1500);
    both.extend(large.clone());
    let forgotten = make_point(&pool, &both).unwrap();
    let kept = make_point(&pool, &large).unwrap();
    pool.forget(&[forgotten]).unwrap();

    let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(report.packs_repacked > 0 && report.bytes_copied > 700_000, "{report:?}");
    assert_eq!(report.chunks_removed, 3 + 3);
    assert_eq!(read_point(&pool, kept).unwrap(), large);
    sound(&pool);
}

#[test]
fn a_damaged_chunk_keeps_its_pack_and_the_rest_is_pruned() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let mut first = files("a", 3, 1500);
    first.extend(files("b", 3, 1500));
    let forgotten = make_point(&pool, &first).unwrap();
    let kept = make_point(&pool, &files("b", 3, 1500)).unwrap();
    pool.forget(&[forgotten]).unwrap();
    let rows = pool.index().packs().unwrap();
    let data: Vec<_> = rows.iter().filter(|row| row.kind == crate::pack::PackKind::Data).collect();
    for row in &data {
        let path = pool.pack_file(row).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        // The last byte of the last frame: content of the last file, which the kept point needs.
        let toc = pool.open_pack(row).unwrap().toc().clone();
        bytes[crate::pack::HEADER_LENGTH + toc.stored_length() as usize - 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!(report.packs_repacked, 1, "the metadata: {report:?}");
    let left = pool.index().packs().unwrap();
    assert!(data.iter().any(|row| left.contains(row)), "what cannot be copied stays");
    assert!(read_point(&pool, kept).is_err(), "the damage is not covered up");
    let pool_report = check(&pool, &CheckOptions { read_data: Some(100.0) }, &SilentMonitor);
    assert_eq!(pool_report.unwrap().affected_points.len(), 1);
}

// Once, what the index did not list looked as if nobody needed it.
#[test]
fn nothing_is_deleted_by_an_index_that_does_not_list_everything() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 5, 1500);
    let point = make_point(&pool, &content).unwrap();
    drop(pool);
    let index = rusqlite::Connection::open(paths[0].join("pool.db")).unwrap();
    let data = "SELECT no FROM pack WHERE kind = 1";
    index.execute(&format!("DELETE FROM chunk WHERE place / 1048576 IN ({data})"), []).unwrap();
    drop(index);
    let before = pack_files(&paths);
    let pool = open_pool(&paths, test_world()).unwrap();

    prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!(pack_files(&paths), before);
    drop(pool);
    let pool = open_pool(&paths, test_world()).unwrap();
    prune(&pool, &ALL, &SilentMonitor).unwrap();
    assert_eq!(read_point(&pool, point).unwrap(), content);
}

#[test]
fn of_two_copies_the_one_that_can_be_read_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 1, 1500);
    let point = make_point(&pool, &content).unwrap();
    let session = pool.begin_session().unwrap();
    let writer = crate::writer::PoolWriter::new(&session, crate::writer::SpacePolicy::UseReserve);
    let writer = writer.unwrap();
    let mut chunks = writer.chunk_writer().unwrap();
    let kind = crate::id::ChunkKind::Data;
    let bytes = &content["a/0"];
    chunks.put_again(crate::id::ChunkId::of(kind, bytes), kind, bytes).unwrap();
    chunks.finish().unwrap();
    writer.flush().unwrap();
    drop(writer);
    drop(session);
    let first = pool.index().packs().unwrap().remove(0);
    assert_eq!(first.kind, crate::pack::PackKind::Data);
    let path = pool.pack_file(&first).unwrap();
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&path, damaged).unwrap();

    prune(&pool, &ALL, &SilentMonitor).unwrap();

    assert_eq!(read_point(&pool, point).unwrap(), content);
}

#[test]
fn backups_and_prunes_at_the_same_time_lose_nothing() {
    const ROUNDS: usize = 60;
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 2, test_world());
    drop(pool);
    let content = |round: usize, writer: usize| {
        // The same files come and go, so that chunks are found again just when they become garbage.
        let mut content = files(&format!("shared{}", round % 3), 4, 900);
        content.extend(files(&format!("own{writer}-{}", round % 5), 2, 900));
        content
    };
    let paths = &paths;
    std::thread::scope(|scope| {
        for writer in 0..2 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // As another process would, each time.
                    let pool = open_pool(paths, test_world()).unwrap();
                    let expected = content(round, writer);
                    let point = make_point(&pool, &expected).unwrap();
                    assert_eq!(read_point(&pool, point).unwrap(), expected, "round {round}");
                    if round % 4 != 0 {
                        pool.forget(&[point]).unwrap();
                    }
                }
            });
        }
        scope.spawn(move || {
            let pool = open_pool(paths, test_world()).unwrap();
            for _ in 0..2 * ROUNDS {
                prune(&pool, &ALL, &SilentMonitor).unwrap();
            }
        });
    });
    let pool = open_pool(paths, test_world()).unwrap();
    prune(&pool, &ALL, &SilentMonitor).unwrap();
    assert_eq!(pool.points().unwrap().len(), 2 * ROUNDS.div_ceil(4));
    for point in pool.points().unwrap() {
        read_point(&pool, point.id).unwrap();
    }
    sound(&pool);
}
