//! MySQL as a data source: its databases are dumped while it is written to, one by one or all together with the binary logs, and come back as they were at
//! one moment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Keepwell, Ran, wait_until};
use crate::home::SEARCH_PATH;
use crate::mariadb::{text, with_group};
use crate::mariadb_faults::{hold_in_the_middle, points};
use crate::servers::mariadb::Door;
use crate::servers::{Mariadb, Mysql};

/// Tables that one transaction changes together, and whatever else a database can have.
const SHOP: &str = "create database shop; use shop; \
    create table kept (n int primary key) engine=innodb; \
    create table pairs (n int, b int) engine=innodb; \
    create table tally (total int) engine=innodb; insert into tally values (0); \
    create table made (n int, twice int generated always as (2 * n) stored, j json) engine=innodb; insert into made (n, j) values (21, '[1]'); \
    create table bytes (b blob) engine=innodb; insert into bytes values (0x00ff270a0d5c); \
    create view sums as select n, sum(b) as s from pairs group by n; \
    create trigger counted after insert on kept for each row update tally set total = total + 1; \
    create procedure largest() select max(n) from kept; \
    create event nightly on schedule every 1 day do delete from pairs where n < 0";
/// `N 2N 0 N` when everything up to the number N is there and nothing else is.
const STATE: &str = "select concat_ws(' ', \
    (select if(count(*) = coalesce(max(n), 0), count(*), 'gap') from shop.kept), \
    (select count(*) from shop.pairs), (select coalesce(sum(b), 0) from shop.pairs), (select total from shop.tally))";
/// What `docs/workloads/mariadb.md` says is needed.
const RIGHTS: &str = "create user keepwell@localhost; \
    grant reload, process, lock tables, replication client, select, show view, trigger, event on *.* to keepwell@localhost";

/// Commits one number after the other, each with its pair, through every crash of the server.
#[derive(Default)]
struct Oracle {
    committed: AtomicU64,
    done: AtomicBool,
}

