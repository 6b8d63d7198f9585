//! Drills of databases: restored, started by their own programs where nobody else reaches them, checked by them, and stopped again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::is_root;
use crate::servers::{Mariadb, Postgres, mariadb, postgres};

/// An order of numbers that an index goes by, and that can be turned round behind its back.
const OWN_ORDER: &str = "\
    create function own_order(int, int) returns int language sql immutable as \
        'select case when $1 < $2 then -1 when $1 > $2 then 1 else 0 end'; \
    create operator class own for type int using btree as operator 1 <, operator 2 <=, \
        operator 3 =, operator 4 >=, operator 5 >, function 1 own_order(int, int); \
    create table numbers (n int); insert into numbers select generate_series(1, 1000); \
    create index by_own on numbers (n own)";
const TURNED_ROUND: &str = "create or replace function own_order(int, int) returns int \
    language sql immutable as 'select case when $1 < $2 then 1 when $1 > $2 then -1 else 0 end'";

fn protect(keepwell: &Keepwell, source: &str) {
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, format!("{text}\n[group.db]\nsources = [{source}]\n")).expect("written");
    keepwell.ok(["backup", "db"]);
}

fn drill(keepwell: &Keepwell, code: i32) -> (Value, Ran) {
    let ran = keepwell.run(["--json", "drill", "db"]);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    let summary = ran.messages().into_iter().rfind(|it| it["message_type"] == "summary");
    (summary.unwrap_or_else(|| panic!("no summary: {ran:?}"))["sources"][0].clone(), ran)
}

fn expect_working(source: &Value, server: &str, check: &str) {
    assert_eq!((&source["verdict"], &source["grade"]), (&"proven".into(), &"working".into()));
    let told = source["check"].as_str().unwrap_or_default();
    assert!(told.contains(server) && told.contains(check), "{source}");
    assert!(source["bytes"].as_u64() > Some(1 << 20), "{source}");
}

/// The servers that run below a folder.
fn servers_below(folder: &Path) -> Vec<String> {
    let processes = Command::new("ps").args(["-ww", "-eo", "args"]).output().expect("ps");
    let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
    let folder = format!("-D {}", folder.display());
    processes.lines().filter(|line| line.contains(&folder)).map(str::to_string).collect()
}

fn expect_nothing_left(keepwell: &Keepwell) {
    let desk = keepwell.home().join("state/drills");
    assert_eq!(fs::read_dir(desk).expect("listed").count(), 0);
}

#[test]
fn a_cluster_is_started_and_checked_by_root_and_one_whose_index_lies_is_not_proven() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    let space = postgres.make_folder("space");
    postgres.sql("postgres", &format!("create tablespace fast location '{}'", space.display()));
    postgres.sql("postgres", "create database shop tablespace fast");
    postgres.sql("shop", OWN_ORDER);
    protect(&keepwell, &postgres.source(""));

    let (sound, _) = drill(&keepwell, 0);
    postgres.sql("shop", TURNED_ROUND);
    keepwell.ok(["backup", "db"]);
    let (lying, told) = drill(&keepwell, 5);

    expect_working(
        &sound,
        "PostgreSQL 15 was started on it: 3 databases",
        "pg_amcheck found nothing",
    );
    assert_eq!(lying["verdict"], "damaged", "{lying}");
    assert!(lying["differences"][0].as_str().is_some_and(|it| it.contains("by_own")), "{lying}");
    assert!(told.stderr.contains("pg_amcheck"), "{told:?}");
    expect_nothing_left(&keepwell);
}

#[test]
fn a_cluster_is_brought_to_the_end_of_its_log_by_its_own_user() {
    let keepwell = Keepwell::of(postgres::account());
    let program = env!("CARGO_BIN_EXE_keepwell");
    let command = format!("{program} --home {} wal-push %p", keepwell.home().display());
    let postgres = Postgres::start(&[("archive_mode", "on"), ("archive_command", &command)]);
    protect(&keepwell, &postgres.source(", wal = true, name = \"main\""));
    postgres.sql("postgres", "create database later");
    let segment = postgres.sql("postgres", "select pg_walfile_name(pg_switch_wal())");
    let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    wait_until("the segment is archived", || postgres.sql("postgres", archived) >= segment);

    let (source, _) = drill(&keepwell, 0);

    // The one that only the log knows of, the usual one and the first template.
    expect_working(&source, "3 databases", "pg_amcheck");
    expect_nothing_left(&keepwell);
}

