//! PostgreSQL as a data source: a base that is made while the cluster is written to comes back as a cluster that starts, and what is not sound never
//! counts as a base.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Keepwell, Ran, wait_until};
use crate::servers::Postgres;

/// What pgbench keeps equal in every transaction.
const SUMS: &str = "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history) \
     and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)";

fn with_group(keepwell: &Keepwell, source: &str) {
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, format!("{text}\n[group.db]\nsources = [{source}]\n")).expect("written");
}

fn history(postgres: &Postgres) -> u64 {
    let count = postgres.sql("postgres", "select count(*) from pgbench_history");
    count.parse().expect("a number")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn points(keepwell: &Keepwell) -> Vec<Value> {
    let points = keepwell.document(["points"]);
    points["points"].as_array().expect("a list of points").clone()
}

/// Both ways to a base: its files are read by us, or sent by the server.
const WAYS: [&str; 2] = ["files", "server"];

fn reading(way: &str) -> String {
    format!(", read_from = \"{way}\"")
}

#[test]
fn a_base_read_under_load_restores_to_a_cluster_that_starts_with_its_tablespaces() {
    a_base_made_under_load_restores_to_a_cluster_that_starts("files");
}

#[test]
fn a_base_sent_under_load_restores_to_a_cluster_that_starts_with_its_tablespaces() {
    a_base_made_under_load_restores_to_a_cluster_that_starts("server");
}

fn a_base_made_under_load_restores_to_a_cluster_that_starts(way: &str) {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    let space = postgres.make_folder("space");
    postgres.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    postgres.sql("postgres", &format!("create tablespace fast location '{}'", space.display()));
    postgres.sql("postgres", "create table far (n int) tablespace fast");
    postgres.sql("postgres", "insert into far select generate_series(1, 1000)");
    postgres.sql("postgres", "create unlogged table fleeting as select 1 as n");
    with_group(&keepwell, &postgres.source(&reading(way)));

    let bench = postgres.bench();
    wait_until("transactions are made", || history(&postgres) > 20);
    let before = history(&postgres);
    let made = keepwell.summary(["backup", "db"]);
    drop(bench);
    let after = history(&postgres);
    postgres.sql("postgres", "drop table far");

    assert_eq!(made["problem_count"], 0, "{made}");
    let restored = Postgres::room();
    let moved = restored.data().with_file_name("moved");
    let mapping = format!("{}={}", space.display(), moved.display());
    let order = ["restore", "latest:db", "--to", text(restored.data()), "--at", "base"];
    let unplaced = keepwell.run(order);
    let same = format!("{0}={0}", space.display());
    assert_eq!(unplaced.code, Some(1), "{unplaced:?}");
    assert!(unplaced.stderr.contains(&format!("--tablespace {same}")), "{unplaced:?}");
    let taken = keepwell.run([&order[..], &["--tablespace", &same]].concat());
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.stderr.contains("is not empty"), "{taken:?}");
    let told = keepwell.summary([&order[..], &["--tablespace", &mapping]].concat());
    assert!(told["files"].as_u64() > Some(500), "{told}");
    let restored = restored.started(&[]);

    assert_eq!(restored.sql("postgres", SUMS), "t");
    assert_eq!(restored.sql("postgres", "select count(*) from far"), "1000");
    // It is there, and empty, as after any crash.
    assert_eq!(restored.sql("postgres", "select count(*) from fleeting"), "0");
    let count = history(&restored);
    assert!((before..=after).contains(&count), "{before} {count} {after}");
    restored.sql("postgres", "create extension amcheck");
    restored.run("pg_amcheck", &["--heapallindexed", "postgres"]);
    assert_eq!(restored.sql("postgres", "show data_checksums"), "on");
}

