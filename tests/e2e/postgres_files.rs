//! Files of a cluster that are read by us: the same that the server itself would send, and never those of another server.

use std::collections::BTreeMap;
use std::fs;
use std::io::copy;
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Keepwell, Ran};
use crate::servers::Postgres;
use crate::servers::postgres::program;

fn configure(keepwell: &Keepwell, source: &str) {
    let text = format!("[pool]\npaths = [\"pool\"]\n[group.db]\nsources = [{source}]\n");
    fs::write(keepwell.home().join("keepwell.toml"), text).expect("written");
}

/// Writes the configuration with one source and makes a point of it.
fn backup(keepwell: &Keepwell, source: &str) -> Ran {
    configure(keepwell, source);
    keepwell.run(["--json", "-v", "backup", "db"])
}

fn read_by(way: &str) -> String {
    format!(", name = \"main\", read_from = \"{way}\"")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn unpack(archive: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder).status();
    assert!(status.expect("tar is there").success(), "{}", archive.display());
}

/// Lays a base out as `pg_basebackup` would, and has PostgreSQL's own program verify it: every file by length and checksum, none too many, and its WAL.
/// Returns the files by name, with length and checksum.
fn verified(keepwell: &Keepwell, way: &str) -> BTreeMap<String, (u64, String)> {
    let raw = keepwell.path(format!("raw-{way}"));
    keepwell.ok(["restore", "latest:db", "--to", text(&raw)]);
    let whole = keepwell.path(format!("whole-{way}"));
    for entry in fs::read_dir(&raw).expect("listed") {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        let Some(archive) = name.strip_suffix(".tar") else { continue };
        match archive.split_once("tablespace-") {
            None => unpack(&raw.join(&name), &whole),
            Some((_, oid)) => {
                let space = keepwell.path(format!("space-{way}-{oid}"));
                unpack(&raw.join(&name), &space);
                let links = whole.join("pg_tblspc");
                fs::create_dir_all(&links).expect("a folder");
                symlink(&space, links.join(oid)).expect("a link");
            }
        }
    }
    let list = fs::read(raw.join("backup_manifest")).expect("the list");
    fs::write(whole.join("backup_manifest"), &list).expect("written");

    let output = Command::new(program("pg_verifybackup")).arg("-e").arg(&whole).output();
    let output = output.expect("it can be started");
    assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));

    let list: Value = serde_json::from_slice(&list).expect("JSON");
    let file = |file: &Value| {
        let text = |name: &str| file[name].as_str().unwrap_or_default().to_string();
        (text("Path"), (file["Size"].as_u64().expect("a length"), text("Checksum")))
    };
    list["Files"].as_array().expect("files").iter().map(file).collect()
}

/// A cluster with whatever a base has to leave out, or has to follow.
fn strange() -> Postgres {
    let mut postgres = Postgres::start(&[("autovacuum", "off")]);
    let space = postgres.make_folder("space");
    postgres.sql("postgres", &format!("create tablespace fast location '{}'", space.display()));
    postgres
        .sql("postgres", "create table far tablespace fast as select generate_series(1, 5000) n");
    // Inside the data directory, which the server warns of and does.
    let inner = postgres.data().join("inner");
    fs::create_dir(&inner).expect("a folder");
    postgres.give(&inner);
    postgres
        .sql("postgres", &format!("create tablespace inner_one location '{}'", inner.display()));
    postgres.sql("postgres", "create table nearby tablespace inner_one as select 1 as n");
    postgres.sql("postgres", "create unlogged table fleeting as select generate_series(1, 5000) n");
    postgres.sql("postgres", "create unlogged table far_fleeting (n int) tablespace fast");
    postgres.sql("postgres", "create database other");
    postgres.sql("other", "create table kept as select generate_series(1, 100000) n");
    postgres.sql("other", "vacuum kept");
    let base = postgres.sql("other", "select oid from pg_database where datname = 'other'");
    postgres.sql("postgres", "checkpoint");
    // Its WAL on another disk.
    postgres.stop();
    let data = postgres.data().to_path_buf();
    let wal = data.with_file_name("wal");
    fs::rename(data.join("pg_wal"), &wal).expect("moved");
    symlink(&wal, data.join("pg_wal")).expect("a link");
    let postgres = postgres.started(&[("autovacuum", "off")]);
    // Only now: it tidies up when it starts.
    let folder = data.join("base").join(base);
    for name in
        ["t3_99990", "t3_99990_fsm.1", "pgsql_tmp77.1", "pg_internal.init.5", "99991", "99991.1"]
    {
        fs::write(folder.join(name), vec![1; 9000]).expect("written");
        postgres.give(&folder.join(name));
    }
    fs::create_dir(data.join("own")).expect("a folder");
    let long = format!("own/{}", "n".repeat(90));
    for name in
        ["backup_label.old", "postgresql.auto.conf.tmp", "pg_replslot/leftover", "own/empty", &long]
    {
        fs::write(data.join(name), name).expect("written");
        postgres.give(&data.join(name));
    }
    postgres.give(&data.join("own"));
    symlink("/etc/hostname", data.join("a-link")).expect("a link");
    postgres
}

