//! The program dies at any moment, and nothing that it has acknowledged is lost.
//!
//! Random moments: `KEEPWELL_E2E_KILLS` of each command (25 by default). And systematically: at every rename, sync and removal of one run, and at every
//! few of its writes.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::home::{Finished, Home, announce, backup_arguments, setting};
use crate::tree::{Observed, Random, plant, write};

/// Positions of one group of system calls that a systematic run tries; the rest is far more of the same.
const POSITIONS_MOST: usize = 60;

#[test]
fn a_backup_killed_at_random_loses_nothing() {
    let mut story = Story::begin(150, 6);
    let unhurried = story.time(|story| story.backup());

    for round in story.rounds() {
        story.change_source();
        let arguments = backup_arguments(&story.source, &[]);
        let finished = story.kill_within(arguments, unhurried);
        if finished.code() == Some(0) {
            story.acknowledge(finished.point());
        }
        story.verify(&format!("after backup {round}, seed {}", story.seed));
        story.backup();
        story.thin_out(2);
    }
}

#[test]
fn a_prune_killed_at_random_loses_nothing() {
    let mut story = Story::begin(150, 6);
    story.backup();
    story.change_source();
    story.backup();
    story.thin_out(1);
    let unhurried = story.time(|story| story.expect("prune"));

    for round in story.rounds() {
        story.change_source();
        story.backup();
        story.thin_out(2);
        story.kill_within(["prune", "--max-unused", "0"].map(OsString::from).to_vec(), unhurried);
        story.verify(&format!("after prune {round}, seed {}", story.seed));
    }
    story.expect("prune");
    story.verify("after a last prune");
}

#[test]
fn a_repair_killed_at_random_loses_nothing() {
    let mut story = Story::begin(150, 6);
    story.backup();
    story.change_source();
    story.backup();
    let unhurried = story.time(|story| story.expect("repair"));

    for round in story.rounds() {
        if round % 2 == 0 {
            fs::remove_file(story.home.pool().join("pool.db")).unwrap();
        }
        story.kill_within(vec!["repair".into()], unhurried);
        story.verify(&format!("after repair {round}, seed {}", story.seed));
    }
    story.expect("repair");
    story.backup();
    story.verify("after a last repair");
}

#[test]
fn a_backup_killed_at_every_step_loses_nothing() {
    let mut story = Story::begin(30, 2);
    story.backup();
    story.change_source();

    for (calls, stride) in CALLS {
        let arguments = backup_arguments(&story.source, &[]);
        story.kill_at_each(calls, stride, &arguments, |story, when| {
            story.verify(when);
            story.backup();
            story.verify(&format!("{when}, after the next backup"));
        });
    }
}

#[test]
fn a_prune_killed_at_every_step_loses_nothing() {
    let mut story = Story::begin(30, 3);
    for _ in 0..3 {
        story.backup();
        story.change_source();
    }
    story.backup();
    story.thin_out(2);

    for (calls, stride) in CALLS {
        let arguments = ["prune", "--max-unused", "0"].map(OsString::from);
        story.kill_at_each(calls, stride, &arguments, |story, when| {
            story.home.expect_sound(when);
            story.expect("prune");
            story.verify(&format!("{when}, after the next prune"));
        });
    }
}

/// System calls at which a crash can leave something half done, and how many of them are passed over. A `?` allows for architectures that lack one.
const CALLS: [(&str, usize); 4] = [
    ("?rename,?renameat,?renameat2", 1),
    ("fsync,fdatasync", 1),
    ("?unlink,unlinkat,?rmdir", 1),
    ("pwrite64,ftruncate,fallocate", 3),
];

/// A pool, its source, and what every acknowledged point has to give back.
struct Story {
    home: Home,
    source: PathBuf,
    random: Random,
    seed: u64,
    acknowledged: Vec<(String, Observed)>,
    now: Observed,
}

impl Story {
    fn begin(files: usize, large: usize) -> Self {
        let home = Home::in_memory();
        let source = home.directory("source");
        let (mut random, seed) = Random::fresh();
        announce(&format!("KEEPWELL_E2E_SEED={seed}"));
        plant(&source, files, large, &mut random);
        let now = Observed::of(&source);
        Self { home, source, random, seed, acknowledged: Vec::new(), now }
    }

