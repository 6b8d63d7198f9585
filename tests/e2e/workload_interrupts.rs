//! Whoever interrupts a backup waits for nobody: not for a server that stands still, nor for a program that never says anything again.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Keepwell, Ran, wait_until};
use crate::servers::{Mariadb, Postgres};
use crate::tree::Random;

fn with_group(source: &str) -> Keepwell {
    let keepwell = Keepwell::new();
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, format!("{text}\n[group.db]\nsources = [{source}]\n")).expect("written");
    keepwell
}

/// Returns the processes whose command line holds a text, other than the one that backs up.
fn processes_with(text: &str, but: u32) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let ids = entries.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (id != but && words.contains(text)).then(|| Pid::from_raw(id as i32)).flatten()
    });
    ids.collect()
}

/// Asks it to stop as Ctrl-C does, once. It must end by itself, and leave no point.
fn interrupt(keepwell: &Keepwell, child: Child) {
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let ran = ended(child);
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let points = keepwell.document(["points"]);
    assert_eq!(points["points"].as_array().map(Vec::len), Some(0), "{points}");
}

fn ended(mut child: Child) -> Ran {
    wait_until("it ends", || child.try_wait().expect("it is our child").is_some());
    Ran::of(child.wait_with_output().expect("it has ended"))
}

/// Lets a process that was held go on, also when the test fails.
struct Held(Pid);

impl Held {
    fn hold(id: Pid) -> Self {
        kill_process(id, Signal::STOP).expect("it runs");
        Self(id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone, which is what some want.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn pid_of(postgres: &Postgres, backend: &str) -> Option<Pid> {
    let question = format!("select pid from pg_stat_activity where backend_type = '{backend}'");
    postgres.sql("postgres", &question).parse().ok().and_then(Pid::from_raw)
}

#[test]
fn a_program_that_never_ends_is_ended_with_the_backup_and_its_service_resumed() {
    let (mut random, _) = Random::fresh();
    let marker = format!("9{:09}", random.below(1_000_000_000));
    let keepwell = with_group(&format!(
        "{{ command = {{ name = \"crm\", export = {{ \"crm.xml\" = \"echo half; touch ../begun; exec sleep {marker}\" }}, \
         suspend = \"true\", resume = \"true\" }} }}"
    ));
    let begun = keepwell.path("begun");
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, text.replace("../begun", &begun.display().to_string())).expect("written");

    let child = keepwell.start(["backup", "db"]);
    let own = child.id();
    wait_until("the export has begun", || {
        begun.exists() && !processes_with(&marker, own).is_empty()
    });
    interrupt(&keepwell, child);

    wait_until("the program is gone", || processes_with(&marker, own).is_empty());
}

/// The backend that works for a backup.
fn backend(postgres: &Postgres) -> Option<Pid> {
    let question = "select pid from pg_stat_activity where application_name = 'keepwell'";
    postgres.sql("postgres", question).parse().ok().and_then(Pid::from_raw)
}

#[test]
fn a_postgres_that_stands_still_holds_nobody() {
    a_postgres_that_stands_still("files");
}

#[test]
fn a_postgres_that_stands_still_while_it_sends_holds_nobody() {
    a_postgres_that_stands_still("server");
}

fn a_postgres_that_stands_still(read_from: &str) {
    let postgres = Postgres::start(&[]);
    postgres.run("pgbench", &["-i", "-q", "-s", "10", "postgres"]);
    let keepwell = with_group(&postgres.source(&format!(", read_from = \"{read_from}\"")));

    // Before the base begins: it waits for a checkpoint.
    let checkpointer = Held::hold(pid_of(&postgres, "checkpointer").expect("there is one"));
    let child = keepwell.start(["backup", "db"]);
    wait_until("the base is asked for", || backend(&postgres).is_some());
    interrupt(&keepwell, child);
    drop(checkpointer);
    wait_until("nobody backs up any more", || backend(&postgres).is_none());

    // In the middle of it.
    let child = keepwell.start(["backup", "db"]);
    let run = Pid::from_child(&child);
    wait_until("the base is on its way", || backend(&postgres).is_some());
    let reader = Held::hold(run);
    let sender = Held::hold(backend(&postgres).expect("it waits for the reader"));
    drop(reader);
    interrupt(&keepwell, child);
    drop(sender);
}

#[test]
fn a_mariadb_whose_copying_stands_still_holds_nobody() {
    let server = Mariadb::start();
    let keepwell = with_group(&server.source(""));
    let data = format!("--datadir={}", server.data().display());

    let child = keepwell.start(["backup", "db"]);
    let copying = || {
        let all = processes_with("--stream=xbstream", child.id());
        let own = processes_with(&data, child.id());
        all.into_iter().find(|id| own.contains(id))
    };
    wait_until("the copy has begun", || copying().is_some());
    let held = Held::hold(copying().expect("it runs"));
    interrupt(&keepwell, child);

    wait_until("the copying is gone", || rustix::process::test_kill_process(held.0).is_err());
}

/// The server takes the client in and says nothing: the first Ctrl-C did nothing, and the second left the client behind.
#[test]
fn a_mariadb_that_never_answers_holds_nobody_and_leaves_no_client_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let server = UnixListener::bind(&socket).expect("a socket");
    server.set_nonblocking(true).expect("set");
    let keepwell = with_group(&format!("{{ mariadb = {{ socket = \"{}\" }} }}", socket.display()));

    let child = keepwell.start(["backup", "db"]);
    let own = child.id();
    let mut asked = None;
    wait_until("it is asked", || {
        asked = asked.take().or(server.accept().ok());
        asked.is_some()
    });
    let socket = socket.display().to_string();
    let clients = processes_with(&socket, own);
    interrupt(&keepwell, child);

    assert_eq!(clients.len(), 1, "{clients:?}");
    assert!(processes_with(&socket, own).is_empty());
}

#[test]
fn a_table_service_that_never_answers_holds_nobody() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a free port");
    service.set_nonblocking(true).expect("set");
    let address = service.local_addr().expect("it is bound");
    let keepwell = with_group("");
    let key = keepwell.path("key");
    fs::write(&key, "a2V5a2V5a2V5a2V5").expect("written");
    let source = format!(
        "{{ azure-table = {{ account = \"shop\", key_file = \"{}\", endpoint = \"http://{address}/shop\" }} }}",
        key.display()
    );
    let file = keepwell.home().join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("there is a configuration");
    fs::write(&file, text.replace("sources = []", &format!("sources = [{source}]")))
        .expect("written");

    let child = keepwell.start(["backup", "db"]);
    let mut asked = None;
    wait_until("it is asked", || {
        asked = asked.take().or(service.accept().ok());
        asked.is_some()
    });
    interrupt(&keepwell, child);
}
