//! A pool on several disks: chunks are spread, and of a disk that is lost everybody knows exactly what it took along.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::home::{Home, backup_arguments, is_root, number_of, text_of};
use crate::mount::Mount;
use crate::tree::{Observed, Random, plant, write};

#[test]
fn chunks_are_spread_over_all_disks() {
    for disks in [2, 3] {
        let story = Story::on(disks);
        let listed = story.list();

        assert_eq!(listed.len(), disks, "{listed:?}");
        for directory in &listed {
            assert_eq!(directory["present"], true, "{directory}");
            assert!(number_of(directory, "packs") > 0, "nothing lies here: {directory}");
        }
        story.expect_all("on all disks");
    }
}

#[test]
fn a_lost_disk_takes_exactly_the_points_that_check_names() {
    let mut story = Story::on(1);
    let alone = story.points[0].clone();
    story.add_disk("b");
    story.change_source();
    story.backup();
    story.change_source();
    story.backup();

    story.lose("b");

    let affected = story.affected();
    for (point, observed) in &story.points {
        let target = story.home.vacant("target");
        let restore = story.home.run(["restore", point, "--to", target.to_str().unwrap()]);
        let whole = restore.code() == Some(0);
        assert_eq!(!affected.contains(point), whole, "check names {affected:?}, but: {restore}");
        if whole {
            observed.expect(&Observed::of(&target), "what is restored beside a lost disk");
        }
    }
    assert!(
        !affected.contains(&alone.0),
        "{affected:?} holds a point from before the disk was there"
    );
    assert!(!affected.is_empty(), "nothing was lost with the disk");
    let listed = story.list();
    let missing = listed.iter().filter(|directory| directory["present"] == false).count();
    assert_eq!(missing, 1, "{listed:?}");
}

#[test]
fn the_next_backup_stores_again_what_a_lost_disk_held() {
    let mut story = Story::on(2);
    story.lose("b");

    story.backup();

    let (point, observed) = story.points.last().unwrap();
    observed.expect(&Observed::of(&story.home.restore(point, "target")), "the new point");
    assert!(!story.affected().contains(point), "the new point needs nothing of the lost disk");

    story.find("b");
    story.home.expect_sound("when the disk is back");
    story.expect_all("when the disk is back");
}

#[test]
fn the_disk_with_the_index_may_be_the_lost_one() {
    let mut story = Story::on(3);
    story.lose("a");

    story.backup();

    let (point, observed) = story.points.last().unwrap();
    observed.expect(&Observed::of(&story.home.restore(point, "target")), "the new point");
    story.find("a");
    assert_eq!(story.home.points().len(), 2, "both points are known when the disk is back");
    story.expect_all("when the first disk is back");
    story.home.expect_sound("when the first disk is back");
}

#[test]
fn a_drained_disk_can_be_taken_away() {
    for goes in ["a", "b"] {
        let mut story = Story::on(2);
        story.change_source();
        story.backup();
        let directory = story.directory(goes);

        story.home.run(["pool", "drain", directory.to_str().unwrap()]).expect_code(0);

        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(story.list().len(), 1, "{:?}", story.list());
        story.home.expect_sound("after the drain");
        story.expect_all("after the drain");
        story.backup();
        let configuration = fs::read_to_string(story.home.path().join("keepwell.toml")).unwrap();
        assert!(!configuration.contains(directory.to_str().unwrap()), "{configuration}");
    }
}

#[test]
fn a_disk_that_is_gone_for_good_can_be_given_up() {
    let mut story = Story::on(2);
    story.lose("b");
    // So that not everything of the first point is stored again by the second.
    story.change_source();
    story.backup();

    story.home.run(["pool", "drain", "--lost"]).expect_code(0);

    assert_eq!(story.list().len(), 1, "{:?}", story.list());
    let (point, observed) = story.points.last().unwrap();
    observed.expect(&Observed::of(&story.home.restore(point, "target")), "the new point");
    let affected = story.affected();
    assert!(!affected.contains(point) && !affected.is_empty(), "{affected:?}");
    // What cannot be whole again may go, and then all is well.
    let going: Vec<_> = affected.into_iter().collect();
    story.home.run(std::iter::once("forget".to_string()).chain(going)).expect_code(0);
    story.home.run(["prune"]).expect_code(0);
    story.home.expect_sound("after the affected points are forgotten");
}

