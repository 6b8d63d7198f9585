//! SQLite databases in use: copied while somebody writes, found wherever they are, refused when damaged, given back in one transaction.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Keepwell, wait_until, write_files};

/// Commits a transfer between two accounts again and again, so that the sum is the same in every committed state, and never closes the log.
const WRITER: &str = r#"
import sqlite3, sys, os
path, ready = sys.argv[1:]
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA wal_autocheckpoint=50")
db.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, amount INTEGER)")
db.execute("CREATE TABLE IF NOT EXISTS history (n INTEGER PRIMARY KEY, note TEXT)")
db.execute("INSERT OR IGNORE INTO account VALUES (1, 5000), (2, 5000)")
n = 0
while True:
    n += 1
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE account SET amount = amount - ? WHERE id = 1", (n % 7,))
    db.execute("INSERT INTO history (note) VALUES (?)", (os.urandom(200).hex(),))
    db.execute("UPDATE account SET amount = amount + ? WHERE id = 2", (n % 7,))
    db.execute("COMMIT")
    if n == 200:
        open(ready, "w").close()
"#;

struct Writer(Child);

impl Writer {
    fn start(database: &Path, ready: &Path) -> Self {
        let child = Command::new("python3")
            .args(["-c", WRITER])
            .args([database, ready])
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        wait_until("the writer has begun", || ready.exists());
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }
}

/// Asks a database with the independent command line of SQLite.
fn ask(database: &Path, question: &str) -> String {
    let output = Command::new("sqlite3")
        .arg("-cmd")
        .arg(".timeout 60000")
        .arg(database)
        .arg(question)
        .output()
        .expect("sqlite3 is installed");
    assert!(output.status.success(), "{question}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_string()
}

fn is_consistent(database: &Path) -> bool {
    ask(database, "PRAGMA integrity_check") == "ok"
        && ask(database, "SELECT sum(amount) FROM account") == "10000"
}

fn configure(keepwell: &Keepwell, sources: &str) {
    let text = format!("[pool]\npaths = [\"pool\"]\n[group.app]\nsources = {sources}\n");
    fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");
}

#[test]
fn databases_are_found_and_copied_consistently_while_somebody_writes() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("deep/er/note.txt", b"SQLite format 3, says a text")]);
    let database = keepwell.path("srv/deep/app.data");
    let _writer = Writer::start(&database, &keepwell.path("ready"));
    configure(&keepwell, "[{ sqlite = { discover = \"../srv\" } }]");

    for round in 0..3 {
        let made = keepwell.ok(["--json", "backup", "app"]).summary();
        assert_eq!(made["groups"][0]["points"][0]["files"], 1, "{made}");
        let back = keepwell.path(format!("back{round}"));
        keepwell.ok(["restore", "latest:app", "--to", back.to_str().expect("text")]);
        let copy = back.join(database.strip_prefix("/").expect("absolute"));
        assert!(is_consistent(&copy), "round {round}");
        assert!(
            ask(&copy, "SELECT count(*) FROM history").parse::<u64>().expect("a number") >= 200
        );
    }
    let scratch = fs::read_dir(keepwell.home().join("state/scratch")).map(Iterator::count);
    assert_eq!(scratch.unwrap_or_default(), 0, "no copy is left");
}

#[test]
fn a_database_in_use_gets_its_content_back_in_one_transaction_and_a_point_of_it_is_made_first() {
    let keepwell = Keepwell::new();
    let database = keepwell.path("app.db");
    ask(&database, "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('first');");
    configure(&keepwell, "[{ sqlite = { files = [\"../app.db\"] } }]");
    keepwell.ok(["backup", "app"]);
    let points = keepwell.document(["points", "app"]);
    let id = points["points"][0]["id"].as_str().expect("an id");
    ask(&database, "UPDATE t SET x = 'second'");
    let open = rusqlite::Connection::open(&database).expect("it is in use");
    let value =
        || open.query_row("SELECT x FROM t", [], |row| row.get::<_, String>(0)).expect("a row");
    assert_eq!(value(), "second");

    let refused = keepwell.run(["restore", id, "--service"]);
    let restored = keepwell.ok(["--json", "restore", id, "--service", "--replace"]).summary();

    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    assert_eq!(value(), "first", "whoever has it open sees the new content");
    let before = restored["points"][0]["safety_point"].as_str().expect("a point").to_string();
    let second = keepwell.path("second.db");
    let parameter = format!("path={}", second.display());
    keepwell.ok(["restore", &before, "--service", "-p", &parameter]);
    assert_eq!(ask(&second, "SELECT x FROM t"), "second");
}