#[test]
fn the_server_of_a_killed_drill_ends_with_it_and_its_folder_goes_with_the_next() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    protect(&keepwell, &postgres.source(""));
    let place = tempfile::tempdir().expect("a folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path(), open).expect("a mode");
    let folder = place.path().to_str().expect("text");
    let left = || fs::read_dir(place.path()).expect("listed").count();

    let mut drill = keepwell.start(["drill", "db", "--in", folder]);
    wait_until("its server runs", || !servers_below(place.path()).is_empty());
    drill.kill().expect("killed");
    drill.wait().expect("gone");
    wait_until("the server has ended too", || servers_below(place.path()).is_empty());
    let left_behind = left();
    keepwell.ok(["drill", "db"]);

    assert_eq!((left_behind, left()), (1, 0));
    expect_nothing_left(&keepwell);
}

#[test]
fn where_its_server_cannot_run_a_cluster_is_compared_and_graded_lower() {
    if !is_root("a machine without PostgreSQL's programs") {
        return;
    }
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    protect(&keepwell, &postgres.source(""));
    let closed = tempfile::tempdir().expect("a folder of root's alone");
    let alone = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(closed.path(), alone).expect("a mode");
    let inner = keepwell.command(["--json", "drill", "db"]);
    let hide = "mount -t tmpfs none /usr/lib/postgresql && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide]).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(keepwell.path("")).stdin(Stdio::null());

    let without = Ran::of(command.output().expect("unshare"));
    let refused = keepwell.run(["drill", "db", "--in", closed.path().to_str().expect("text")]);

    assert_eq!(without.code, Some(0), "{without:?}");
    let source = without.summary()["sources"][0].clone();
    assert_eq!(
        (&source["grade"], &source["whole"]),
        (&"compared".into(), &true.into()),
        "{source}"
    );
    let check = source["check"].as_str().unwrap_or_default();
    assert!(check.contains("not started: PostgreSQL 15 is not installed here"), "{source}");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("user \"postgres\" may not enter"), "{refused:?}");
    expect_nothing_left(&keepwell);
}

fn mariadb_story(keepwell: &Keepwell) {
    let server = Mariadb::start();
    server.sql("create database shop; create table shop.pairs (a int primary key) engine=innodb");
    server.sql("use shop; insert into pairs select seq from seq_1_to_1000");
    protect(keepwell, &server.source(""));

    let (source, _) = drill(keepwell, 0);

    expect_working(&source, "MariaDB", "mariadb-check found nothing wrong");
    expect_nothing_left(keepwell);
}

#[test]
fn a_mariadb_is_started_and_checked_by_root() {
    mariadb_story(&Keepwell::new());
}

#[test]
fn a_mariadb_is_started_and_checked_by_its_own_user() {
    mariadb_story(&Keepwell::of(mariadb::account()));
}

fn python(script: &str, path: &Path) {
    let run = Command::new("python3").args(["-c", script]).arg(path).stdin(Stdio::null()).status();
    assert!(run.expect("python3 is installed").success());
}

#[test]
fn sqlite_databases_check_themselves() {
    let keepwell = Keepwell::new();
    let path = keepwell.path("shop.db");
    python(
        "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('CREATE TABLE t (n)')\n\
         db.executemany('INSERT INTO t VALUES (?)', [(str(n) * 50,) for n in range(20000)])\ndb.commit()\n",
        &path,
    );
    protect(&keepwell, &format!("{{ sqlite = {{ files = [\"{}\"] }} }}", path.display()));

    let (source, _) = drill(&keepwell, 0);

    expect_working(&source, "SQLite", "found nothing wrong");
    expect_nothing_left(&keepwell);
}
