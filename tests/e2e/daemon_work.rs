//! Work that the command line leaves to the daemon: maintenance and restores, shown live, left and found again; and how gently the daemon's jobs run.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, configure, jobs, states};
use crate::harness::{Keepwell, picture, wait_until, write_files};
use crate::home::is_root;
use crate::terminal::Terminal;

fn protected() -> Keepwell {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1"), ("sub/two", b"22")]);
    keepwell.ok(["quickstart", keepwell.path("srv").to_str().expect("text")]);
    keepwell
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn maintenance_and_restores_by_hand_are_jobs_of_the_daemon() {
    let keepwell = protected();
    configure(
        &keepwell,
        "[group.few]\nsources = [{ files = [\"../srv\"] }]\nretention = { last = 1 }\n",
    );
    let _daemon = Daemon::start(&keepwell);
    let back = keepwell.path("back");

    keepwell.ok(["prune", "-n"]);
    let check = keepwell.summary(["check", "--read-data"]);
    let vault = keepwell.ok(["check", "--vault"]);
    keepwell.ok(["prune"]);
    keepwell.ok(["prune", "--vault"]);
    let forgotten = keepwell.ok(["forget"]);
    let restored = keepwell.ok(["restore", "latest", "--to", "back", "--exclude", "two"]);
    let detached = keepwell.document(["check", "--detach"]);
    let attached = keepwell.ok(["jobs", "attach", &detached["jobs"][0].to_string()]);

    assert_eq!((&check["sound"], &check["points_checked"]), (&true.into(), &1.into()), "{check}");
    assert!(vault.stdout.contains("check --vault=main: 1 point, no damage found"), "{vault:?}");
    assert!(forgotten.stdout.contains("0 points forgotten"), "{forgotten:?}");
    assert!(restored.stdout.contains("restored 1 file"), "{restored:?}");
    assert!(attached.stdout.contains("no damage found"), "{attached:?}");
    assert_eq!(fs::read(back.join("one")).expect("restored"), b"1");
    assert!(!back.join("sub/two").exists());
    let by_hand: Vec<_> = jobs(&keepwell)
        .into_iter()
        .filter(|job| job["request"].is_string())
        .map(|job| {
            format!(
                "{} {}",
                job["task"].as_str().unwrap_or("?"),
                job["state"].as_str().unwrap_or("?")
            )
        })
        .collect();
    // The newest first; a plan is no job.
    assert_eq!(
        by_hand,
        [
            "check done",
            "restore latest done",
            "forget done",
            "prune --vault=main done",
            "prune done",
            "check --vault=main done",
            "check done",
        ]
    );
}

#[test]
fn damage_that_a_job_finds_ends_the_command_as_if_it_had_looked_itself() {
    let keepwell = protected();
    let _daemon = Daemon::start(&keepwell);
    let packs = picture(&keepwell.pool());
    let packs = packs.keys().map(|path| keepwell.pool().join(path));
    for pack in packs.filter(|path| path.extension().is_some_and(|it| it == "pack")) {
        fs::remove_file(pack).expect("removed");
    }

    let found = keepwell.run(["check"]);
    let wrong = keepwell.run(["check", "--vault=nowhere"]);
    let none = keepwell.run(["restore", "no-such-point", "--to", "back"]);

    assert_eq!(found.code, Some(5), "{found:?}");
    assert!(found.stderr.contains("1 point cannot be restored completely"), "{found:?}");
    assert!(found.stderr.contains("hint: run \"keepwell repair\""), "{found:?}");
    assert_eq!((wrong.code, none.code), (Some(2), Some(1)), "{wrong:?} {none:?}");
    assert!(wrong.stderr.contains("no [vault.nowhere]"), "{wrong:?}");
    assert!(none.stderr.contains("no-such-point"), "{none:?}");
    let alerts = keepwell.document(["alerts"])["alerts"].clone();
    assert_eq!(
        (&alerts[0]["key"], &alerts[0]["level"]),
        (&"damage check".into(), &"critical".into())
    );
}

#[test]
fn where_the_service_may_not_write_the_command_restores_itself() {
    if !is_root("a folder that the daemon sees read-only") {
        return;
    }
    let keepwell = protected();
    let folder = keepwell.path("system");
    fs::create_dir(&folder).expect("a folder");
    // As ProtectSystem= of systemd does it.
    let inner = keepwell.command(["daemon"]);
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&folder).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(keepwell.path("")).stdin(Stdio::null());
    let _daemon = Daemon::start_command(command);
    let target = folder.join("back");

    keepwell.ok(["restore", "latest", "--to", text(&target)]);
    let left = keepwell.run(["restore", "latest", "--to", text(&target), "--detach"]);

    assert_eq!(fs::read(target.join("one")).expect("restored"), b"1");
    assert!(states(&keepwell, "restore latest").is_empty());
    assert_eq!(left.code, Some(1), "{left:?}");
    assert!(left.stderr.contains("may not write"), "{left:?}");
}

