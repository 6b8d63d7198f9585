//! Adding, emptying and losing directories.

use super::*;
use crate::check::{CheckOptions, check};
use crate::monitor::SilentMonitor;
use crate::testing::disk::{Crash, CrashingDisk};
use crate::testing::fixture::{
    copy_tree, create_pool, files, make_point, open_pool, read_point, small_packs, test_world,
    world_on,
};
use std::sync::Arc;

fn sound(paths: &[PathBuf]) -> Arc<Pool> {
    let pool = open_pool(paths, test_world()).unwrap();
    let report = check(&pool, &CheckOptions { read_data: Some(100.0) }, &SilentMonitor).unwrap();
    assert!(report.is_sound(), "{report:?}");
    pool
}

#[test]
fn a_new_directory_takes_points_at_once_and_packs_from_then_on() {
    let home = tempfile::tempdir().unwrap();
    let (mut paths, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 5, 1500);
    let point = make_point(&pool, &content).unwrap();
    drop(pool);
    let new = home.path().join("new");

    add_directory(&paths, &new, small_packs(), test_world()).unwrap();
    paths.push(new.clone());

    assert!(new.join("points").join(format!("{point}.point")).exists());
    let pool = sound(&paths);
    assert_eq!(read_point(&pool, point).unwrap(), content);
    let report = directory_report(&pool).unwrap();
    assert_eq!(report.iter().map(|one| one.path.clone().unwrap()).collect::<Vec<_>>(), paths);
    assert!(report[0].packs > 0 && report[1].packs == 0 && report[1].free > 0);
    drop(pool);
    let again = add_directory(&paths, &new, small_packs(), test_world());
    assert!(matches!(again, Err(Error::PoolExists { .. })));
    let used = add_directory(&paths, home.path(), small_packs(), test_world());
    assert!(matches!(used, Err(Error::DirectoryNotEmpty { .. })));
}

#[test]
fn a_drained_directory_is_no_part_of_the_pool_any_more() {
    for leaving in [0, 1] {
        let home = tempfile::tempdir().unwrap();
        let (mut paths, pool) = create_pool(home.path(), 2, test_world());
        let mut points = Vec::new();
        for index in 0..6 {
            let content = files(&format!("p{index}"), 3, 1500);
            points.push((make_point(&pool, &content).unwrap(), content));
        }
        pool.forget(&[points.pop().unwrap().0]).unwrap();
        let before = directory_report(&pool).unwrap()[leaving].packs;
        drop(pool);
        let gone = paths.remove(leaving);
        let mut all = paths.clone();
        all.insert(leaving, gone.clone());

        let options = small_packs();
        let report = drain_directory(&all, &gone, options, test_world(), &SilentMonitor);

        let report = report.unwrap();
        assert!(report.packs_removed >= before, "{report:?}");
        assert!(crate::testing::fixture::pack_files(std::slice::from_ref(&gone)).is_empty());
        let pool = sound(&paths);
        assert!(pool.is_whole() && pool.directories().len() == 1);
        for (point, content) in &points {
            assert_eq!(&read_point(&pool, *point).unwrap(), content);
        }
        drop(pool);
        let again = drain_directory(&all, &gone, small_packs(), test_world(), &SilentMonitor);
        assert!(again.is_err());
    }
}

#[test]
fn the_last_directory_cannot_be_drained() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    make_point(&pool, &files("a", 1, 100)).unwrap();
    drop(pool);

    let error = drain_directory(&paths, &paths[0], small_packs(), test_world(), &SilentMonitor);

    assert!(matches!(error, Err(Error::NoSpace { .. })));
}

#[test]
fn a_lost_directory_is_given_up_and_what_remains_is_whole_again() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 2, test_world());
    for index in 0..6 {
        make_point(&pool, &files(&format!("p{index}"), 3, 1500)).unwrap();
    }
    drop(pool);
    std::fs::remove_dir_all(&paths[1]).unwrap();

    let lost = remove_lost_directories(&paths, small_packs(), test_world()).unwrap();

    assert_eq!(lost.len(), 1);
    let pool = open_pool(&paths[..1], test_world()).unwrap();
    assert!(pool.is_whole());
    assert!(pool.index().is_suspect().unwrap(), "points may have holes now");
    let report = check(&pool, &CheckOptions::default(), &SilentMonitor).unwrap();
    for point in pool.points().unwrap() {
        let affected = report.affected_points.iter().any(|affected| affected.point == point.id);
        assert_eq!(read_point(&pool, point.id).is_err(), affected);
    }
}

#[test]
fn a_crash_while_adding_or_draining_loses_nothing_and_the_command_completes_it() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(&home.path().join("pool"), 2, test_world());
    let mut points = Vec::new();
    for index in 0..4 {
        let content = files(&format!("p{index}"), 2, 1500);
        points.push((make_point(&pool, &content).unwrap(), content));
    }
    drop(pool);
    let original = home.path().join("original");
    copy_tree(&home.path().join("pool"), &original);
    let new = home.path().join("pool/new");
    let add = |world| add_directory(&paths, &new, small_packs(), world).map(|_| ());
    let drain = |world| {
        drain_directory(&paths, &paths[1], small_packs(), world, &SilentMonitor).map(|_| ())
    };
    type Run<'a> = (&'a dyn Fn(World) -> Result<()>, usize);
    let runs: [Run<'_>; 2] = [(&add, 3), (&drain, 1)];
    for (run, members) in runs {
        for at in (0u64..).step_by(if members == 3 { 11 } else { 1 }) {
            std::fs::remove_dir_all(home.path().join("pool")).unwrap();
            copy_tree(&original, &home.path().join("pool"));
            let index = paths[0].join("pool.db");
            let disk = CrashingDisk::new(Some(at)).keep_index(index, home.path().join("index"));
            let disk = Arc::new(disk);
            let _ = run(world_on(disk.clone()));
            let crashed = disk.has_crashed();
            disk.crash(Crash::PowerCut);
            let pool = open_pool(&paths, test_world()).unwrap();
            for (point, content) in &points {
                assert_eq!(&read_point(&pool, *point).unwrap(), content, "{members} at {at}");
            }
            drop(pool);

            if crashed {
                // An error only if nothing is left to do.
                let _ = run(test_world());
            }

            let all = [paths.clone(), vec![new.clone()]].concat();
            let pool = sound(if members == 3 { &all } else { &paths[..1] });
            assert_eq!(pool.directories().len(), members, "at {at}");
            for (point, content) in &points {
                assert_eq!(&read_point(&pool, *point).unwrap(), content, "{members} at {at}");
            }
            if !crashed {
                break;
            }
        }
    }
}