#[test]
fn nothing_is_pruned_while_a_disk_is_missing() {
    let mut story = Story::on(2);
    story.change_source();
    story.backup();
    let forgotten = story.points.remove(0).0;
    story.home.run(["forget", &forgotten]).expect_code(0);
    story.lose("b");
    let before = files_of(&story.directory("a").join("packs"));

    let refused = story.home.run(["prune"]);

    assert_ne!(refused.code(), Some(0), "{refused}");
    assert!(refused.stderr().contains("missing"), "{refused}");
    assert_eq!(files_of(&story.directory("a").join("packs")), before);
    story.find("b");
    story.home.run(["prune"]).expect_code(0);
    story.expect_all("after the prune");
}

#[test]
fn a_disk_of_another_pool_is_refused() {
    let story = Story::on(1);
    let other = Story::on(1);
    let (own, foreign) = (story.directory("a"), other.directory("a"));
    story.home.configure(&format!("paths = [{own:?}, {foreign:?}]\n"));

    let refused = story.home.run(["points"]);

    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr().contains("belongs to pool"), "{refused}");
    other.expect_all("when another pool has tried to take the disk");
}

#[test]
fn a_pool_whose_disks_are_all_missing_is_not_made_anew() {
    let story = Story::on(2);
    story.lose("a");
    story.lose("b");

    let refused = story.home.run(backup_arguments(&story.source, &[]));

    assert_eq!(refused.code(), Some(10), "{refused}");
    assert!(refused.stderr().contains("mounted"), "{refused}");
    assert!(!story.directory("a").exists() && !story.directory("b").exists());
}

struct Story {
    // Unmounted before the place that they are in goes.
    _disks: Vec<Mount>,
    home: Home,
    source: PathBuf,
    random: Random,
    points: Vec<(String, Observed)>,
}

impl Story {
    /// Begins with a pool on so many disks (`a`, `b`, `c`) and one point.
    fn on(disks: usize) -> Self {
        let home = Home::empty_in_memory();
        let names = ["a", "b", "c"];
        // On one file system all directories would have the same room, whatever was written where.
        let mounts = if is_root("all pool directories are on one disk, and nothing is spread") {
            let disk =
                |(number, name): (u64, &str)| Mount::tmpfs(&home.beside(name), (96 - number) << 20);
            (0_u64..).zip(names).map(disk).collect()
        } else {
            Vec::new()
        };
        let paths: Vec<_> =
            names[..disks].iter().map(|name| home.beside(name).join("pool")).collect();
        home.configure(&format!("# My disks.\npaths = {paths:?}\npack_size = \"1M\"\n"));
        home.run(["init"]).expect_code(0);
        let source = home.directory("source");
        let mut random = Random::new(disks as u64);
        plant(&source, 60, 12, &mut random);
        let mut story = Self { _disks: mounts, home, source, random, points: Vec::new() };
        story.backup();
        story
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.home.beside(name).join("pool")
    }

    fn add_disk(&self, name: &str) {
        let directory = self.directory(name);
        self.home.run(["pool", "add", directory.to_str().unwrap()]).expect_code(0);
        let configuration = fs::read_to_string(self.home.path().join("keepwell.toml")).unwrap();
        assert!(configuration.contains("# My disks."), "the comment is gone: {configuration}");
    }

    fn change_source(&mut self) {
        for number in 0..8 {
            write(&self.source.join(format!("large/{number:03}")), &self.random.bytes(500 << 10));
        }
    }

    fn backup(&mut self) {
        let point = self.home.backup(&self.source, &[]);
        self.points.push((point, Observed::of(&self.source)));
    }

    fn lose(&self, name: &str) {
        fs::rename(self.directory(name), self.home.beside(name).join("lost")).unwrap();
    }

    fn find(&self, name: &str) {
        fs::rename(self.home.beside(name).join("lost"), self.directory(name)).unwrap();
    }

    fn list(&self) -> Vec<Value> {
        let document = self.home.run(["pool", "list", "--json"]).expect_code(0).json();
        document["directories"].as_array().cloned().unwrap_or_default()
    }

    /// Returns the points that `check` names as affected.
    fn affected(&self) -> BTreeSet<String> {
        let check = self.home.run(["check", "--json"]).expect_code(5);
        let affected = check.summary()["affected_points"].as_array().cloned().unwrap_or_default();
        affected.iter().map(|point| text_of(point, "point")).collect()
    }

    fn expect_all(&self, when: &str) {
        for (point, observed) in &self.points {
            let target = self.home.restore(point, "target");
            observed.expect(&Observed::of(&target), &format!("point {point} {when}"));
        }
    }
}

fn files_of(folder: &Path) -> Vec<String> {
    let names = Observed::of(folder).names();
    names.into_iter().filter(|name| name.ends_with(".pack")).collect()
}