#[test]
fn a_damaged_database_makes_no_point_and_a_restore_takes_no_log_of_another_for_its_own() {
    let keepwell = Keepwell::new();
    let database = keepwell.path("app.db");
    ask(
        &database,
        "CREATE TABLE t (x); CREATE INDEX i ON t (x); INSERT INTO t SELECT hex(randomblob(500)) FROM generate_series(1, 400);",
    );
    configure(&keepwell, "[{ sqlite = { files = [\"../app.db\"] } }]");
    keepwell.ok(["backup", "app"]);
    let mut bytes = fs::read(&database).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0x5a);
    fs::write(&database, bytes).expect("written");

    let damaged = keepwell.run(["backup", "app"]);
    fs::remove_file(&database).expect("removed");
    fs::write(keepwell.path("app.db-wal"), "of another").expect("written");
    let stale = keepwell.run(["restore", "latest:app", "--service"]);
    fs::remove_file(keepwell.path("app.db-wal")).expect("removed");
    keepwell.ok(["restore", "latest:app", "--service"]);

    assert_eq!(damaged.code, Some(1), "{damaged:?}");
    assert!(damaged.stderr.contains("is damaged"), "{damaged:?}");
    assert_eq!(keepwell.ok(["--json", "points"]).stdout.matches("\"short_id\"").count(), 1);
    assert_eq!(stale.code, Some(6), "{stale:?}");
    assert!(stale.stderr.contains("app.db-wal is left of another"), "{stale:?}");
    assert_eq!(ask(&database, "SELECT count(*) FROM t"), "400");
}

#[test]
fn files_that_are_databases_in_use_are_copied_as_databases_among_others() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a.txt", b"text"), ("fake.db", &[0x20; 1024])]);
    let database = keepwell.path("srv/sub/app.db");
    fs::create_dir_all(keepwell.path("srv/sub")).expect("a folder");
    let _writer = Writer::start(&database, &keepwell.path("ready"));
    configure(&keepwell, "[{ files = [\"../srv\"], sqlite_aware = true }]");

    keepwell.ok(["backup", "app"]);
    let back = keepwell.path("back");
    keepwell.ok(["restore", "latest:app", "--to", back.to_str().expect("text")]);

    assert!(is_consistent(&back.join("sub/app.db")));
    let names: Vec<_> = fs::read_dir(back.join("sub"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with("-shm")), "{names:?}");
    assert_eq!(fs::read(back.join("fake.db")).expect("restored"), [0x20; 1024]);
    assert_eq!(fs::read(back.join("a.txt")).expect("restored"), b"text");
}