#[test]
fn at_a_terminal_a_job_is_watched_left_with_ctrl_c_and_watched_again() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    let (go, began) = (keepwell.path("go"), keepwell.path("began"));
    let before =
        format!("touch {}; while ! test -e {}; do sleep 0.05; done", began.display(), go.display());
    configure(
        &keepwell,
        &format!(
            "[group.web]\nsources = [{{ files = [\"../srv\"] }}]\nhooks = {{ before = \"{before}\" }}\n"
        ),
    );
    let _daemon = Daemon::start(&keepwell);

    let terminal = Terminal::start(&keepwell.command(["backup", "web"]));
    terminal.wait_for("[0:0");
    wait_until("it runs", || began.exists());
    terminal.interrupt();
    let left = terminal.ended(130);
    let job = jobs(&keepwell)[0]["id"].to_string();
    let again = Terminal::start(&keepwell.command(["jobs", "attach", &job]));
    again.wait_for("[0:0");
    fs::write(&go, "").expect("written");
    let ended = again.ended(0);

    assert!(left.contains(&format!("keepwell jobs attach {job}")), "{left}");
    assert!(ended.contains("in group \"web\": 1 file, 1 B looked at"), "{ended}");
    assert_eq!(states(&keepwell, "backup web"), ["done"]);
}

fn niceness(process: &str) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[16].parse().expect("a number")
}

#[test]
fn jobs_are_nice_to_the_machine_and_stay_within_their_memory() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    let said = keepwell.path("said");
    // A hook is a child of the job and inherits what the job may take.
    let greedy = "python3 -c 'x = bytearray(600 << 20)' 2> /dev/null && echo more || echo bounded";
    configure(
        &keepwell,
        &format!(
            "[daemon]\nnice = 13\nio = \"idle\"\nmemory = \"512M\"\n\
             [group.web]\nsources = [{{ files = [\"../srv\"] }}]\nschedule = \"24h\"\n\
             hooks = {{ before = \"\"\"(nice; ionice; ulimit -d; {greedy}) > {}\"\"\" }}\n",
            said.display(),
        ),
    );

    let daemon = Daemon::start(&keepwell);
    wait_until("it is backed up", || states(&keepwell, "backup web") == ["done"]);

    let said = fs::read_to_string(&said).expect("said");
    // The tests themselves may be nice already; the daemon answers as quickly as ever.
    let own = niceness("self");
    let nice = (own + 13).min(19).to_string();
    assert_eq!(said.lines().collect::<Vec<_>>(), [nice.as_str(), "idle", "524288", "bounded"]);
    assert_eq!(niceness(&daemon.pid().as_raw_nonzero().to_string()), own);
}

#[test]
fn status_takes_less_than_a_tenth_of_a_second_with_many_points_and_a_long_history() {
    const GROUPS: usize = 8;
    const RUNS: usize = 12;
    let keepwell = Keepwell::in_memory();
    keepwell.ok(["init"]);
    let mut text = String::new();
    for number in 0..GROUPS {
        let name = format!("srv{number}");
        let noise = crate::harness::noise(number as u64, 3 << 20);
        write_files(&keepwell.path(&name), &[("noise", &noise), ("one", b"1")]);
        text.push_str(&format!(
            "[group.g{number}]\nsources = [{{ files = [\"../{name}\"] }}]\nschedule = \"24h\"\nretention = {{ daily = 7 }}\n"
        ));
    }
    configure(&keepwell, &text);
    for _ in 0..RUNS {
        keepwell.ok(["backup"]);
    }
    // A year and more of jobs, as many as the history keeps.
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                INSERT INTO job (task, reason, state, attempt, queued, started, finished, session, arguments, summary) \
                SELECT 'backup g' || (i % 8), 'schedule', 'done', 1, i, i, i, 'x', '[]', '{\"bytes\": 1}' FROM n";
    let journal = keepwell.home().join("state/agent.db");
    assert!(Command::new("sqlite3").arg(&journal).arg(rows).status().expect("sqlite3").success());

    // What the program needs shows when nobody else wants the machine: the best of several.
    let runs = (0..10).map(|_| {
        let begin = Instant::now();
        let ran = keepwell.run(["status"]);
        assert_eq!(ran.code, Some(1), "no daemon runs: {ran:?}");
        assert!(ran.stdout.contains("g7") && ran.stdout.contains("96 points"), "{ran:?}");
        begin.elapsed()
    });
    let best = runs.min().expect("several");

    assert!(best < Duration::from_millis(100), "{best:?}");
}
