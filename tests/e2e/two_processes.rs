//! Two programs on one pool at once: each does its work or says who is in its way, and the pool stays sound.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::home::{Finished, Home, announce, backup_arguments, setting};
use crate::tree::{Observed, Random, plant, write};

#[test]
fn two_backups_at_once_make_two_points() {
    let mut story = Story::begin();
    let other = story.home.directory("other");
    plant(&other, 80, 4, &mut story.random);

    for round in story.rounds() {
        story.change_source();
        write(&other.join("large/000"), &story.random.bytes(600 << 10));
        let same = if round % 2 == 0 { other.clone() } else { story.source.clone() };
        let runs = story.both(backup_arguments(&story.source, &[]), backup_arguments(&same, &[]));
        for (run, source) in runs.iter().zip([&story.source, &same]) {
            if story.succeeded(run) {
                story.points.push((run.point(), Observed::of(source)));
            }
        }
        story.verify(&format!("after round {round} of two backups"));
        story.thin_out(2);
    }
}

#[test]
fn a_prune_beside_a_backup_takes_nothing_that_it_needs() {
    let mut story = Story::begin();

    for round in story.rounds() {
        story.backup();
        let before = story.source.join("large/000");
        let content = std::fs::read(&before).unwrap();
        story.change_source();
        story.backup();
        // What the forgotten points alone held is wanted again by the backup beside the prune.
        story.thin_out(1);
        write(&before, &content);
        let runs = story.both(prune(), backup_arguments(&story.source, &[]));
        story.succeeded(&runs[0]);
        if story.succeeded(&runs[1]) {
            story.points.push((runs[1].point(), Observed::of(&story.source)));
        }
        story.verify(&format!("after round {round} of prune and backup"));
    }
}

#[test]
fn a_prune_beside_a_restore_takes_nothing_that_it_reads() {
    let mut story = Story::begin();

    for round in story.rounds() {
        story.change_source();
        story.backup();
        story.change_source();
        story.backup();
        let (point, observed) = story.points.last().cloned().unwrap();
        let forgotten = story.points.remove(story.points.len() - 2).0;
        story.home.run(["forget", &forgotten]).expect_code(0);
        let target = story.home.vacant("target");
        let restore = words(&["restore", &point, "--to", target.to_str().unwrap()]);
        let runs = story.both(restore, prune());
        story.succeeded(&runs[1]);
        if story.succeeded(&runs[0]) {
            let what = format!("restored beside a prune in round {round}");
            observed.expect(&Observed::of(&target), &what);
        }
        story.thin_out(2);
        story.verify(&format!("after round {round} of restore and prune"));
    }
}

#[test]
fn a_point_forgotten_while_it_is_restored_still_comes_whole() {
    let mut story = Story::begin();

    for round in story.rounds() {
        story.change_source();
        story.backup();
        story.change_source();
        story.backup();
        let (point, observed) = story.points.remove(0);
        let target = story.home.vacant("target");
        let restore = words(&["restore", &point, "--to", target.to_str().unwrap()]);
        let runs = story.both(restore, words(&["forget", &point]));
        story.succeeded(&runs[1]);
        story.home.run(["prune"]).expect_code(0);
        match runs[0].code() {
            Some(0) => {
                let what = format!("restored while it was forgotten in round {round}");
                observed.expect(&Observed::of(&target), &what);
            }
            // Forgotten before the restore looked.
            _ => assert!(runs[0].stderr().contains("no recovery point"), "{}", runs[0]),
        }
        story.verify(&format!("after round {round} of restore and forget"));
    }
}

#[test]
fn a_check_beside_a_backup_or_a_prune_finds_no_damage() {
    let mut story = Story::begin();

    for round in story.rounds() {
        story.change_source();
        let check = || words(&["check", "--read-data"]);
        let runs = story.both(check(), backup_arguments(&story.source, &[]));
        story.succeeded(&runs[0]);
        if story.succeeded(&runs[1]) {
            story.points.push((runs[1].point(), Observed::of(&story.source)));
        }
        story.thin_out(1);
        let runs = story.both(prune(), check());
        story.succeeded(&runs[0]);
        story.succeeded(&runs[1]);
        story.verify(&format!("after round {round} of check and others"));
    }
}

