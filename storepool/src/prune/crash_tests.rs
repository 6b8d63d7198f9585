//! Prune, killed and cut off at every single change it makes on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::check::{CheckOptions, check};
use crate::id::PointId;
use crate::monitor::SilentMonitor;
use crate::testing::disk::{Crash, CrashingDisk};
use crate::testing::fixture::{
    Files, copy_tree, create_pool, files, make_point, noise, open_pool, read_point, test_world,
    world_on,
};

const ALL: PruneOptions =
    PruneOptions { dry_run: false, max_unused_percent: 0.0, repack_all: true };

// A pool in which there is something to delete, something to copy, and something to keep.
struct Story {
    home: tempfile::TempDir,
    forgotten: PointId,
    kept: Vec<(PointId, Files)>,
}

impl Story {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (_, pool) = create_pool(&home.path().join("pool"), 1, test_world());
        // Kept and forgotten files lie side by side in the same packs.
        let common = files("files", 12, 1500);
        let mut gone = common.clone();
        gone.extend(
            common.keys().map(|name| (format!("{name}gone"), noise(&format!("{name}gone"), 1500))),
        );
        let forgotten = make_point(&pool, &gone).unwrap();
        let mut kept = Vec::new();
        for name in ["one", "two"] {
            let mut content = files(name, 3, 1500);
            content.extend(common.clone());
            kept.push((make_point(&pool, &content).unwrap(), content));
        }
        pool.forget(&[forgotten]).unwrap();
        Self { home, forgotten, kept }
    }

    // A fresh copy to be ruined.
    fn copy(&self, name: &str) -> Vec<PathBuf> {
        let copy = self.home.path().join(name);
        copy_tree(&self.home.path().join("pool"), &copy);
        vec![copy.join("disk0")]
    }

    fn expect_whole(&self, paths: &[PathBuf], when: &str) {
        let pool = open_pool(paths, test_world()).unwrap();
        for (point, content) in &self.kept {
            assert_eq!(&read_point(&pool, *point).unwrap(), content, "{when}");
        }
        let known: Vec<_> = pool.points().unwrap().iter().map(|point| point.id).collect();
        assert!(!known.contains(&self.forgotten), "{when}");
        let report = check(&pool, &CheckOptions { read_data: Some(100.0) }, &SilentMonitor);
        let report = report.unwrap();
        assert!(report.is_sound(), "{when}: {report:?}");

        let report = prune(&pool, &ALL, &SilentMonitor).unwrap();

        assert_eq!(report.packs_waiting, 0, "{when}");
        for (point, content) in &self.kept {
            assert_eq!(&read_point(&pool, *point).unwrap(), content, "{when}, pruned again");
        }
        let again = prune(&pool, &PruneOptions { dry_run: true, ..ALL }, &SilentMonitor).unwrap();
        assert_eq!((again.packs_deleted, again.packs_repacked), (0, 0), "{when}");
    }
}

fn crash_everywhere(story: &Story, crash: impl Fn(u64) -> Crash, spoil_index: impl Fn(&Path, u64)) {
    let mut at = 0;
    loop {
        let paths = story.copy(&format!("crash{at}"));
        let index = paths[0].join("pool.db");
        let copy = paths[0].parent().unwrap().join("index-copy");
        let disk = Arc::new(CrashingDisk::new(Some(at)).keep_index(index.clone(), copy));
        // Opening changes little on disk, but it may crash as well.
        let outcome = open_pool(&paths, world_on(disk.clone()))
            .and_then(|pool| prune(&pool, &ALL, &SilentMonitor));
        if !disk.has_crashed() {
            let report = outcome.unwrap();
            assert!(report.packs_repacked > 2, "{report:?}");
            assert!(at > 15, "a prune changes more than {at} things");
            return;
        }
        disk.crash(crash(at));
        spoil_index(&index, at);
        story.expect_whole(&paths, &format!("change {at}"));
        std::fs::remove_dir_all(paths[0].parent().unwrap()).unwrap();
        at += 1;
    }
}

#[test]
fn killed_at_any_change_it_loses_nothing_and_the_next_run_completes_it() {
    crash_everywhere(&Story::new(), |_| Crash::Kill, |_, _| {});
}

#[test]
fn a_power_cut_at_any_change_loses_nothing() {
    crash_everywhere(&Story::new(), |_| Crash::PowerCut, |_, _| {});
}

#[test]
fn a_power_cut_that_keeps_some_of_it_loses_nothing() {
    crash_everywhere(&Story::new(), |at| Crash::TornPowerCut(at * 7919 + 1), |_, _| {});
}

#[test]
fn a_power_cut_that_takes_the_index_along_loses_nothing() {
    let story = Story::new();
    let old = story.home.path().join("pool/disk0/pool.db");
    crash_everywhere(
        &story,
        |_| Crash::PowerCut,
        |index, at| {
            let _ = std::fs::remove_file(index.with_extension("db-wal"));
            let _ = std::fs::remove_file(index.with_extension("db-shm"));
            // Now it is gone, now it is as it was before the run.
            if at % 2 == 0 {
                std::fs::remove_file(index).unwrap();
            } else {
                std::fs::copy(&old, index).unwrap();
            }
        },
    );
}
