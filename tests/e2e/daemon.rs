//! The agent as it runs for years: it protects by itself, survives being killed at any moment, and stops in good time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Keepwell, noise, wait_until, write_files};

/// A running daemon; it is killed when the story ends.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts the daemon and waits until it is ready.
    pub(crate) fn start(keepwell: &Keepwell) -> Self {
        Self::start_command(keepwell.command(["daemon"]))
    }

    /// The same with a command that a story has prepared.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon can be started");
        let stderr = BufReader::new(child.stderr.take().expect("its words are heard"));
        let (ready, is_ready) = std::sync::mpsc::channel();
        // Read to the end, so that a full pipe never stops it.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("protecting") {
                    let _ = ready.send(());
                }
            }
        });
        is_ready.recv_timeout(Duration::from_secs(60)).expect("the daemon says that it protects");
        Self { child }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon lives");
    }

    /// Asks it to end, and returns its exit code and how long it took.
    pub(crate) fn stop(mut self) -> (Option<i32>, Duration) {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        let status = self.child.wait().expect("it ends");
        (status.code(), begin.elapsed())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the daemon lives");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn jobs(keepwell: &Keepwell) -> Vec<Value> {
    let document = keepwell.document(["jobs", "-n", "100"]);
    document["jobs"].as_array().cloned().expect("jobs are listed")
}

pub(crate) fn states(keepwell: &Keepwell, task: &str) -> Vec<String> {
    let of_task = jobs(keepwell).into_iter().filter(|job| job["task"] == task);
    of_task.map(|job| job["state"].as_str().expect("a state").to_string()).collect()
}

pub(crate) fn configure(keepwell: &Keepwell, text: &str) {
    let path = keepwell.home().join("keepwell.toml");
    let before = fs::read_to_string(&path).expect("there is a configuration");
    // Maintenance of its own would only disturb.
    let calm = "[maintenance]\nforget = \"never\"\nprune = \"never\"\ncheck = \"never\"\n";
    let calm = if before.contains("[maintenance]") { "" } else { calm };
    fs::write(&path, format!("{before}\n{calm}{text}\n")).expect("written");
}

fn group(name: &str, source: &Path) -> String {
    format!(
        "[group.{name}]\nsources = [{{ files = [\"{}\"] }}]\nschedule = \"24h\"\n",
        source.display()
    )
}

fn points(keepwell: &Keepwell, group: &str) -> usize {
    let ran = keepwell.run(["--json", "points", group]);
    // Of a group without points there is nothing to list.
    if ran.code == Some(0) { ran.stdout.matches("\"short_id\"").count() } else { 0 }
}

#[test]
fn a_new_group_is_protected_at_once_and_then_copied_to_the_vault() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    keepwell.ok(["quickstart", keepwell.path("srv").to_str().expect("text")]);
    configure(&keepwell, &group("other", &keepwell.path("srv")));

    let daemon = Daemon::start(&keepwell);
    wait_until("the point is copied", || states(&keepwell, "sync other") == ["done"]);
    let second = keepwell.run(["daemon"]);
    let (code, _) = daemon.stop();

    assert_eq!(states(&keepwell, "backup other"), ["done"]);
    assert_eq!(second.code, Some(11), "a second daemon is refused: {second:?}");
    assert_eq!(code, Some(0));
    let backup = jobs(&keepwell).into_iter().find(|job| job["task"] == "backup other");
    assert_eq!(backup.expect("listed")["summary"]["groups"][0]["points"][0]["files"], 1);
}

#[test]
fn killed_again_and_again_it_loses_nothing_and_ends_what_it_began() {
    let keepwell = Keepwell::new();
    let names = ["one", "two", "three"];
    let mut text = String::from("[daemon]\nslots = 3\nretries = 20\n");
    for (seed, name) in names.iter().enumerate() {
        let content = noise(seed as u64, 3 << 20);
        let files: Vec<_> = (0..4).map(|number| format!("file {number}")).collect();
        let files: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(n, file)| (file.as_str(), &content[n << 19..]))
            .collect();
        write_files(&keepwell.path(name), &files);
        text.push_str(&group(name, &keepwell.path(name)));
    }
    configure(&keepwell, &text);

    for _ in 0..6 {
        let daemon = Daemon::start(&keepwell);
        wait_until("a job runs or all are done", || {
            let jobs = jobs(&keepwell);
            jobs.iter().any(|job| job["state"] == "running")
                || names.iter().all(|name| points(&keepwell, name) > 0)
        });
        daemon.kill();
    }
    let daemon = Daemon::start(&keepwell);
    wait_until("all groups have a point", || {
        names.iter().all(|name| {
            states(&keepwell, &format!("backup {name}"))
                .first()
                .is_some_and(|state| state == "done")
        })
    });
    let (code, _) = daemon.stop();

    assert_eq!(code, Some(0));
    let all = jobs(&keepwell);
    assert!(all.iter().any(|job| job["state"] == "interrupted"), "{all:?}");
    assert!(all.iter().any(|job| job["reason"] == "resumed"), "{all:?}");
    keepwell.ok(["check", "--read-data"]);
    for name in names {
        let back = keepwell.path(format!("back {name}"));
        let latest = format!("latest:{name}");
        keepwell.ok(["restore", &latest, "--to", back.to_str().expect("text")]);
        assert_eq!(crate::harness::picture(&back), crate::harness::picture(&keepwell.path(name)));
    }
}

