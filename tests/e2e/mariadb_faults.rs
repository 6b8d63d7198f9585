//! MariaDB, and the backups of it, killed in the middle; and brought back to moments that somebody saw.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::{announce, setting};
use crate::mariadb::{replay, text, with_group};
use crate::oracle::{Oracle, counted, must_be_among};
use crate::servers::Mariadb;
use crate::tree::Random;

/// Kills of a usual run; `KEEPWELL_E2E_SERVER_KILLS` makes it more.
const ROUNDS: u64 = 2;
/// Seconds that are seen, and how many of them are restored.
const SECONDS: u64 = 7;
const RESTORED: u64 = 4;
/// What the oracle writes to.
const KEPT: &str = "shop.kept";

/// Waits until the program with this option is at work for a run, then holds the run, so that it stays in the middle.
pub(crate) fn hold_in_the_middle(run: Pid, option: &str) {
    let number = run.as_raw_nonzero();
    let children = || {
        let tasks = std::fs::read_dir(format!("/proc/{number}/task")).into_iter().flatten();
        let of_task = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
        };
        tasks.flatten().map(of_task).collect::<String>()
    };
    wait_until("the program is at work", || {
        children().split_whitespace().any(|child| {
            let words = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
            words.is_ok_and(|words| words.contains(option))
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

pub(crate) fn points(keepwell: &Keepwell) -> Vec<String> {
    let points = keepwell.document(["points"]);
    let points = points["points"].as_array().expect("a list");
    points.iter().map(|point| point["id"].as_str().expect("an id").to_string()).collect()
}

fn must_be_sound(keepwell: &Keepwell, point: &str, expected: &RangeInclusive<u64>) {
    for copy in ["pool", "vault"] {
        let when = format!("point {point} from the {copy}");
        let room = Mariadb::room();
        let order = ["restore", point, "--to", text(room.data()), "--at", "base"];
        keepwell.ok([&order[..], &["--from", copy]].concat());
        let server = room.started();
        must_be_among(expected, &server.sql(&counted(KEPT)), &when);
        assert!(server.sql("check table shop.kept").ends_with("OK"), "{when}");
    }
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
    let oracle = Oracle::of(KEPT);
    let door = server.door();
    let mut made = Vec::new();

    std::thread::scope(|scope| {
        scope.spawn(|| oracle.write(|sql| door.answer(sql)));
        let _stop = oracle.stop_later();
        for round in 0..setting("KEEPWELL_E2E_SERVER_KILLS", ROUNDS) {
            wait_until("numbers are committed", || oracle.committed() > 3 * round + 3);
            let known = points(&keepwell);
            let child = keepwell.start(["--json", "backup", "db"]);
            let run = Pid::from_child(&child);
            hold_in_the_middle(run, "--stream=xbstream");
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
    keepwell.register_vault();
    keepwell.ok(["sync", "db"]);
    for (point, expected) in made {
        must_be_sound(&keepwell, &point, &expected);
    }
}

#[test]
fn random_moments_come_back_by_binary_logs_as_they_were_seen() {
    let (mut random, seed) = Random::fresh();
    announce(&format!("KEEPWELL_E2E_SEED={seed}"));
    let keepwell = Keepwell::new();
    keepwell.register_vault();
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
        let count: i64 = restored.sql(&counted(KEPT)).parse().expect("a number");
        assert_eq!(count, *rows, "{at}, seed {seed}");
    }
}