#[test]
fn a_second_base_stores_little_and_the_raw_archives_can_be_had_too() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    postgres.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    with_group(&keepwell, &postgres.source(", name = \"main\", read_from = \"auto\""));
    let file = keepwell.home().join("keepwell.toml");
    let configured = fs::read_to_string(&file).expect("there is a configuration");
    let stored = |way: &str| {
        fs::write(&file, configured.replace("\"auto\"", &format!("\"{way}\""))).expect("written");
        let made = keepwell.summary(["backup", "db"]);
        postgres.sql("postgres", "update pgbench_branches set bbalance = bbalance + 1");
        made["bytes_stored"].as_u64().expect("a number")
    };

    let first = stored("server");
    let same_way = stored("server");
    let other_way = stored("files");
    let other_way_again = stored("files");

    assert!(same_way * 5 < first, "{first} {same_way}");
    assert!(other_way_again * 5 < first, "{first} {other_way_again}");
    // The many small files come in another order; those of pages are cut the same.
    assert!(other_way * 3 < first, "{first} {other_way}");
    let raw = keepwell.path("raw");
    keepwell.ok(["restore", "latest:db", "--to", text(&raw)]);
    let list = std::process::Command::new("tar").arg("-tf").arg(raw.join("0001-base.tar")).output();
    let list = String::from_utf8(list.expect("tar is there").stdout).expect("names are text");
    assert!(list.contains("global/pg_control") && list.contains("backup_label"), "{list}");
    let inventory = fs::read(raw.join("backup_manifest")).expect("the server's list");
    let inventory: Value = serde_json::from_slice(&inventory).expect("JSON");
    assert!(inventory["Files"].as_array().is_some_and(|files| files.len() > 500));
}

/// Starts a backup and holds it while the server waits for it, in the middle of the base. `asked` is what it asked the server for last.
fn held_in_the_middle(keepwell: &Keepwell, postgres: &Postgres, asked: &str) -> Child {
    let query = format!(
        "select count(*) from pg_stat_activity where application_name = 'keepwell' and query like '{asked}%'"
    );
    let is_there = || postgres.sql("postgres", &query) == "1";
    for _ in 0..50 {
        let mut child = keepwell.start(["backup", "db"]);
        let process = Pid::from_child(&child);
        let mut is_over = || child.try_wait().expect("it is our child").is_some();
        while !is_over() && !is_there() {}
        if !is_over() {
            kill_process(process, Signal::STOP).expect("it runs");
            if is_there() {
                return child;
            }
            kill_process(process, Signal::CONT).expect("it still runs");
        }
        // It was quicker than the question.
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        keepwell.ok(["forget", "latest:db"]);
    }
    panic!("it was never found in the middle");
}

#[test]
fn a_backup_whose_server_ends_it_makes_no_point() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    postgres.run("pgbench", &["-i", "-q", "-s", "20", "postgres"]);
    for (way, asked) in WAYS.into_iter().zip(["SELECT pg_catalog.pg_walfile_name", "BASE_BACKUP"]) {
        let text = format!(
            "[pool]\npaths = [\"pool\"]\n[group.db]\nsources = [{}]\n",
            postgres.source(&reading(way))
        );
        fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");

        let child = held_in_the_middle(&keepwell, &postgres, asked);
        let own = "from pg_stat_activity where application_name = 'keepwell'";
        postgres.sql("postgres", &format!("select pg_terminate_backend(pid) {own}"));
        wait_until("the server has ended it", || {
            postgres.sql("postgres", &format!("select count(*) {own}")) == "0"
        });
        kill_process(Pid::from_child(&child), Signal::CONT).expect("it still runs");
        let ran = Ran::of(child.wait_with_output().expect("it ends"));

        assert_eq!(ran.code, Some(1), "{way}: {ran:?}");
        assert!(points(&keepwell).is_empty(), "{way}: {ran:?}");
        // Neither the backup nor what kept its WAL is left behind in the server.
        assert_eq!(postgres.sql("postgres", "select count(*) from pg_replication_slots"), "0");
        let again = keepwell.summary(["backup", "db"]);
        assert_eq!(again["problem_count"], 0, "{way}: {again}");
        keepwell.ok(["forget", "latest:db"]);
    }
}

#[test]
fn a_damaged_page_is_a_problem_that_names_file_and_block() {
    WAYS.into_iter().for_each(a_damaged_page_is_named);
}