#[test]
fn what_is_read_is_what_the_server_would_send() {
    let keepwell = Keepwell::new();
    let postgres = strange();

    let mut lists = Vec::new();
    for way in ["server", "files"] {
        let ran = backup(&keepwell, &postgres.source(&read_by(way)));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        lists.push(verified(&keepwell, way));
    }

    // Each has its own range of WAL, and so marks of its own.
    for list in &mut lists {
        list.retain(|name, _| !name.starts_with("pg_wal/archive_status/"));
    }
    let [sent, read] = &lists[..] else { panic!("two ways") };
    let only = |one: &BTreeMap<String, _>, other: &BTreeMap<String, _>| -> Vec<String> {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    assert_eq!((only(read, sent), only(sent, read)), (Vec::new(), Vec::new()));
    assert!(read.len() > 900, "{}", read.len());
    // Each begins with a checkpoint of its own, which these tell.
    let changing = ["backup_label", "global/pg_control"];
    for (name, file) in sent.iter().filter(|(name, _)| !changing.contains(&name.as_str())) {
        assert_eq!(&read[name], file, "{name}");
    }
    for left_out in ["t3_99990", "pgsql_tmp", "pg_internal", "auto.conf.tmp", "leftover", "a-link"]
    {
        assert!(!read.keys().any(|name| name.contains(left_out)), "{left_out}");
    }
    // Numbers without a catalog entry are nobody's, but the server keeps them.
    assert!(read.keys().any(|name| name.ends_with("/99991.1")));
}

/// Somebody in between, as a pool of connections or a container is: at the other end of the socket is not the server.
fn relay(from: &Path, to: &Path) {
    let listener = UnixListener::bind(from).expect("a socket");
    let to = to.to_path_buf();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.expect("a client"), UnixStream::connect(&to));
            let server = server.expect("the server listens");
            let both = |stream: &UnixStream| stream.try_clone().expect("a second one");
            for (mut from, mut to) in [(both(&client), both(&server)), (server, client)] {
                std::thread::spawn(move || {
                    let _ = copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn files_that_may_be_another_servers_are_not_read() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    postgres.sql("postgres", "create role limited login replication");
    let sockets = keepwell.path("sockets");
    fs::create_dir(&sockets).expect("a folder");
    let own = fs::read_dir(postgres.sockets()).expect("listed").flatten();
    let own = own
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end != "lock"));
    let own = own.expect("it listens");
    relay(&sockets.join(own.file_name().expect("a name")), &own);
    let direct = postgres.source("");
    let through = direct.replace(text(&postgres.sockets()), text(&sockets));
    let with = |source: &str, rest: &str| source.replace(" } }", &format!("{rest} }} }}"));

    for (source, why) in [
        (with(&through, ", name = \"main\""), "is not the data directory of process"),
        (with(&direct, ", name = \"main\", user = \"limited\""), "pg_read_all_settings"),
    ] {
        let refused = backup(&keepwell, &with(&source, ", read_from = \"files\""));
        let sent = backup(&keepwell, &source);

        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
        assert_eq!(sent.code, Some(0), "{sent:?}");
        assert!(sent.stderr.contains("the server reads its files itself"), "{sent:?}");
        assert!(sent.stderr.contains(why), "{sent:?}");
    }
    let doctor = keepwell.run(["doctor"]);
    assert!(doctor.stdout.contains("it sends its files itself"), "{doctor:?}");

    // What docs/workloads/postgres.md says such a role needs.
    postgres.sql("postgres", "grant pg_read_all_settings to limited");
    let functions = "pg_backup_start(text, bool), pg_backup_stop(bool)";
    postgres.sql("postgres", &format!("grant execute on function {functions} to limited"));
    let source = with(&direct, ", name = \"main\", user = \"limited\", read_from = \"files\"");
    let read = backup(&keepwell, &source);
    assert_eq!(read.code, Some(0), "{read:?}");
}

/// Runs it where `copy` is seen in the place of `data`, as in a container that has a snapshot.
fn run_beside(keepwell: &Keepwell, copy: &Path, data: &Path) -> Ran {
    let own = keepwell.command(["-v", "backup", "db"]);
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
    command.args(["sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]);
    command.arg(copy).arg(data).arg(own.get_program()).args(own.get_args());
    Ran::of(command.output().expect("unshare is there"))
}

/// A copy has the server's path, its number in `postmaster.pid` and its system identifier.
#[test]
fn a_copy_of_the_files_is_never_taken_for_them() {
    let keepwell = Keepwell::new();
    let postgres = Postgres::start(&[]);
    let copy = postgres.data().with_file_name("copy");
    let copied = Command::new("cp").arg("-a").arg(postgres.data()).arg(&copy).status();
    assert!(copied.expect("cp is there").success());
    postgres.sql("postgres", "create table later as select 1 as n");

    configure(&keepwell, &postgres.source(&read_by("files")));
    let refused = run_beside(&keepwell, &copy, postgres.data());
    configure(&keepwell, &postgres.source(&read_by("auto")));
    let sent = run_beside(&keepwell, &copy, postgres.data());

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("a copy that the server does not write to"), "{refused:?}");
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.stderr.contains("the server reads its files itself"), "{sent:?}");
    let restored = Postgres::room();
    keepwell.ok(["restore", "latest:db", "--to", text(restored.data()), "--at", "base"]);
    assert_eq!(restored.started(&[]).sql("postgres", "select n from later"), "1");
}
