//! WAL of PostgreSQL in the pool: pushed segment by segment, kept as long as a base needs it, and replayed to a moment between two commits.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use storepool::lock::{LockMode, Locks};

use crate::harness::{Keepwell, wait_until};
use crate::servers::Postgres;
use crate::servers::postgres::account;

const UTC: &str =
    "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
const PLACE: &str = "select pg_current_wal_insert_lsn()";

fn archive_command(keepwell: &Keepwell) -> String {
    let program = env!("CARGO_BIN_EXE_keepwell");
    format!("{program} --home {} wal-push %p", keepwell.home().display())
}

/// A cluster whose WAL goes to a pool, and both belong to the user of the server.
pub(crate) fn archiving() -> (Keepwell, Postgres) {
    let keepwell = Keepwell::of(account());
    let command = archive_command(&keepwell);
    let postgres = Postgres::start(&[("archive_mode", "on"), ("archive_command", &command)]);
    configure(&keepwell, &postgres);
    (keepwell, postgres)
}

/// Says in the configuration who reads the files of a base.
pub(crate) fn read_by(keepwell: &Keepwell, read_from: &str) {
    let file = keepwell.home().join("keepwell.toml");
    let mut text = fs::read_to_string(&file).expect("there is a configuration");
    for other in ["auto", "files", "server"] {
        text = text
            .replace(&format!("read_from = \"{other}\""), &format!("read_from = \"{read_from}\""));
    }
    fs::write(&file, text).expect("written");
}

fn configure(keepwell: &Keepwell, postgres: &Postgres) {
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    let rest = ", wal = true, name = \"main\", read_from = \"auto\"";
    let group = format!("[group.db]\nsources = [{}]\n", postgres.source(rest));
    let text = match text.split_once("[group.db]") {
        Some((before, _)) => format!("{before}{group}"),
        None => format!("{text}\n{group}"),
    };
    fs::write(&file, text).expect("written");
}

/// Ends the segment that is written to and waits until it is in the pool; returns its name.
pub(crate) fn switch(postgres: &Postgres) -> String {
    postgres.sql("postgres", "create table if not exists noise (n int)");
    postgres.sql("postgres", "insert into noise values (1)");
    let segment = postgres.sql("postgres", "select pg_walfile_name(pg_switch_wal())");
    let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    wait_until("the segment is archived", || postgres.sql("postgres", archived) >= segment);
    segment
}

fn insert(postgres: &Postgres, number: u32) {
    postgres.sql("postgres", &format!("insert into kept values ({number})"));
}

