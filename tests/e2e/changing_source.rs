//! The source does not hold still: what was caught moving is recorded, and nothing is ever a mixture of two states.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::home::{Home, announce, backup_arguments, number_of, setting, text_of};
use crate::tree::{Random, write};

/// A state of a file is its number, again and again, in blocks of this length.
const BLOCK: usize = 4096;
const REPLACED: usize = 60;
const REWRITTEN: usize = 6;
/// Takes so long to read that it changes meanwhile.
const RESTLESS_BYTES: usize = 16 << 20;

#[test]
fn no_file_is_a_mixture_of_what_it_was_and_what_it_became() {
    let home = Home::in_memory();
    let source = home.directory("source");
    let mut random = Random::new(8);
    for number in 0..200 {
        write(&source.join(format!("still/{number:03}")), &random.bytes(3000));
    }
    let still = crate::tree::Observed::of(&source.join("still"));
    let stop = AtomicBool::new(false);
    let states = AtomicU64::new(0);
    prepare(&source);

    let (mut moved, mut quiet) = (0, 0);
    std::thread::scope(|scope| {
        // Also when an assertion fails, or the writers would never end.
        let _stopper = Stopper(&stop);
        scope.spawn(|| replace_files(&source, &stop, &states));
        scope.spawn(|| rewrite_files(&source, &stop, &states));
        scope.spawn(|| append_and_truncate(&source, &stop));
        scope.spawn(|| make_and_remove(&source, &stop));
        scope.spawn(|| never_rest(&source, &stop));

        for round in 0..setting("KEEPWELL_E2E_ROUNDS", 5) {
            let seen = states.load(Ordering::Relaxed);
            let finished = home.run(backup_arguments(&source, &[]));
            assert!(matches!(finished.code(), Some(0 | 3)), "{finished}");
            let point = finished.point();
            let problems = problems(&home, &point, finished.code() == Some(3));
            moved += problems.len();
            quiet += usize::from(problems.is_empty());
            let target = home.restore(&point, "target");
            still
                .expect(&crate::tree::Observed::of(&target.join("still")), "files that held still");
            expect_whole_states(&target, &problems, &format!("round {round}"));
            assert!(states.load(Ordering::Relaxed) > seen, "the writers do not write");
        }
    });
    assert!(
        moved > 0,
        "nobody has noticed a file of {RESTLESS_BYTES} bytes that changes all the time"
    );
    announce(&format!("{moved} problems recorded, {quiet} rounds without any"));

    // Now everything holds still.
    let last = home.run(backup_arguments(&source, &[])).expect_code(0).point();
    crate::tree::Observed::of(&source)
        .expect(&crate::tree::Observed::of(&home.restore(&last, "target")), "the last state");
    home.expect_sound("after all");
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the paths of the problems of a point, which must be there exactly when the backup has said so.
fn problems(home: &Home, point: &str, told: bool) -> BTreeSet<String> {
    let listed = home.run(["points", "--problems", point, "--json"]).expect_code(0).json();
    let points = listed["points"].as_array().cloned().unwrap_or_default();
    let problems: Vec<_> =
        points.iter().filter_map(|point| point["problems"].as_array()).flatten().collect();
    let counted: u64 = points.iter().map(|point| number_of(point, "problem_count")).sum();
    assert_eq!(!problems.is_empty(), told, "{listed}");
    assert_eq!(counted, problems.len() as u64, "{listed}");
    problems.iter().map(|problem| text_of(problem, "path")).collect()
}

fn expect_whole_states(root: &Path, problems: &BTreeSet<String>, when: &str) {
    for number in 0..REPLACED {
        let name = format!("replaced/{number}");
        let Ok(content) = fs::read(root.join(&name)) else {
            assert!(problems.contains(&name), "{when}: {name} is missing and no recorded problem");
            continue;
        };
        let states = states_of(&content);
        assert!(
            content.len() == 40 * BLOCK && states.windows(2).all(|pair| pair[0] == pair[1]),
            "{when}: {name} is torn: {} bytes, states {:?}",
            content.len(),
            distinct(&states)
        );
    }
    for number in 0..REWRITTEN {
        let name = format!("rewritten/{number}");
        let Ok(content) = fs::read(root.join(&name)) else {
            assert!(problems.contains(&name), "{when}: {name} is missing and no recorded problem");
            continue;
        };
        // Written from front to back: at any moment the front has one state and the back the one before.
        let states = distinct(&states_of(&content));
        let possible = match states.as_slice() {
            [_] => true,
            [front, back] => *front == back + 1,
            _ => false,
        };
        assert!(possible, "{when}: {name} never was like this on the disk: states {states:?}");
    }
    if let Ok(content) = fs::read(root.join("log")) {
        // A state of the log is a beginning of: life, 0, life, 1, life, 2, ...
        let words: Vec<_> =
            content.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let whole = words.chunks(2).enumerate().all(|(line, pair)| {
            pair[0] == words[0] && pair.get(1).is_none_or(|number| *number == line as u64)
        });
        assert!(
            whole,
            "{when}: the log is a mixture of two lives: {:?}...",
            &words[..words.len().min(8)]
        );
    } else {
        assert!(problems.contains("log"), "{when}: the log is missing and no recorded problem");
    }
}

fn states_of(content: &[u8]) -> Vec<u64> {
    content.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn distinct(states: &[u64]) -> Vec<u64> {
    let mut distinct = states.to_vec();
    distinct.dedup();
    distinct
}

fn state(number: u64, blocks: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(blocks * BLOCK / 8)
}

fn prepare(source: &Path) {
    for number in 0..REPLACED {
        write(&source.join(format!("replaced/{number}")), &state(0, 40));
    }
    for number in 0..REWRITTEN {
        write(&source.join(format!("rewritten/{number}")), &state(0, 300));
    }
    write(&source.join("log"), b"");
    write(&source.join("restless"), &Random::new(3).bytes(RESTLESS_BYTES));
    fs::create_dir(source.join("passing")).unwrap();
}

// As editors and databases do it: a new file, then a rename over the old one.
fn replace_files(source: &Path, stop: &AtomicBool, states: &AtomicU64) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let path = source.join(format!("replaced/{}", number as usize % REPLACED));
        let beside = source.join("beside");
        fs::write(&beside, state(number, 40)).unwrap();
        fs::rename(&beside, path).unwrap();
        states.store(number, Ordering::Relaxed);
    }
}