fn a_damaged_page_is_named(way: &str) {
    let keepwell = Keepwell::new();
    let mut postgres = Postgres::start(&[]);
    postgres.sql("postgres", "create table t as select generate_series(1, 10000) as n");
    let file = postgres.sql("postgres", "select pg_relation_filepath('t')");
    with_group(&keepwell, &postgres.source(&reading(way)));
    postgres.stop();
    let path = postgres.data().join(&file);
    let relation = File::options().write(true).open(path).expect("the relation is a file");
    relation.write_all_at(b"rot", 3 * 8192 + 5000).expect("written");
    let postgres = postgres.started(&[]);

    let ran = keepwell.run(["--json", "backup", "db"]);
    let told = keepwell.ok(["points", "--problems", "latest:db"]);

    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.summary()["problem_count"], 1, "{ran:?}");
    assert!(told.stdout.contains(&file) && told.stdout.contains("block 3 "), "{told:?}");
    // Nothing is hidden, and everything else is there.
    let restored = Postgres::room();
    keepwell.ok(["restore", "latest:db", "--to", text(restored.data()), "--at", "base"]);
    let restored = restored.started(&[]);
    assert_eq!(restored.sql("postgres", "select count(*) from pg_class where relname = 't'"), "1");
    drop(postgres);
}

#[test]
fn a_cluster_that_should_archive_and_does_not_is_told_at_every_backup() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    with_group(&keepwell, &postgres.source(", wal = true"));

    let ran = keepwell.run(["backup", "db"]);
    let told = keepwell.ok(["points", "--problems", "latest:db"]);
    let status = keepwell.run(["status"]);

    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(told.stdout.contains("archive_mode is off"), "{told:?}");
    assert!(status.stdout.contains("has come yet"), "{status:?}");
}

#[test]
fn a_password_goes_by_scram_and_is_never_told() {
    let keepwell = Keepwell::new();
    let mut postgres = Postgres::start(&[]);
    let role = "create role keepwell login replication password 'planted-password' in role pg_read_all_data";
    postgres.sql("postgres", role);
    postgres.stop();
    let rules = postgres.data().join("pg_hba.conf");
    let others = fs::read_to_string(&rules).expect("initdb writes it");
    let own = "host all,replication keepwell 127.0.0.1/32 scram-sha-256";
    fs::write(&rules, format!("{own}\n{others}")).expect("written");
    let postgres = postgres.started(&[("listen_addresses", "127.0.0.1")]);
    let file = keepwell.path("password");
    fs::write(&file, "planted-password\n").expect("written");
    let rest = ", user = \"keepwell\", dump = true, password_file = ";
    with_group(&keepwell, &postgres.tcp_source(&format!("{rest}\"{}\"", file.display())));

    let made = keepwell.run(["--json", "-vv", "backup", "db"]);
    fs::write(&file, "wrong").expect("written");
    let refused = keepwell.run(["-vv", "backup", "db"]);

    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("password authentication failed"), "{refused:?}");
    for ran in [&made, &refused] {
        assert!(!format!("{ran:?}").contains("planted-password"), "{ran:?}");
    }
    let globals = keepwell.ok(["dump", "latest:db", "globals.sql"]).stdout;
    assert!(globals.contains("CREATE ROLE keepwell"), "{globals}");
}

#[test]
fn one_table_comes_back_out_of_the_dump_of_its_database() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    postgres.sql("postgres", "create database \"it's mine\"");
    postgres
        .sql("it's mine", "create table one as select 1 as n; create table two as select 2 as n");
    with_group(&keepwell, &postgres.source(", physical = false, dump = true"));

    let made = keepwell.summary(["backup", "db"]);
    postgres.sql("it's mine", "drop table one; update two set n = 3");
    let file = keepwell.path("table.dump");
    let listed = keepwell.ok(["ls", "latest:db"]).stdout;
    let name = "database-it%27s%20mine.dump";
    let dump = keepwell.command(["dump", "latest:db", name]).output().expect("it can be started");
    assert!(dump.status.success(), "{dump:?}");
    fs::write(&file, dump.stdout).expect("written");
    postgres.run("pg_restore", &["-t", "one", "-d", "it's mine", text(&file)]);

    assert_eq!(made["problem_count"], 0, "{made}");
    assert!(listed.contains(name) && listed.contains("globals.sql"), "{listed}");
    assert_eq!(postgres.sql("it's mine", "select n from one"), "1");
    assert_eq!(postgres.sql("it's mine", "select n from two"), "3");
}