    fn rounds(&self) -> std::ops::Range<u64> {
        0..setting("KEEPWELL_E2E_KILLS", 25)
    }

    fn change_source(&mut self) {
        for _ in 0..8 {
            let number = self.random.below(60);
            let length = 1 + self.random.below(9000) as usize;
            let path = self.source.join(format!("folder-{:02}/file-{number:05}", number % 17));
            write(&path, &self.random.bytes(length));
        }
        write(&self.source.join("large/000"), &self.random.bytes(700 << 10));
        self.now = Observed::of(&self.source);
    }

    fn acknowledge(&mut self, point: String) {
        self.acknowledged.push((point, self.now.clone()));
    }

    fn backup(&mut self) {
        let point = self.home.backup(&self.source, &[]);
        self.acknowledge(point);
    }

    fn expect(&self, command: &str) {
        self.home.run([command]).expect_code(0);
    }

    fn time(&mut self, action: impl FnOnce(&mut Self)) -> Duration {
        let begun = Instant::now();
        action(self);
        begun.elapsed()
    }

    /// Forgets all but the newest points.
    fn thin_out(&mut self, keep: usize) {
        let known: Vec<_> = self.acknowledged.iter().map(|(point, _)| point.clone()).collect();
        let goes = known.len().saturating_sub(keep);
        // Points of killed runs, which were committed but never acknowledged, go too.
        let going: Vec<_> =
            self.home.points().into_iter().filter(|point| !known[goes..].contains(point)).collect();
        if !going.is_empty() {
            let words = std::iter::once("forget".to_string()).chain(going);
            self.home.run(words).expect_code(0);
        }
        self.acknowledged.drain(..goes);
    }

    /// Runs the program and kills it at a random moment of about the time that it needs.
    fn kill_within(&mut self, arguments: Vec<OsString>, unhurried: Duration) -> Finished {
        let most = (unhurried.as_micros() as u64).max(1000) * 11 / 10;
        let delay = Duration::from_micros(self.random.below(most));
        let mut command = self.home.command(&arguments);
        let line = format!("{command:?} killed after {delay:?}");
        let mut child = command.spawn().expect("the program starts");
        std::thread::sleep(delay);
        // Fails only if it has ended already.
        let _ = child.kill();
        Finished::new(line, child.wait_with_output().expect("a child can be waited for"))
    }

    /// Runs the program on a copy of everything, killed at the first, second, ... call, until it survives.
    fn kill_at_each(
        &mut self,
        calls: &str,
        stride: usize,
        arguments: &[OsString],
        mut then: impl FnMut(&mut Self, &str),
    ) {
        let pristine = self.home.copy_of();
        let acknowledged = self.acknowledged.clone();
        for position in (1..=POSITIONS_MOST).step_by(stride) {
            self.home.put_back(&pristine);
            self.acknowledged = acknowledged.clone();
            let inject = format!("inject={calls}:signal=KILL:when={position}");
            let trace = format!("trace={calls}");
            let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let finished = Finished::of(self.home.command_under(&strace, arguments));
            let when = format!("after a kill at call {position} of {calls}, seed {}", self.seed);
            if !finished.was_killed() {
                assert_eq!(finished.code(), Some(0), "{when}: {finished}");
                assert!(position > 1, "no call of {calls} was seen: {finished}");
                then(self, &format!("{when}, which did not come"));
                break;
            }
            then(self, &when);
        }
        self.home.put_back(&pristine);
        self.acknowledged = acknowledged;
    }

    /// Proves that the pool is sound and that every acknowledged point gives back every byte; points that nobody acknowledged may be there, but only whole.
    fn verify(&self, when: &str) {
        self.home.expect_sound(when);
        let points = self.home.points();
        for (point, observed) in &self.acknowledged {
            assert!(points.contains(point), "point {point} is lost {when}: {points:?}");
            let target = self.home.restore(point, "back");
            observed.expect(&Observed::of(&target), &format!("point {point} is wrong {when}"));
        }
        let known: Vec<_> = self.acknowledged.iter().map(|(point, _)| point).collect();
        for point in points.iter().filter(|point| !known.contains(point)) {
            self.home.restore(point, "back");
        }
    }
}