// From front to back, block by block; a new state begins when the last one is complete.
fn rewrite_files(source: &Path, stop: &AtomicBool, _states: &AtomicU64) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        for file in 0..REWRITTEN {
            let path = source.join(format!("rewritten/{file}"));
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let block = state(number, 1);
            for position in 0..300 {
                file.write_all_at(&block, (position * BLOCK) as u64).unwrap();
            }
        }
    }
}

fn append_and_truncate(source: &Path, stop: &AtomicBool) {
    let mut life = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        life += 1;
        let mut log = File::create(source.join("log")).unwrap();
        for line in 0..20_000_u64 {
            let mut pair = life.to_le_bytes().to_vec();
            pair.extend(line.to_le_bytes());
            log.write_all(&pair).unwrap();
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

fn never_rest(source: &Path, stop: &AtomicBool) {
    let file = OpenOptions::new().write(true).open(source.join("restless")).unwrap();
    let mut random = Random::new(4);
    while !stop.load(Ordering::Relaxed) {
        let place = random.below(RESTLESS_BYTES as u64 - 8);
        file.write_all_at(&random.next().to_le_bytes(), place).unwrap();
    }
}

fn make_and_remove(source: &Path, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let folder = source.join(format!("passing/{}", number % 50));
        write(&folder.join("deep/file"), b"here today");
        let _ = fs::rename(&folder, source.join(format!("passing/moved-{}", number % 20)));
        let _ = fs::remove_dir_all(source.join(format!("passing/{}", (number + 25) % 50)));
        let _ = fs::remove_dir_all(source.join(format!("passing/moved-{}", (number + 7) % 20)));
    }
}