impl Oracle {
    fn write(&self, server: &Door) {
        let mut number: u64 = 1;
        while !self.done.load(Ordering::Relaxed) {
            let one = format!(
                "begin; insert into shop.kept values ({number}); insert into shop.pairs values ({number}, 1), ({number}, -1); commit"
            );
            if server.answer(&one).is_none() {
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

// Loads the dump of the shop into a fresh server and returns the number up to which everything is there.
fn moment_of(keepwell: &Keepwell, point: &str, from: &str) -> (Mysql, u64) {
    let script = dumped(keepwell, &[point, "database-shop.sql", "--from", from]);
    let fresh = Mysql::start();
    fresh.sql("create database shop");
    let script = File::open(script).expect("it was written");
    let mut client = Command::new(Mysql::programs().join("mysql"));
    client.args(["--no-defaults", "--user=root", "shop"]);
    client.arg(format!("--socket={}", fresh.socket().display())).stdin(script);
    let loaded = client.output().expect("mysql can be started");
    assert!(loaded.status.success(), "{loaded:?}");
    let number = whole_state(&fresh.door());
    (fresh, number)
}

fn whole_state(server: &Door) -> u64 {
    let state = server.sql(STATE);
    let number: u64 = state.split(' ').next().and_then(|n| n.parse().ok()).expect(&state);
    assert_eq!(state, format!("{number} {} 0 {number}", 2 * number), "not of one moment");
    number
}

fn dumped(keepwell: &Keepwell, what: &[&str]) -> PathBuf {
    let script = keepwell.path("dumped.sql");
    let output = File::create(&script).expect("a file");
    let status = keepwell.command([&["dump"][..], what].concat()).stdout(output).status();
    assert!(status.expect("it can be started").success(), "{what:?}");
    script
}

// Has a restored dump and the logs with it loaded into a server.
fn load(folder: &Path, socket: &Path) {
    let output = Command::new(folder.join("replay"))
        .env("PATH", format!("{}:{SEARCH_PATH}", Mysql::programs().display()))
        .args(["--no-defaults", &format!("--socket={}", socket.display()), "--user=root"])
        .stdin(Stdio::null())
        .output()
        .expect("the script can be started");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_dump_of_mysql_made_under_load_is_of_one_moment_and_has_everything() {
    let keepwell = Keepwell::new();
    let server = Mysql::start();
    server.sql(SHOP);
    server.sql(RIGHTS);
    with_group(&keepwell, &server.source(", user = \"keepwell\", physical = false, dump = true"));
    let oracle = Oracle::default();
    let door = server.door();

    let expected = std::thread::scope(|scope| {
        scope.spawn(|| oracle.write(&door));
        let _stop = Stop(&oracle);
        wait_until("numbers are committed", || oracle.committed() > 20);
        let before = oracle.committed();
        keepwell.ok(["backup", "db"]);
        // One more may have been committed without an answer yet.
        before..=oracle.committed() + 1
    });

    let (fresh, number) = moment_of(&keepwell, "latest:db", "pool");
    assert!(expected.contains(&number), "{number} of {expected:?}");
    assert_eq!(fresh.sql("select hex(b) from shop.bytes"), "00FF270A0D5C");
    assert_eq!(fresh.sql("call shop.largest()"), number.to_string());
    assert_eq!(fresh.sql("select count(*), sum(s) from shop.sums"), format!("{number}\t0"));
    assert_eq!(fresh.sql("select twice, j from shop.made"), "42\t[1]");
    let event = "select event_name from information_schema.events where event_schema = 'shop'";
    assert_eq!(fresh.sql(event), "nightly");
    // The trigger is there once: it did not count while the rows were loaded, and does now.
    fresh.sql(&format!("insert into shop.kept values ({})", number + 1));
    assert_eq!(fresh.sql("select total from shop.tally"), (number + 1).to_string());

    let script = fs::read_to_string(keepwell.path("dumped.sql")).expect("text");
    assert!(script.contains("SOURCE_LOG_FILE='bin.0"), "no place in the log");
    let users = dumped(&keepwell, &["latest:db", "database-mysql.sql"]);
    assert!(fs::read_to_string(users).expect("text").contains("keepwell"), "no accounts");
}

#[test]
fn a_dump_of_mysql_and_its_binary_logs_come_back_to_a_time() {
    let (server, fresh, latest) = (Mysql::start(), Mysql::start(), Mysql::start());
    come_back(
        &server.door(),
        &server.source(TOGETHER),
        [(fresh.door(), fresh.socket()), (latest.door(), latest.socket())],
    );
}

#[test]
fn a_dump_of_mariadb_and_its_binary_logs_come_back_to_a_time() {
    let (server, fresh, latest) = (Mariadb::start(), Mariadb::start(), Mariadb::start());
    come_back(
        &server.door(),
        &server.source(TOGETHER),
        [(fresh.door(), fresh.socket()), (latest.door(), latest.socket())],
    );
}

const TOGETHER: &str = ", physical = false, dump = true, binlog = true";

// Two databases that are changed together, and an account that comes later than the dump.
fn come_back(server: &Door, source: &str, [fresh, latest]: [(Door, PathBuf); 2]) {
    let keepwell = Keepwell::new();
    let both = |number: u32| {
        server.sql(&format!(
            "begin; insert into shop.kept values ({number}); insert into stock.kept values ({number}); commit"
        ));
    };
    for name in ["shop", "stock"] {
        server.sql(&format!(
            "create database {name}; create table {name}.kept (n int) engine=innodb"
        ));
    }
    server.sql("create user early@localhost identified by 'Early-1234'");
    both(1);
    with_group(&keepwell, source);
    keepwell.ok(["backup", "db"]);
    let next_second = || {
        let now = server.sql("select unix_timestamp()");
        wait_until("a second goes by", || server.sql("select unix_timestamp()") != now);
    };
    // A time counts in whole seconds.
    next_second();
    both(2);
    server.sql("create user late@localhost identified by 'Late-12345'; drop user early@localhost");
    // Named from elsewhere: only a replay of everything has it.
    server.sql(
        "use stock; create table shop.more (n int) engine=innodb; insert into shop.more values (7)",
    );
    next_second();
    let time = server.sql("select date_format(utc_timestamp(), '%Y-%m-%dT%H:%i:%sZ')");
    both(3);
    keepwell.ok(["backup", "db"]);
    both(4);
    let first = keepwell.document(["points", "db"])["points"][0]["id"].clone();
    let first = first.as_str().expect("an id");
    let numbers = "select (select group_concat(n order by n separator ' ') from shop.kept), \
                   (select group_concat(n order by n separator ' ') from stock.kept), (select sum(n) from shop.more)";

    let folder = keepwell.path("restored");
    keepwell.ok(["restore", "latest:db", "--to", text(&folder), "--at", &time]);
    load(&folder, &fresh.1);
    assert_eq!(fresh.0.sql(numbers), "1 2\t1 2\t7");
    let users = "select group_concat(user) from mysql.user where user in ('early', 'late')";
    assert_eq!(fresh.0.sql(users), "late");

    let folder = keepwell.path("latest");
    keepwell.ok(["restore", first, "--to", text(&folder), "--at", "latest"]);
    load(&folder, &latest.1);
    assert_eq!(latest.0.sql(numbers), "1 2 3\t1 2 3\t7");

    let folder = keepwell.path("base");
    keepwell.ok(["restore", first, "--to", text(&folder), "--at", "base"]);
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["databases.sql", "replay"]);
}

#[test]
fn a_physical_copy_of_mysql_is_refused_before_anything_is_copied() {
    let keepwell = Keepwell::new();
    let server = Mysql::start();
    with_group(&keepwell, &server.source(""));

    let ran = keepwell.run(["backup", "db"]);
    let doctor = keepwell.run(["doctor"]);
    let found = keepwell.document(["discover", "--all", "--least", "1000G"]);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("is MySQL 9.7.4"), "{ran:?}");
    assert!(ran.stderr.contains("hint: set physical = false"), "{ran:?}");
    assert!(doctor.stdout.contains("copies MariaDB only"), "{doctor:?}");
    let socket = server.socket();
    let found = found["found"].as_array().expect("a list");
    let it = found.iter().find(|one| one["place"] == text(&socket)).expect("it is found");
    assert_eq!(it["kind"], "mysql", "{it}");
    assert_eq!(it["protection"], "protected", "{it}");
    assert!(points(&keepwell).is_empty());
}

#[test]
fn a_dump_of_mysql_by_mariadbs_program_is_refused_before_anything_is_dumped() {
    let keepwell = Keepwell::new();
    let server = Mysql::start();
    server.sql(SHOP);
    // Then the program of this name is the one of Debian's package of MariaDB.
    let own = Mysql::programs();
    let source = server.source(", physical = false, dump = true").replace(text(&own), "/nowhere");
    with_group(&keepwell, &source);

    let ran = keepwell.run(["backup", "db"]);

    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("is dumped by its own mysqldump only"), "{ran:?}");
    assert!(ran.stderr.contains("hint: install MySQL's own client programs"), "{ran:?}");
    assert!(points(&keepwell).is_empty());
}

#[test]
fn a_dump_of_mysql_whose_server_or_agent_is_killed_makes_no_point_and_the_next_one_is_whole() {
    let keepwell = Keepwell::new();
    let mut server = Mysql::start();
    server.sql(SHOP);
    // More than what pipes and buffers hold, so that the program is in the middle for certain.
    server.sql("use shop; create table bulk (t longblob) engine=innodb; insert into bulk values (repeat(sha2('k', 256), 5000))");
    for _ in 0..6 {
        server.sql("insert into shop.bulk select t from shop.bulk");
    }
    with_group(&keepwell, &server.source(", physical = false, dump = [\"shop\"]"));
    let oracle = Oracle::default();
    let door = server.door();

    let (point, expected) = std::thread::scope(|scope| {
        scope.spawn(|| oracle.write(&door));
        let _stop = Stop(&oracle);
        for kills_server in [true, false] {
            let child = keepwell.start(["--json", "backup", "db"]);
            let run = Pid::from_child(&child);
            hold_in_the_middle(run, "--single-transaction");
            if kills_server {
                server.kill();
                kill_process(run, Signal::CONT).expect("it still runs");
            } else {
                kill_process(run, Signal::KILL).expect("it still runs");
            }
            let ran = Ran::of(child.wait_with_output().expect("it ends"));
            if kills_server {
                assert_eq!(ran.code, Some(1), "{ran:?}");
                server.start_server();
            }
            assert!(points(&keepwell).is_empty(), "{ran:?}");
        }
        wait_until("numbers are committed", || oracle.committed() > 3);
        let before = oracle.committed();
        let summary = keepwell.summary(["backup", "db"]);
        let point = summary["point"].as_str().expect("an id").to_string();
        (point, before..=oracle.committed() + 1)
    });

    keepwell.ok(["check", "--read-data"]);
    keepwell.register_vault();
    keepwell.ok(["sync", "db"]);
    for copy in ["pool", "vault"] {
        let (fresh, number) = moment_of(&keepwell, &point, copy);
        assert!(expected.contains(&number), "{number} of {expected:?} from the {copy}");
        assert_eq!(fresh.sql("select count(*), min(length(t)) from shop.bulk"), "64\t320000");
    }
}
