//! MariaDB as a data source: a copy made while the server is written to comes back as a server that starts, and its binary logs bring it to a time.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Keepwell, wait_until};
use crate::servers::Mariadb;

pub(crate) fn with_group(keepwell: &Keepwell, source: &str) {
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, format!("{text}\n[group.db]\nsources = [{source}]\n")).expect("written");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

pub(crate) fn replay(server: &Mariadb) {
    let mut script = server.data().as_os_str().to_os_string();
    script.push(".binlogs/replay");
    let output = Command::new(script)
        .arg("--no-defaults")
        .arg(format!("--socket={}", server.socket().display()))
        .arg("--user=root")
        .stdin(Stdio::null())
        .output()
        .expect("the script can be started");
    assert!(output.status.success(), "{output:?}");
}

// Ends the writer, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_made_under_load_restores_to_a_server_that_starts() {
    let keepwell = Keepwell::new();
    let server = Mariadb::start();
    server.sql("create database shop; create table shop.pairs (a int, b int) engine=innodb");
    with_group(&keepwell, &server.source(", dump = [\"shop\"]"));
    let done = AtomicBool::new(false);

    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                // Both rows or none.
                server.sql(&format!(
                    "begin; insert into shop.pairs values ({number}, 1); insert into shop.pairs values ({number}, -1); commit"
                ));
            }
        });
        let _stop = Stop(&done);
        let count = || server.sql("select count(*) from shop.pairs").parse::<u64>().unwrap_or(0);
        wait_until("pairs are made", || count() > 20);
        keepwell.run(["--json", "backup", "db"])
    });
    assert_eq!(made.code, Some(0), "{made:?}");
    let all: u64 = server.sql("select count(*) from shop.pairs").parse().expect("a number");

    let restored = Mariadb::room();
    keepwell.ok(["restore", "latest:db", "--to", text(restored.data()), "--at", "base"]);
    let again =
        keepwell.run(["restore", "latest:db", "--to", text(restored.data()), "--at", "base"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("is not empty"), "{again:?}");
    let restored = restored.started();
    let counts = restored.sql("select count(*), coalesce(sum(b), 0) from shop.pairs");
    let (count, sum) = counts.split_once('\t').expect("two columns");
    let count: u64 = count.parse().expect("a number");
    assert_eq!(sum, "0", "{counts}");
    assert!(count > 20 && count <= all, "{count} {all}");
    assert!(restored.sql("check table shop.pairs").ends_with("OK"));

    let dump = keepwell.command(["dump", "latest:db", "database-shop.sql"]).output();
    let dump = String::from_utf8(dump.expect("it can be started").stdout).expect("text");
    assert!(dump.contains("CREATE TABLE `pairs`") && dump.contains("-- Dump completed"));
}

#[test]
fn binary_logs_bring_a_server_to_a_time_between_two_commits() {
    let keepwell = Keepwell::new();
    let server = Mariadb::start();
    server.sql("create database shop; create table shop.kept (n int) engine=innodb");
    server.sql("insert into shop.kept values (1)");
    with_group(&keepwell, &server.source(", binlog = true"));
    keepwell.ok(["backup", "db"]);
    let second = "select unix_timestamp()";
    let next_second = || {
        let now = server.sql(second);
        wait_until("a second goes by", || server.sql(second) != now);
    };
    // A time counts in whole seconds.
    next_second();
    server.sql("insert into shop.kept values (2)");
    next_second();
    let time = server.sql("select date_format(utc_timestamp(), '%Y-%m-%dT%H:%i:%sZ')");
    server.sql("insert into shop.kept values (3)");
    let first = keepwell.document(["points", "db"])["points"][0]["id"].clone();
    keepwell.ok(["backup", "db"]);
    server.sql("insert into shop.kept values (4)");
    let numbers = "select group_concat(n order by n separator ' ') from shop.kept";

    let restored = Mariadb::room();
    keepwell.ok(["restore", "latest:db", "--to", text(restored.data()), "--at", &time]);
    let restored = restored.started();
    assert_eq!(restored.sql(numbers), "1");
    replay(&restored);
    assert_eq!(restored.sql(numbers), "1 2");
    drop(restored);

    let first = first.as_str().expect("an id");
    let latest = Mariadb::room();
    keepwell.ok(["restore", first, "--to", text(latest.data()), "--at", "latest"]);
    let latest = latest.started();
    replay(&latest);
    assert_eq!(latest.sql(numbers), "1 2 3");

    let room = Mariadb::room();
    let far = keepwell.run([
        "restore",
        "latest:db",
        "--to",
        text(room.data()),
        "--at",
        "2100-01-01T00:00:00Z",
    ]);
    assert_eq!(far.code, Some(1), "{far:?}");
    assert!(far.stderr.contains("binary logs in the pool end"), "{far:?}");
    assert!(!room.data().exists());
}

#[test]
fn a_copy_that_does_not_complete_makes_no_point() {
    let keepwell = Keepwell::new();
    let server = Mariadb::start();
    // Without the rights of a backup it copies much, then fails.
    server.sql("create user weak@localhost");
    with_group(&keepwell, &server.source(", user = \"weak\""));

    let ran = keepwell.run(["backup", "db"]);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("mariadb"), "{ran:?}");
    let points = keepwell.document(["points"]);
    assert_eq!(points["points"].as_array().map(Vec::len), Some(0), "{points}");
}
