//! MariaDB, and the backups of it, killed in the middle; and brought back to moments that somebody saw.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::{announce, setting};
use crate::mariadb::{replay, text, with_group};
use crate::servers::Mariadb;
use crate::servers::mariadb::Door;
use crate::tree::Random;

/// Kills of a usual run; `KEEPWELL_E2E_SERVER_KILLS` makes it more.
const ROUNDS: u64 = 2;
/// Seconds that are seen, and how many of them are restored.
const SECONDS: u64 = 7;
const RESTORED: u64 = 4;
/// Every number from 1 on, without a gap, and how many.
const COUNTED: &str = "select if(count(*) = coalesce(max(n), 0) and count(*) = count(distinct n), count(*), -1) from shop.kept";

/// Commits one number after the other, through every crash of the server.
#[derive(Default)]
struct Oracle {
    committed: AtomicU64,
    done: AtomicBool,
}

impl Oracle {
    fn write(&self, server: &Door) {
        let mut number = 1;
        while !self.done.load(Ordering::Relaxed) {
            if server.answer(&format!("insert into shop.kept values ({number})")).is_none() {
                // Killed in between: only the server knows whether the commit came through.
                let last = server.answer("select coalesce(max(n), 0) from shop.kept");
                let Some(last) = last else { continue };
                number = last.parse().expect("a number");
            }
            self.committed.store(number, Ordering::Relaxed);
            number += 1;
        }
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }
}

/// Ends the writer, also when the test fails.
struct Stop<'a>(&'a Oracle);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// Waits until the copying program of a run is at work, then holds the run, so that it stays in the middle.
fn hold_in_the_middle(run: Pid) {
    let number = run.as_raw_nonzero();
    let children = || {
        let tasks = std::fs::read_dir(format!("/proc/{number}/task")).into_iter().flatten();
        let of_task = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
        };
        tasks.flatten().map(of_task).collect::<String>()
    };
    wait_until("the copy has begun", || {
        children().split_whitespace().any(|child| {
            let words = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
            words.is_ok_and(|words| words.contains("--stream=xbstream"))
        })
    });
    kill_process(run, Signal::STOP).expect("it runs");
}

fn scratch(keepwell: &Keepwell) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(keepwell.home().join("state")).expect("the state").flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mariadb-"))
        })
        .collect()
}

fn points(keepwell: &Keepwell) -> Vec<String> {
    let points = keepwell.document(["points"]);
    let points = points["points"].as_array().expect("a list");
    points.iter().map(|point| point["id"].as_str().expect("an id").to_string()).collect()
}

fn must_be_sound(keepwell: &Keepwell, point: &str, expected: RangeInclusive<u64>, when: &str) {
    let room = Mariadb::room();
    keepwell.ok(["restore", point, "--to", text(room.data()), "--at", "base"]);
    let server = room.started();
    let count: i64 = server.sql(COUNTED).parse().expect("a number");
    let count = u64::try_from(count).unwrap_or_else(|_| panic!("{when}: a number is missing"));
    assert!(expected.contains(&count), "{when}: {count} of {expected:?}");
    assert!(server.sql("check table shop.kept").ends_with("OK"), "{when}");
}

#[test]
fn a_copy_whose_server_or_agent_is_killed_makes_no_point_and_the_next_one_is_sound() {
    let keepwell = Keepwell::new();
    let mut server = Mariadb::start();
    server.sql("create database shop; create table shop.kept (n int) engine=innodb");
    // More than what pipes and buffers hold, so that the program is in the middle for certain.
    server.sql("create table shop.bulk (t longblob) engine=innodb");
    server.sql("use shop; insert into bulk select repeat(md5(seq), 10000) from seq_1_to_60");
    with_group(&keepwell, &server.source(""));
    let oracle = Oracle::default();
    let door = server.door();
    let mut made = Vec::new();

    std::thread::scope(|scope| {
        scope.spawn(|| oracle.write(&door));
        let _stop = Stop(&oracle);
        for round in 0..setting("KEEPWELL_E2E_SERVER_KILLS", ROUNDS) {
            wait_until("numbers are committed", || oracle.committed() > 3 * round + 3);
            let known = points(&keepwell);
            let child = keepwell.start(["--json", "backup", "db"]);
            let run = Pid::from_child(&child);
            hold_in_the_middle(run);
            if round % 2 == 0 {
                server.kill();
                kill_process(run, Signal::CONT).expect("it still runs");
            } else {
                kill_process(run, Signal::KILL).expect("it still runs");
            }
            let ran = Ran::of(child.wait_with_output().expect("it ends"));
            if round % 2 == 0 {
                assert_eq!(ran.code, Some(1), "{ran:?}");
                server.start_server();
            }
            assert_eq!(points(&keepwell), known, "round {round}: {ran:?}");

            let before = oracle.committed();
            let summary = keepwell.summary(["backup", "db"]);
            // One more may have been committed without an answer yet.
            made.push((
                summary["point"].as_str().expect("an id").to_string(),
                before..=oracle.committed() + 1,
            ));
            assert!(scratch(&keepwell).is_empty(), "{:?}", scratch(&keepwell));
        }
    });

    keepwell.ok(["check", "--read-data"]);
    for (point, expected) in made {
        must_be_sound(&keepwell, &point, expected, &format!("point {point}"));
    }
}

#[test]
fn random_moments_come_back_by_binary_logs_as_they_were_seen() {
    let (mut random, seed) = Random::fresh();
    announce(&format!("KEEPWELL_E2E_SEED={seed}"));
    let keepwell = Keepwell::new();
    let (vault, credentials) = (keepwell.path("vault"), keepwell.path("main.vault"));
    keepwell.ok(["vault", "create", text(&vault), "--credentials", text(&credentials)]);
    let passphrase = keepwell.path("passphrase");
    let given = ["--credentials", text(&credentials), "--generate-passphrase", text(&passphrase)];
    keepwell.ok([&["vault", "register"][..], &given].concat());
    let server = Mariadb::start();
    server.sql("create database shop; create table shop.kept (n int) engine=innodb");
    with_group(&keepwell, &server.source(", binlog = true"));
    let base = keepwell.summary(["backup", "db"]);
    let base = base["point"].as_str().expect("an id").to_string();
    let now = "select date_format(utc_timestamp(), '%Y-%m-%dT%H:%i:%sZ')";
    let mut committed: i64 = 0;
    let mut moments = Vec::new();
    // What is committed before a second is there at that second; times count in whole ones.
    for _ in 0..SECONDS {
        for _ in 0..=random.below(3) {
            committed += 1;
            server.sql(&format!("insert into shop.kept values ({committed})"));
        }
        let last = server.sql(now);
        wait_until("a second goes by", || server.sql(now) != last);
        moments.push((server.sql(now), committed));
    }
    keepwell.ok(["backup", "db"]);
    keepwell.ok(["sync", "db"]);

    for number in 0..RESTORED {
        let (at, rows) = &moments[random.below(moments.len() as u64 - 1) as usize];
        let room = Mariadb::room();
        let order = ["restore", &base, "--to", text(room.data()), "--at", at];
        let way: &[&str] = if number == 0 { &["--from", "vault"] } else { &[] };
        keepwell.ok([&order[..], way].concat());
        let restored = room.started();
        replay(&restored);
        let count: i64 = restored.sql(COUNTED).parse().expect("a number");
        assert_eq!(count, *rows, "{at}, seed {seed}");
    }
}
