//! The index is a cache: lost, damaged or old, it costs time and nothing else.

use std::fs;
use std::path::Path;

use crate::home::{Home, backup_arguments, number_of};
use crate::tree::{Observed, Random, plant};

/// What happens to the index, given an old copy of it.
type Harm = fn(pool: &Path, old: &Path);

const HARMS: [(&str, Harm); 9] = [
    ("deleted", |pool, _| remove_index(pool)),
    ("deleted, its journal left behind", |pool, _| fs::remove_file(pool.join("pool.db")).unwrap()),
    ("emptied", |pool, _| replace(pool, b"")),
    ("cut in half", |pool, _| {
        let index = fs::read(pool.join("pool.db")).unwrap();
        replace(pool, &index[..index.len() / 2]);
    }),
    ("cut within its first page", |pool, _| {
        let index = fs::read(pool.join("pool.db")).unwrap();
        replace(pool, &index[..1000]);
    }),
    ("replaced by an old copy", |pool, old| {
        remove_index(pool);
        copy_index(old, pool);
    }),
    ("replaced by text", |pool, _| replace(pool, b"this is no database, and never was\n")),
    ("replaced by noise", |pool, _| replace(pool, &Random::new(9).bytes(200 << 10))),
    ("overwritten in the middle", |pool, _| {
        let mut index = fs::read(pool.join("pool.db")).unwrap();
        let noise = Random::new(4).bytes(index.len() / 2);
        let quarter = index.len() / 4;
        index[quarter..quarter + noise.len()].copy_from_slice(&noise);
        replace(pool, &index);
    }),
];

#[test]
fn every_command_goes_on_without_its_index() {
    let story = Story::begin();
    let pristine = story.home.copy_of();
    for (harm, inflict) in HARMS {
        for command in ["points", "check", "restore", "backup", "prune", "stats"] {
            story.home.put_back(&pristine);
            inflict(&story.home.pool(), &story.old);
            story.run(command, harm);
            story.verify(&format!("index {harm}, then {command}"));
        }
    }
}

#[test]
fn repair_makes_the_index_anew() {
    let story = Story::begin();
    let pristine = story.home.copy_of();
    for (harm, inflict) in HARMS {
        story.home.put_back(&pristine);
        inflict(&story.home.pool(), &story.old);

        let repair = story.home.run(["repair"]);

        assert_eq!(repair.code(), Some(0), "index {harm}: {repair}");
        story.verify(&format!("index {harm}, then repair"));
    }
}

#[test]
fn after_the_loss_of_the_index_nothing_is_stored_twice() {
    let story = Story::begin();
    remove_index(&story.home.pool());

    let summary = story
        .home
        .run(backup_arguments(&story.home.beside("source"), &[]))
        .expect_code(0)
        .summary();

    assert_eq!(number_of(&summary, "bytes_new"), 0, "{summary}");
    assert!(summary["base"].is_string(), "the last point is still known: {summary}");
}

struct Story {
    home: Home,
    old: std::path::PathBuf,
    points: Vec<(String, Observed)>,
}

impl Story {
    fn begin() -> Self {
        let home = Home::in_memory();
        let source = home.directory("source");
        let mut random = Random::new(2);
        plant(&source, 60, 2, &mut random);
        let mut points = vec![(home.backup(&source, &[]), Observed::of(&source))];
        let old = home.directory("old");
        copy_index(&home.pool(), &old);
        crate::tree::write(&source.join("large/001"), &random.bytes(600 << 10));
        points.push((home.backup(&source, &[]), Observed::of(&source)));
        Self { home, old, points }
    }

    fn run(&self, command: &str, harm: &str) {
        let target = self.home.vacant("target");
        let source = self.home.beside("source");
        let finished = match command {
            "restore" => {
                self.home.run(["restore", "latest", "--to", target.to_str().expect("text")])
            }
            "backup" => self.home.run(backup_arguments(&source, &[])),
            _ => self.home.run([command]),
        };
        assert_eq!(finished.code(), Some(0), "index {harm}: {finished}");
    }

    fn verify(&self, when: &str) {
        self.home.expect_sound(when);
        let known = self.home.points();
        for (point, observed) in &self.points {
            assert!(known.contains(point), "{when}: point {point} is lost");
            let target = self.home.restore(point, "back");
            observed.expect(&Observed::of(&target), &format!("{when}: point {point}"));
        }
    }
}

fn remove_index(pool: &Path) {
    for name in ["pool.db", "pool.db-wal", "pool.db-shm"] {
        let _ = fs::remove_file(pool.join(name));
    }
}

fn replace(pool: &Path, content: &[u8]) {
    remove_index(pool);
    fs::write(pool.join("pool.db"), content).unwrap();
}

fn copy_index(from: &Path, to: &Path) {
    for name in ["pool.db", "pool.db-wal", "pool.db-shm"] {
        let _ = fs::copy(from.join(name), to.join(name));
    }
}