#[test]
fn asked_to_end_it_gives_up_a_running_job_within_ten_seconds_and_takes_it_up_again() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    let (began, after, hang) =
        (keepwell.path("began"), keepwell.path("after"), keepwell.path("hang"));
    fs::write(&hang, "").expect("written");
    configure(
        &keepwell,
        &format!(
            "{}hooks = {{ before = \"touch {}; test -e {} && sleep 600; true\", after = \"touch {}\" }}\n",
            group("web", &keepwell.path("srv")),
            began.display(),
            hang.display(),
            after.display(),
        ),
    );

    let daemon = Daemon::start(&keepwell);
    wait_until("the hook hangs", || began.exists());
    let (code, took) = daemon.stop();
    let interrupted = states(&keepwell, "backup web");
    let after_ran = after.exists();
    fs::remove_file(&hang).expect("removed");
    let daemon = Daemon::start(&keepwell);
    wait_until("it was taken up again", || {
        states(&keepwell, "backup web") == ["done", "interrupted"]
    });
    drop(daemon);

    assert_eq!((code, interrupted), (Some(0), vec!["interrupted".to_string()]));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(after_ran, "what before began was ended");
}

#[test]
fn a_bad_configuration_is_told_and_not_taken_and_a_good_one_is() {
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    configure(&keepwell, &group("web", &keepwell.path("srv")));
    let path = keepwell.home().join("keepwell.toml");
    let good = fs::read_to_string(&path).expect("read");
    let alerts = || keepwell.document(["alerts"])["alerts"].clone();

    // Broken while the first backup is under way: it runs by the configuration that is in force.
    let daemon = Daemon::start(&keepwell);
    fs::write(&path, good.replace("schedule", "shedule")).expect("written");
    daemon.signal(Signal::HUP);
    // The commands would refuse the file as well, so it is mended before they look.
    let journal = keepwell.home().join("state/agent.db");
    let told = || {
        let output = std::process::Command::new("sqlite3")
            .arg(&journal)
            .arg("SELECT message FROM alert WHERE key = 'configuration' AND resolved IS NULL")
            .output()
            .expect("sqlite3 is installed");
        String::from_utf8(output.stdout).expect("text")
    };
    wait_until("the mistake is an alert", || !told().is_empty());
    let message = told();
    fs::write(&path, format!("{good}{}", group("more", &keepwell.path("srv")))).expect("written");
    daemon.signal(Signal::HUP);
    wait_until("the new group is protected", || states(&keepwell, "backup more") == ["done"]);
    wait_until("and the old one", || states(&keepwell, "backup web") != ["running"]);

    assert!(message.contains("shedule") && message.contains("keepwell.toml:"), "{message}");
    assert_eq!(alerts(), serde_json::json!([]));
    assert_eq!(states(&keepwell, "backup web"), ["done"]);
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn a_failed_backup_is_an_alert_until_it_succeeds() {
    let keepwell = Keepwell::new();
    configure(&keepwell, &group("web", &keepwell.path("srv")));

    let daemon = Daemon::start(&keepwell);
    wait_until("it failed", || states(&keepwell, "backup web") == ["failed"]);
    let alerts = keepwell.document(["alerts"])["alerts"].clone();
    drop(daemon);

    assert_eq!(alerts[0]["key"], "failed backup web", "{alerts}");
    assert_eq!(alerts[0]["level"], "warning");
    assert!(alerts[0]["message"].as_str().expect("a message").contains("srv"), "{alerts}");
}

#[test]
fn a_service_manager_hears_that_it_is_ready_alive_and_stopping() {
    let keepwell = Keepwell::new();
    let socket = keepwell.path("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a patience");
    let mut child = keepwell
        .command(["daemon"])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let hear = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("something is said in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };

    let first = hear();
    let beats: Vec<_> = (0..3).map(|_| hear()).collect();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it lives");
    let mut last = hear();
    while last.starts_with("WATCHDOG") {
        last = hear();
    }

    assert!(first.starts_with("READY=1\n"), "{first}");
    assert_eq!(beats, ["WATCHDOG=1"; 3]);
    assert_eq!(last, "STOPPING=1");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

fn number_in(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line of this name");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn an_idle_daemon_is_small_and_sleeps() {
    const MEASURED: Duration = Duration::from_secs(4);
    let keepwell = Keepwell::new();
    write_files(&keepwell.path("srv"), &[("one", b"1")]);
    configure(&keepwell, &group("web", &keepwell.path("srv")));
    let daemon = Daemon::start(&keepwell);
    wait_until("everything is done", || states(&keepwell, "backup web") == ["done"]);
    let process = format!("/proc/{}", daemon.pid().as_raw_nonzero());
    let switches = || -> u64 {
        let threads = fs::read_dir(format!("{process}/task")).expect("threads").flatten();
        let status = threads.map(|thread| fs::read_to_string(thread.path().join("status")));
        status.flatten().map(|status| number_in(&status, "voluntary_ctxt_switches")).sum()
    };

    let before = switches();
    // Nothing is waited for: this is the time that is measured.
    std::thread::sleep(MEASURED);
    let wakes = switches().saturating_sub(before);
    let status = fs::read_to_string(format!("{process}/status")).expect("it lives");

    let resident = number_in(&status, "VmRSS");
    // Code that is not optimised is several times as large.
    let most = if cfg!(debug_assertions) { 30 } else { 20 };
    assert!(resident <= most << 10, "{resident} KiB");
    assert!(wakes <= MEASURED.as_secs(), "{wakes} wake-ups in {MEASURED:?}");
}