pub(crate) fn numbers(postgres: &Postgres) -> String {
    postgres.sql("postgres", "select coalesce(string_agg(n::text, ' ' order by n), '') from kept")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Restores to a moment and returns the cluster, past its recovery.
pub(crate) fn restored(keepwell: &Keepwell, at: &str) -> Postgres {
    let room = Postgres::room();
    keepwell.ok(["restore", "latest:db", "--to", text(room.data()), "--at", at]);
    room.started(&[])
}

/// Returns the one point that holds the WAL.
fn wal_point(keepwell: &Keepwell) -> String {
    let points = keepwell.document(["points", "db"]);
    let points = points["points"].as_array().expect("a list");
    let wal: Vec<&Value> =
        points.iter().filter(|point| point["workload"] == "postgres-wal").collect();
    assert_eq!(wal.len(), 1, "{points:?}");
    wal[0]["id"].as_str().expect("an id").to_string()
}

fn wal_files(keepwell: &Keepwell) -> Vec<String> {
    let list = keepwell.ok(["ls", "--recursive", &wal_point(keepwell)]).stdout;
    let name = |line: &str| line.rsplit('/').next().unwrap_or_default().to_string();
    list.lines()
        .filter(|line| line.contains('/'))
        .map(name)
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn a_cluster_comes_back_as_it_was_between_two_commits_by_place_and_by_time() {
    let (keepwell, postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    insert(&postgres, 1);
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 2);
    let (place, time) = (postgres.sql("postgres", PLACE), postgres.sql("postgres", UTC));
    insert(&postgres, 3);
    switch(&postgres);
    insert(&postgres, 4);
    switch(&postgres);

    let by_place = restored(&keepwell, &place);
    assert_eq!(numbers(&by_place), "1 2");
    drop(by_place);
    let by_time = restored(&keepwell, &time);
    assert_eq!(numbers(&by_time), "1 2");
    drop(by_time);
    let latest = restored(&keepwell, "latest");
    assert_eq!(numbers(&latest), "1 2 3 4");
    assert_eq!(latest.sql("postgres", "show archive_mode"), "off");
    drop(latest);

    let status: Value =
        serde_json::from_str(&keepwell.run(["--json", "status"]).stdout).expect("JSON");
    let source = &status["groups"][0]["sources"][0];
    assert_eq!(source["has_log"], true, "{status}");
    let until = source["recoverable_until"].as_str().expect("a time");
    assert!(until > time.as_str(), "{until} {time}");
    assert!(source["rpo_seconds"].as_u64().expect("seconds") < 600, "{status}");

    let room = Postgres::room();
    let early = keepwell.run(["restore", "latest:db", "--to", text(room.data()), "--at", "0/1"]);
    assert_eq!(early.code, Some(2), "{early:?}");
    let order = ["restore", "latest:db", "--to", text(room.data()), "--at", "2100-01-01T00:00"];
    let late = keepwell.run(order);
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.stderr.contains("is missing") && late.stderr.contains("hint:"), "{late:?}");
    assert!(!room.data().exists());
}

#[test]
fn a_segment_that_never_came_is_told_before_anything_is_written() {
    let (keepwell, postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 1);
    let place = postgres.sql("postgres", PLACE);
    switch(&postgres);
    postgres.sql("postgres", "alter system set archive_command = 'true'");
    postgres.sql("postgres", "select pg_reload_conf()");
    wait_until("segments are thrown away", || {
        postgres.sql("postgres", "show archive_command") == "true"
    });
    insert(&postgres, 2);
    let lost = switch(&postgres);
    let after_loss = postgres.sql("postgres", UTC);
    postgres.sql("postgres", "alter system reset archive_command");
    postgres.sql("postgres", "select pg_reload_conf()");
    wait_until("segments are kept again", || {
        postgres.sql("postgres", "show archive_command") != "true"
    });
    insert(&postgres, 3);
    switch(&postgres);

    let room = Postgres::room();
    let order = ["restore", "latest:db", "--to", text(room.data()), "--at", "latest"];
    let refused = keepwell.run(order);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&format!("{lost} is missing")), "{refused:?}");
    assert!(!room.data().exists());
    let before = restored(&keepwell, &place);
    assert_eq!(numbers(&before), "1");

    let missing = |keepwell: &Keepwell| {
        let ran = keepwell.run(["--json", "status"]);
        let status: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let findings = status["findings"].as_array().expect("a list").clone();
        let about = |finding: &&Value| {
            finding["what"].as_str().is_some_and(|what| what.contains(&format!("{lost} of")))
        };
        let level = findings.iter().find(about).map(|finding| finding["level"].clone());
        (level, status["groups"][0]["sources"][0]["recoverable_until"].clone())
    };
    let (level, until) = missing(&keepwell);
    assert_eq!(level, Some("critical".into()));
    assert!(until.as_str().is_some_and(|until| until < after_loss.as_str()), "{until}");
    keepwell.ok(["backup", "db"]);
    switch(&postgres);
    let (level, until) = missing(&keepwell);
    assert_eq!(level, Some("information".into()));
    assert!(until.as_str().is_some_and(|until| until > after_loss.as_str()), "{until}");
}

