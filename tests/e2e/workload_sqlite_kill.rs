//! A database's writer and the backup of it are killed at random moments: every copy is sound, and holds exactly what was committed.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::{announce, setting};
use crate::tree::Random;

/// Kills of a usual run; `KEEPWELL_E2E_SERVER_KILLS` makes it more.
const ROUNDS: u64 = 8;

/// Commits one number after the other and notes each that was committed.
const WRITER: &str = r#"
import os, sqlite3, sys
path, oracle = sys.argv[1:]
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA wal_autocheckpoint=20")
db.execute("CREATE TABLE IF NOT EXISTS kept (n INTEGER PRIMARY KEY, note TEXT)")
notes = os.open(oracle, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
n = db.execute("SELECT coalesce(max(n), 0) FROM kept").fetchone()[0]
while True:
    n += 1
    db.execute("INSERT INTO kept VALUES (?, ?)", (n, os.urandom(300).hex()))
    os.write(notes, b"%09d\n" % n)
"#;

/// A writer; killed when dropped.
struct Writer(Child);

impl Writer {
    fn start(database: &Path, oracle: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", WRITER]).args([database, oracle]).stdin(Stdio::null());
        Self(command.spawn().expect("python3 is installed"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }
}

/// Returns the last number that was committed for certain.
fn committed(oracle: &Path) -> u64 {
    let text = fs::read_to_string(oracle).unwrap_or_default();
    text.lines().rfind(|line| line.len() == 9).map_or(0, |line| line.parse().expect("a number"))
}

fn must_be_sound(copy: &Path, expected: RangeInclusive<u64>, when: &str) {
    let database = rusqlite::Connection::open(copy).expect("a database");
    let ask = |question: &str| -> String {
        database
            .query_row(question, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("{when}: {error}"))
    };
    assert_eq!(ask("PRAGMA integrity_check"), "ok", "{when}");
    let counted = "SELECT CASE WHEN count(*) = coalesce(max(n), 0) THEN count(*) || '' ELSE 'a gap' END FROM kept";
    let count: u64 = ask(counted).parse().unwrap_or_else(|_| panic!("{when}: a number is missing"));
    assert!(expected.contains(&count), "{when}: {count} of {expected:?}");
}

#[test]
fn copies_are_sound_and_complete_whatever_is_killed() {
    let (mut random, seed) = Random::fresh();
    announce(&format!("KEEPWELL_E2E_SEED={seed}"));
    let keepwell = Keepwell::new();
    let (database, oracle) = (keepwell.path("app.db"), keepwell.path("oracle"));
    let source = "[group.app]\nsources = [{ sqlite = { files = [\"../app.db\"] } }]\n";
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, format!("{text}\n{source}")).expect("written");
    let mut writer = Writer::start(&database, &oracle);
    wait_until("the writer has begun", || committed(&oracle) > 50);
    let begin = Instant::now();
    let first = keepwell.summary(["backup", "app"]);
    let unhurried = begin.elapsed();
    let mut made: Vec<(String, RangeInclusive<u64>)> =
        vec![(first["point"].as_str().expect("an id").to_string(), 1..=committed(&oracle) + 1)];

    for round in 0..setting("KEEPWELL_E2E_SERVER_KILLS", ROUNDS) {
        let before = committed(&oracle);
        wait_until("more is committed", || committed(&oracle) > before);
        let before = committed(&oracle);
        let mut child = keepwell.start(["--json", "backup", "app"]);
        std::thread::sleep(unhurried.mul_f64(random.below(1000) as f64 / 1000.0));
        if round % 2 == 0 {
            drop(writer);
            writer = Writer::start(&database, &oracle);
        } else {
            // It may have ended already.
            let _ = child.kill();
        }
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        if round % 2 == 0 {
            assert_eq!(ran.code, Some(0), "round {round}, seed {seed}: {ran:?}");
        }
        let last = ran
            .stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .next_back();
        if let Some(point) = last.as_ref().and_then(|last| last["point"].as_str()) {
            // One may have been committed and not noted yet, and one before the kill.
            made.push((point.to_string(), before..=committed(&oracle) + 2));
        }
    }
    drop(writer);

    keepwell.ok(["check", "--read-data"]);
    keepwell.register_vault();
    keepwell.ok(["sync", "app"]);
    let points = keepwell.document(["points", "app"]);
    let points: Vec<String> = points["points"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|point| point["id"].as_str().expect("an id").to_string())
        .collect();
    assert!(made.iter().all(|(point, _)| points.contains(point)), "{made:?} {points:?}");
    for point in &points {
        let expected = made.iter().find(|(id, _)| id == point).map(|(_, range)| range.clone());
        // Of a run that was killed nobody knows more than that it came to its end, or that there is no point.
        let expected = expected.unwrap_or(1..=committed(&oracle));
        for from in ["pool", "vault"] {
            let back = keepwell.path(format!("back-{point}-{from}"));
            keepwell.ok(["restore", point, "--to", back.to_str().expect("text"), "--from", from]);
            let copy: PathBuf = back.join(database.strip_prefix("/").expect("absolute"));
            let when = format!("point {point} from the {from}, seed {seed}");
            must_be_sound(&copy, expected.clone(), &when);
        }
    }
    let last = keepwell.summary(["backup", "app"]);
    assert_eq!(last["problem_count"], 0, "{last}");
    let scratch = fs::read_dir(keepwell.home().join("state/scratch")).map(Iterator::count);
    assert_eq!(scratch.unwrap_or_default(), 0, "no copy is left");
}