#[test]
fn of_two_prunes_one_works_and_the_other_names_it() {
    let mut story = Story::begin();
    let mut met = 0;

    for round in story.rounds() {
        story.change_source();
        story.backup();
        story.thin_out(1);
        let runs = story.both(prune(), prune());
        let codes = [runs[0].code(), runs[1].code()];
        assert!(codes.contains(&Some(0)), "neither works: {}\n{}", runs[0], runs[1]);
        for run in &runs {
            met += usize::from(!story.succeeded(run));
        }
        story.verify(&format!("after round {round} of two prunes"));
    }
    announce(&format!("two prunes met {met} times, seed {}", story.seed));
}

fn prune() -> Vec<OsString> {
    words(&["prune", "--max-unused", "0"])
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

struct Story {
    home: Home,
    source: PathBuf,
    random: Random,
    seed: u64,
    points: Vec<(String, Observed)>,
}

impl Story {
    fn begin() -> Self {
        let home = Home::in_memory();
        let source = home.directory("source");
        let (mut random, seed) = Random::fresh();
        announce(&format!("KEEPWELL_E2E_SEED={seed}"));
        plant(&source, 80, 4, &mut random);
        let mut story = Self { home, source, random, seed, points: Vec::new() };
        story.backup();
        story
    }

    fn rounds(&self) -> std::ops::Range<u64> {
        0..setting("KEEPWELL_E2E_ROUNDS", 8)
    }

    fn change_source(&mut self) {
        for name in ["large/000", "large/001", "folder-03/file-00003"] {
            let length = 1 + self.random.below(700 << 10) as usize;
            write(&self.source.join(name), &self.random.bytes(length));
        }
    }

    fn backup(&mut self) {
        let point = self.home.backup(&self.source, &[]);
        self.points.push((point, Observed::of(&self.source)));
    }

    fn thin_out(&mut self, keep: usize) {
        let goes = self.points.len().saturating_sub(keep);
        let going: Vec<_> = self.points.drain(..goes).map(|(point, _)| point).collect();
        if !going.is_empty() {
            self.home.run(std::iter::once("forget".to_string()).chain(going)).expect_code(0);
        }
    }

    /// Runs two commands at once, which of them first being left to chance.
    fn both(&mut self, one: Vec<OsString>, other: Vec<OsString>) -> [Finished; 2] {
        let start = |arguments: &[OsString]| {
            let mut command = self.home.command(arguments);
            let line = format!("{command:?}");
            (line, command.spawn().expect("the program starts"))
        };
        let swap = self.seed.wrapping_add(self.points.len() as u64).is_multiple_of(2);
        let (first, second) = if swap { (&other, &one) } else { (&one, &other) };
        let (first, second) = (start(first), start(second));
        let end = |(line, child): (String, std::process::Child)| {
            Finished::new(line, child.wait_with_output().expect("a child can be waited for"))
        };
        let (first, second) = (end(first), end(second));
        if swap { [second, first] } else { [first, second] }
    }

    /// Returns whether a command has done its work; if it has not, it must have said who was in its way.
    fn succeeded(&self, run: &Finished) -> bool {
        if run.code() == Some(0) {
            return true;
        }
        let names_holder = run.stderr().contains("in use by keepwell ");
        assert!(
            run.code() == Some(11) && names_holder,
            "neither done nor told who is in the way (seed {}): {run}",
            self.seed
        );
        false
    }

    fn verify(&self, when: &str) {
        let when = format!("{when}, seed {}", self.seed);
        self.home.expect_sound(&when);
        for (point, observed) in &self.points {
            let target = self.home.restore(point, "back");
            observed.expect(&Observed::of(&target), &format!("point {point} is wrong {when}"));
        }
        let sessions = sessions_left(&self.home.pool());
        assert_eq!(sessions, Vec::<String>::new(), "sessions are left behind {when}");
    }
}

fn sessions_left(pool: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(pool.join("locks")).expect("a pool has locks");
    let names =
        entries.map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("session-")).collect()
}