#[test]
fn a_push_is_taken_once_and_nothing_false_is_taken() {
    let (keepwell, postgres) = archiving();
    keepwell.ok(["backup", "db"]);
    let first = switch(&postgres);
    let file = postgres.data().join("pg_wal").join(&first);
    let copy = keepwell.path(&first);

    let again = keepwell.summary(["wal-push", text(&file)]);
    assert_eq!(again["stored"], false, "{again}");
    let mut bytes = fs::read(&file).expect("the segment is still there");
    bytes[100_000] ^= 1;
    fs::write(&copy, &bytes).expect("written");
    let other = keepwell.run(["wal-push", text(&copy)]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.stderr.contains("in the pool already"), "{other:?}");
    let wrong = keepwell.path("0000000100000000000000F0");
    for (bytes, reason) in [
        (&bytes[..], "another place in the WAL"),
        (&b"short"[..], "no first page"),
        (&[0; 16 << 20][..], "does not begin like WAL"),
    ] {
        fs::write(&wrong, bytes).expect("written");
        let refused = keepwell.run(["wal-push", text(&wrong)]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
    let stranger = Postgres::start(&[]);
    let foreign = stranger.sql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
    let foreign = stranger.data().join("pg_wal").join(foreign);
    let refused = keepwell.run(["wal-push", text(&foreign)]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("it is of cluster"), "{refused:?}");

    let files = wal_files(&keepwell);
    assert!(files.contains(&first) && files.iter().all(|name| !name.ends_with("F0")), "{files:?}");
}

#[test]
fn a_push_waits_for_a_busy_pool_and_never_says_done_before() {
    let (keepwell, postgres) = archiving();
    keepwell.ok(["backup", "db"]);
    let segment = switch(&postgres);
    let folder = keepwell.home().join("state/groups");
    let locks = Locks::new(folder, "a test".to_string());
    let held = locks.take("db.wal", LockMode::Exclusive).expect("nobody pushes now");
    let file = postgres.data().join("pg_wal").join(&segment);

    let refused = keepwell.run(["wal-push", "--wait", "1s", text(&file)]);
    assert_eq!(refused.code, Some(11), "{refused:?}");
    // PostgreSQL tries again and again, and keeps the segment meanwhile.
    postgres.sql("postgres", "create table kept as select 7 as n");
    let next = postgres.sql("postgres", "select pg_walfile_name(pg_switch_wal())");
    drop(held);
    let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    wait_until("it is archived after all", || postgres.sql("postgres", archived) >= next);

    assert!(wal_files(&keepwell).contains(&next));
    let latest = restored(&keepwell, "latest");
    assert_eq!(numbers(&latest), "7");
}

#[test]
fn killed_pushes_lose_nothing_that_was_taken() {
    let (keepwell, postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    keepwell.ok(["backup", "db"]);
    let segments: Vec<PathBuf> = (1..=4)
        .map(|number| {
            insert(&postgres, number);
            postgres.data().join("pg_wal").join(switch(&postgres))
        })
        .collect();
    let all = wal_files(&keepwell);
    // As if all had still to be pushed.
    keepwell.ok(["forget", &wal_point(&keepwell)]);

    for (number, segment) in segments.iter().enumerate() {
        for try_number in 0..6 {
            let mut child = keepwell.start(["wal-push", text(segment)]);
            std::thread::sleep(std::time::Duration::from_millis(10 * (number as u64 + try_number)));
            // Gone already, or not; both must do.
            let _ = child.kill();
            child.wait().expect("it ends");
        }
        keepwell.ok(["wal-push", text(segment)]);
    }

    keepwell.ok(["check", "--read-data"]);
    let pushed = wal_files(&keepwell);
    for segment in &segments {
        let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(all.contains(&name) && pushed.contains(&name), "{name}: {pushed:?}");
    }
    let latest = restored(&keepwell, "latest");
    assert_eq!(numbers(&latest), "1 2 3 4");
}

#[test]
fn wal_is_kept_from_the_oldest_base_on_and_no_longer() {
    let (keepwell, postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    let first = keepwell.summary(["backup", "db"]);
    insert(&postgres, 1);
    let old = switch(&postgres);
    insert(&postgres, 2);
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 3);
    let new = switch(&postgres);

    let both = wal_files(&keepwell);
    assert!(both.contains(&old) && both.contains(&new), "{both:?}");
    keepwell.ok(["forget", first["point"].as_str().expect("a point")]);
    let last = switch(&postgres);
    let one = wal_files(&keepwell);
    assert!(!one.contains(&old) && one.contains(&new) && one.contains(&last), "{one:?}");
    assert_eq!(numbers(&restored(&keepwell, "latest")), "1 2 3");
}

#[test]
fn recovery_follows_the_timeline_of_the_cluster_that_took_over() {
    let (keepwell, mut postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 1);
    switch(&postgres);
    // On the timeline that is left behind.
    insert(&postgres, 2);
    let room = Postgres::room();
    keepwell.ok(["restore", "latest:db", "--to", text(room.data()), "--at", "latest"]);
    postgres.stop();
    let command = archive_command(&keepwell);
    let follower = room.started(&[("archive_mode", "on"), ("archive_command", &command)]);
    configure(&keepwell, &follower);
    assert_eq!(numbers(&follower), "1");
    insert(&follower, 3);
    switch(&follower);

    drop(follower);

    assert_eq!(numbers(&restored(&keepwell, "latest")), "1 3");
    let left = Postgres::room();
    let order = ["restore", "latest:db", "--to", text(left.data()), "--at", "latest"];
    keepwell.ok([&order[..], &["--timeline", "1"]].concat());
    assert_eq!(numbers(&left.started(&[])), "1 2");
}

#[test]
fn base_and_wal_come_back_from_the_vault_as_of_the_last_sync() {
    let (keepwell, postgres) = archiving();
    keepwell.register_vault();
    postgres.sql("postgres", "create table kept (n int)");
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 1);
    switch(&postgres);
    keepwell.ok(["sync", "db"]);
    insert(&postgres, 2);
    switch(&postgres);

    let room = Postgres::room();
    let order = ["restore", "latest:db", "--to", text(room.data()), "--at", "latest"];
    keepwell.ok([&order[..], &["--from", "vault"]].concat());

    assert_eq!(numbers(&room.started(&[])), "1");
    assert_eq!(numbers(&restored(&keepwell, "latest")), "1 2");
}

/// A push after damage once forgot the old point with what could still have been healed.
#[test]
fn a_push_goes_on_beside_a_damaged_pool_and_keeps_what_may_be_healed() {
    let (keepwell, postgres) = archiving();
    postgres.sql("postgres", "create table kept (n int)");
    keepwell.ok(["backup", "db"]);
    insert(&postgres, 1);
    switch(&postgres);
    let old = wal_point(&keepwell);
    let mut packs = Vec::new();
    for folder in fs::read_dir(keepwell.pool().join("packs")).expect("packs").flatten() {
        for pack in fs::read_dir(folder.path()).expect("a folder of packs").flatten() {
            let bytes = fs::read(pack.path()).expect("a pack");
            packs.push((pack.path(), bytes));
        }
    }
    let write = |path: &Path, bytes: &[u8]| {
        let mut file = fs::File::options().write(true).open(path).expect("a pack is a file");
        file.write_all(bytes).expect("written");
    };
    packs.iter().for_each(|(path, bytes)| write(path, &vec![0; bytes.len()]));
    insert(&postgres, 2);
    switch(&postgres);

    let points = keepwell.document(["points", "db"]);
    let points = points["points"].as_array().expect("a list");
    assert!(points.iter().any(|point| point["id"] == old.as_str()), "{points:?}");
    // Healed, as from another copy.
    packs.iter().for_each(|(path, bytes)| write(path, bytes));
    assert_eq!(numbers(&restored(&keepwell, "latest")), "1 2");
}