#[test]
fn sources_of_a_consistent_group_are_a_set_that_is_whole_or_not_there() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a.txt", b"text")]);
    ask(&keepwell.path("app.db"), "CREATE TABLE t (x); INSERT INTO t VALUES (1);");
    configure(
        &keepwell,
        "[{ files = [\"../srv\"] }, { sqlite = { files = [\"../app.db\"] } }]\nconsistent = true",
    );

    keepwell.ok(["backup", "app"]);
    let back = keepwell.path("back");
    keepwell.ok(["restore", "latest:app", "--set", "--to", back.to_str().expect("text")]);
    let listed = keepwell.document(["points", "--sets"]);
    let shown = keepwell.ok(["points", "--sets"]).stdout;
    fs::write(keepwell.path("srv/a.txt"), b"changed").expect("written");
    ask(&keepwell.path("app.db"), "UPDATE t SET x = 2");
    let refused = keepwell.run(["restore", "latest:app", "--set", "--in-place"]);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert_eq!(fs::read(keepwell.path("srv/a.txt")).expect("there"), b"changed");
    let set = ["restore", "latest:app", "--set"];
    for way in ["--in-place", "--service"] {
        fs::write(keepwell.path("srv/a.txt"), b"changed").expect("written");
        ask(&keepwell.path("app.db"), "UPDATE t SET x = 2");
        let first = listed["points"][0]["id"].as_str().expect("an id");
        keepwell.ok(["restore", first, set[2], way, "--replace"]);
        assert_eq!(fs::read(keepwell.path("srv/a.txt")).expect("there"), b"text", "{way}");
        assert_eq!(ask(&keepwell.path("app.db"), "SELECT x FROM t"), "1", "{way}");
    }
    let sets: Vec<_> =
        listed["points"].as_array().expect("a list").iter().map(|point| &point["set"]).collect();
    assert_eq!(sets.len(), 2, "{listed}");
    assert!(sets[0] == sets[1] && sets[0]["count"] == 2, "{listed}");
    let id = &sets[0]["id"].as_str().expect("an id")[..8];
    assert_eq!(shown.matches(&format!("{id} of 2")).count(), 2, "{shown}");
    let points = || keepwell.ok(["--json", "points"]).stdout.matches("\"short_id\"").count();
    let whole = points();
    fs::write(keepwell.path("app.db"), "no database any more").expect("written");
    let half = keepwell.run(["backup", "app"]);

    let folders: Vec<_> =
        fs::read_dir(&back).expect("a folder").flatten().map(|entry| entry.path()).collect();
    assert_eq!(folders.len(), 2, "{folders:?}");
    assert!(folders.iter().any(|folder| folder.join("a.txt").exists()), "{folders:?}");
    assert_eq!(half.code, Some(1), "{half:?}");
    assert_eq!(points(), whole);
}

/// A set of files and services was told with two summaries, of which a program took the first for the end.
#[test]
fn a_set_of_files_and_a_database_is_one_run_with_one_summary() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a.txt", b"text")]);
    ask(&keepwell.path("app.db"), "CREATE TABLE t (x); INSERT INTO t VALUES (1);");
    configure(
        &keepwell,
        "[{ files = [\"../srv\"] }, { sqlite = { files = [\"../app.db\"] } }]\nconsistent = true",
    );
    keepwell.ok(["backup", "app"]);
    fs::write(keepwell.path("srv/a.txt"), b"changed").expect("written");

    let set = ["--json", "restore", "latest:app", "--set", "--in-place", "--replace"];
    let messages = keepwell.ok(set).messages();

    let summaries: Vec<_> =
        messages.iter().filter(|message| message["message_type"] == "summary").collect();
    let [summary] = summaries.as_slice() else { panic!("{messages:?}") };
    assert_eq!(messages.last(), Some(*summary));
    assert_eq!(summary["files"], 1, "{summary}");
    assert_eq!(summary["targets"].as_array().map(Vec::len), Some(1), "{summary}");
    assert_eq!(summary["points"].as_array().map(Vec::len), Some(1), "{summary}");
    assert_eq!(summary["points"][0]["workload"], "sqlite", "{summary}");
    assert_eq!(fs::read(keepwell.path("srv/a.txt")).expect("there"), b"text");
}

#[test]
fn a_database_goes_back_from_the_vault_too() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("a.txt", b"text")]);
    keepwell.ok(["quickstart", keepwell.path("srv").to_str().expect("text")]);
    let database = keepwell.path("app.db");
    ask(&database, "CREATE TABLE t (x); INSERT INTO t VALUES ('kept');");
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    let group = "[group.app]\nsources = [{ sqlite = { files = [\"../app.db\"] } }]";
    fs::write(&file, format!("{text}\n{group}\n")).expect("written");

    keepwell.ok(["backup", "app"]);
    fs::remove_file(&database).expect("removed");
    keepwell.ok(["restore", "latest:app", "--from", "vault", "--service"]);

    assert_eq!(ask(&database, "SELECT x FROM t"), "kept");
}
