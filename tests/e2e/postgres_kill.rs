//! PostgreSQL, its archiving and the backups of it are killed at random moments, with pgbench running: what is in the pool starts, is sound, and holds
//! exactly what was committed.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::{announce, setting};
use crate::oracle::{Oracle, counted, must_be_among};
use crate::postgres_wal::{archiving, read_by, restored, switch, text};
use crate::servers::Postgres;
use crate::tree::Random;

/// Kills of a usual run; `KEEPWELL_E2E_SERVER_KILLS` makes it more.
const ROUNDS: u64 = 3;
/// What the oracle writes to.
const KEPT: &str = "kept";
/// What pgbench keeps equal in every transaction.
const SUMS: &str = "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)";

/// Kills the archiving that runs at this moment, if any does.
fn kill_a_push(keepwell: &Keepwell) -> bool {
    let home = keepwell.home().display().to_string();
    let pushes = std::fs::read_dir("/proc").expect("processes").flatten().filter_map(|entry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let words: Vec<&str> = words.split('\0').collect();
        let is_push = words.contains(&home.as_str()) && words.contains(&"wal-push");
        is_push.then(|| Pid::from_raw(id)).flatten()
    });
    pushes.map(|id| kill_process(id, Signal::KILL)).fold(false, |any, killed| any | killed.is_ok())
}

fn bases(keepwell: &Keepwell) -> Vec<String> {
    let points = keepwell.document(["points", "db"]);
    let points = points["points"].as_array().expect("a list");
    let own = points.iter().filter(|point| point["workload"] == "postgres");
    own.map(|point| point["id"].as_str().expect("an id").to_string()).collect()
}

fn must_be_sound(server: &Postgres, expected: RangeInclusive<u64>, when: &str) {
    must_be_among(&expected, &server.sql("postgres", &counted(KEPT)), when);
    assert_eq!(server.sql("postgres", SUMS), "t", "{when}");
    server.sql("postgres", "create extension if not exists amcheck");
    server.run("pg_amcheck", &["--heapallindexed", "postgres"]);
}

#[test]
fn whatever_is_killed_every_point_that_was_read_starts_and_holds_what_was_committed() {
    whatever_is_killed("files");
}

#[test]
fn whatever_is_killed_every_point_that_was_sent_starts_and_holds_what_was_committed() {
    whatever_is_killed("server");
}

fn whatever_is_killed(read_from: &str) {
    let (mut random, seed) = Random::fresh();
    announce(&format!("KEEPWELL_E2E_SEED={seed}"));
    let (keepwell, mut postgres) = archiving();
    read_by(&keepwell, read_from);
    keepwell.register_vault();
    postgres.sql("postgres", "create table kept (n int)");
    postgres.run("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    let begin = Instant::now();
    keepwell.ok(["backup", "db"]);
    let unhurried = begin.elapsed();
    keepwell.ok(["forget", &bases(&keepwell)[0]]);
    let command = postgres.sql("postgres", "show archive_command");
    let settings = [("archive_mode", "on"), ("archive_command", command.as_str())];
    let oracle = Oracle::of(KEPT);
    let door = postgres.door();
    let mut made: Vec<(String, RangeInclusive<u64>)> = Vec::new();

    std::thread::scope(|scope| {
        scope.spawn(|| oracle.write(|sql| door.answer(sql)));
        let _stop = oracle.stop_later();
        wait_until("numbers are committed", || oracle.committed() > 5);
        for round in 0..setting("KEEPWELL_E2E_SERVER_KILLS", ROUNDS) {
            let bench = postgres.bench();
            let before = oracle.committed();
            let mut child = keepwell.start(["--json", "backup", "db"]);
            let delay = Duration::from_micros(random.below(unhurried.as_micros() as u64));
            std::thread::sleep(delay);
            // In turn, so that each is killed in every run: the agent, the server, what archives.
            match round % 3 {
                0 => {
                    let _ = child.kill();
                }
                1 => postgres.kill_and_start(&settings),
                _ => {
                    postgres.sql("postgres", "select pg_switch_wal()");
                    wait_until("a push is killed", || kill_a_push(&keepwell));
                }
            }
            let ran = Ran::of(child.wait_with_output().expect("it ends"));
            drop(bench);
            // Asked after the server answers again; one more may have been committed without an answer yet.
            let after = oracle.committed() + 1;
            if let Some(made_now) = ran.point() {
                made.push((made_now, before..=after));
            }
        }
    });

    switch(&postgres);
    keepwell.ok(["check", "--read-data"]);
    keepwell.ok(["sync", "db"]);
    let all = bases(&keepwell);
    // A point that was finished, but whose agent died before it could say so, is as good.
    assert!(made.iter().all(|(point, _)| all.contains(point)), "{made:?} {all:?}");
    for point in &all {
        let expected = made.iter().find(|(id, _)| id == point).map(|(_, range)| range.clone());
        let expected = expected.unwrap_or(0..=oracle.committed());
        for copy in ["pool", "vault"] {
            let room = Postgres::room_in_memory();
            let order = ["restore", point, "--to", text(room.data()), "--at", "base"];
            keepwell.ok([&order[..], &["--from", copy]].concat());
            let when = format!("base {point} from the {copy}, seed {seed}");
            must_be_sound(&room.started(&[]), expected.clone(), &when);
        }
    }
    let last = keepwell.summary(["backup", "db"]);
    assert_eq!(last["problem_count"], 0, "{last}");
    if let Some(first) = all.first() {
        // Through every crash and every killed push, from the oldest base on.
        let room = Postgres::room_in_memory();
        keepwell.ok(["restore", first, "--to", text(room.data()), "--at", "latest"]);
        let all = oracle.committed()..=oracle.committed();
        must_be_sound(&room.started(&[]), all, &format!("latest from {first}, seed {seed}"));
    }
    let latest = restored(&keepwell, "base");
    let all = oracle.committed()..=oracle.committed();
    must_be_sound(&latest, all, &format!("the last base, seed {seed}"));
}

impl Ran {
    /// Returns the point that was made, if the run said so.
    fn point(&self) -> Option<String> {
        let mut summary =
            self.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let summary = summary.rfind(|line| line["message_type"] == "summary")?;
        summary["point"].as_str().map(str::to_string)
    }
}
