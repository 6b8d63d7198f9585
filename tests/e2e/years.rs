//! Two years of the running agent, under a clock that the story moves (libfaketime, so that the program is the very one that users have): both changes
//! of the clock each year, a machine that is off, a disk that is full, a vault that is lost for twenty days and one whose owner lets it expire. What is
//! left in the end is exactly what the policies demand, in the pool and in the vault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use jiff::civil::{Date, Weekday, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::harness::{Keepwell, Ran, wait_until, write_files};
use crate::moved_clock::MovedClock;

const ZONE: &str = "Europe/Berlin";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a moment")
}

fn berlin(moment: Timestamp) -> Zoned {
    moment.to_zoned(TimeZone::get(ZONE).expect("a zone"))
}

/// A server that lives in a time of its own.
struct Server {
    keepwell: Keepwell,
    clock: MovedClock,
    daemon: Option<Daemon>,
    now: Timestamp,
    configuration: String,
}

impl Server {
    fn new(begin: Timestamp) -> Self {
        let keepwell = Keepwell::in_memory();
        let clock = MovedClock::new(&keepwell.path(""), begin);
        Self { keepwell, clock, daemon: None, now: begin, configuration: String::new() }
    }

    fn move_clock(&mut self, to: Timestamp) {
        self.clock.set(to);
        self.now = to;
    }

    fn command<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = self.keepwell.command(words);
        self.clock.give(&mut command);
        command
    }

    fn run<const N: usize>(&self, words: [&str; N]) -> Ran {
        Ran::of(self.command(words).output().expect("the program can be started"))
    }

    fn ok<const N: usize>(&self, words: [&str; N]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.code, Some(0), "{words:?} at {}: {ran:?}", self.now);
        ran
    }

    fn start(&mut self) {
        self.daemon = Some(Daemon::start_command(self.command(["daemon"])));
        self.settle();
    }

    fn stop(&mut self) {
        let daemon = self.daemon.take().expect("it runs");
        assert_eq!(daemon.stop().0, Some(0));
    }

    fn configure(&mut self, text: &str) {
        fs::write(self.keepwell.home().join("keepwell.toml"), text).expect("written");
        self.configuration = text.to_string();
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::HUP);
        }
    }

    fn ask(&self, path: &str) -> Value {
        let socket = self.keepwell.home().join("state/control.sock");
        let mut stream = UnixStream::connect(socket).expect("the daemon listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Waits until everything is done that is due now.
    fn settle(&self) {
        // The desk looks at the clock whenever it is asked something, before it answers what is asked next.
        self.ask("/v1/plan");
        self.ask("/v1/plan");
        wait_until("all jobs have ended", || {
            // The daemon needs the processor more than the question does.
            std::thread::sleep(Duration::from_millis(4));
            let jobs = self.ask("/v1/jobs?limit=8");
            let jobs = jobs["jobs"].as_array().expect("jobs");
            !jobs.iter().any(|job| job["state"] == "queued" || job["state"] == "running")
        });
    }

    fn next(&self) -> Timestamp {
        let plan = self.ask("/v1/plan");
        let tasks = plan["tasks"].as_array().expect("tasks").iter();
        tasks.map(|task| at(task["next"].as_str().expect("a time"))).min().expect("a task")
    }

    /// Lives from one scheduled time to the next, and on every day of `each_day` at noon as well.
    fn live_until(&mut self, end: Timestamp, each_day: bool) {
        loop {
            let mut next = self.next();
            if each_day {
                next = next.min(self.now + SignedDuration::from_hours(24));
            }
            if next > end {
                break;
            }
            self.write(next);
            self.move_clock(next.max(self.now));
            self.settle();
        }
        self.move_clock(end);
        self.settle();
    }

    /// Lives until the server has learnt by itself what the vault's owner has set.
    fn learn(&mut self, is_stopped: bool, latest: Timestamp) {
        self.live_until(latest, false);
        wait_until("the server asks the vault", || {
            std::thread::sleep(Duration::from_millis(20));
            let alerts = self.ask("/v1/alerts");
            let mut alerts = alerts["alerts"].as_array().expect("alerts").iter();
            alerts.any(|alert| alert["key"] == "stopped main") == is_stopped
        });
        self.settle();
    }

    fn write(&self, moment: Timestamp) {
        write_files(&self.keepwell.path("srv"), &[("changing", moment.to_string().as_bytes())]);
    }

    fn points<const N: usize>(&self, words: [&str; N]) -> BTreeSet<Timestamp> {
        let ran = self.ok(words);
        let listed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let points = listed["points"].as_array().expect("points").iter();
        points.map(|point| at(point["started"].as_str().expect("a time"))).collect()
    }
}

/// What a policy demands, counted in another way than the program does: going back in time, period by period.
fn demanded(runs: &BTreeSet<Timestamp>, policy: &[(&str, usize)]) -> BTreeSet<Timestamp> {
    let monday = |day: Date| {
        let since = day.weekday().since(Weekday::Monday);
        day.checked_sub(jiff::Span::new().days(since)).expect("a Monday")
    };
    let mut kept = BTreeSet::new();
    for (period, count) in policy {
        let mut newest: BTreeMap<Date, Timestamp> = BTreeMap::new();
        for run in runs {
            let day = berlin(*run).date();
            let first = match *period {
                "daily" => day,
                "weekly" => monday(day),
                "monthly" => day.first_of_month(),
                "yearly" => date(day.year(), 1, 1),
                other => panic!("{other}"),
            };
            newest.insert(first, *run);
        }
        kept.extend(newest.values().rev().take(*count));
    }
    kept
}

fn text(policy: &[(&str, usize)]) -> String {
    let parts = policy.iter().map(|(period, count)| format!("{period} = {count}"));
    format!("{{ {} }}", parts.collect::<Vec<_>>().join(", "))
}

const ON_DISK: &[(&str, usize)] = &[("daily", 3), ("weekly", 6), ("monthly", 5), ("yearly", 2)];
const IN_VAULT: &[(&str, usize)] = &[("daily", 7), ("weekly", 8), ("monthly", 12), ("yearly", 3)];

fn configuration(source: &str) -> String {
    format!(
        "[pool]\npaths = [\"pool\"]\n\
         [vault.main]\ncredentials = \"main.vault\"\npolicy = \"strict\"\nretention = {vault}\n\
         [vault.main.maintenance]\nforget = \"monthly 3 05:00\"\nprune = \"never\"\ncheck = \"monthly 20 05:00\"\ntimezone = \"{ZONE}\"\n\
         check_alert_after = \"32d\"\n\
         [group.web]\nsources = [{{ files = [\"{source}\"] }}]\nschedule = \"weekly Sun 02:30\"\ntimezone = \"{ZONE}\"\n\
         retention = {disk}\nvault = \"main\"\n\
         [maintenance]\nforget = \"monthly 3 04:00\"\nprune = \"monthly 2 04:30\"\ncheck = \"never\"\ntimezone = \"{ZONE}\"\n",
        vault = text(IN_VAULT),
        disk = text(ON_DISK),
    )
}

fn of_task<'a>(jobs: &'a [Value], task: &str, state: &str) -> Vec<&'a Value> {
    jobs.iter().filter(|job| job["task"] == task && job["state"] == state).collect()
}

#[test]
fn after_two_years_of_the_daemon_exactly_the_points_are_there_that_the_policies_demand() {
    let begin = at("2024-11-20T12:00:00Z");
    let mut server = Server::new(begin);
    server.write(begin);
    let source = server.keepwell.path("srv").display().to_string();
    server.ok(["quickstart", &source]);
    // What quickstart made is a group of its own, which stays as it is.
    let made_by_hand = server.points(["--json", "points"]);
    server.configure(&configuration(&source));
    server.start();

    // The skipped hour of 2025; then the machine is off over a Sunday.
    server.live_until(at("2025-05-09T12:00:00Z"), false);
    server.stop();
    server.move_clock(at("2025-05-20T15:00:00Z"));
    server.start();

    // A disk without room for three weeks.
    server.live_until(at("2025-08-01T12:00:00Z"), false);
    let good = server.configuration.clone();
    server.configure(&good.replace("paths = [\"pool\"]", "paths = [\"pool\"]\nreserve = \"900T\""));
    server.live_until(at("2025-08-22T12:00:00Z"), false);
    server.configure(&good);

    // The doubled hour; then the vault is out of reach for twenty days.
    server.live_until(at("2025-11-12T12:00:00Z"), false);
    let vault = server.keepwell.home().join("vault");
    fs::rename(&vault, server.keepwell.path("away")).expect("moved");
    server.live_until(at("2025-12-02T12:00:00Z"), true);
    let lost = server.run(["status", "--explain"]);
    fs::rename(server.keepwell.path("away"), &vault).expect("moved back");

    // The owner lets it expire for a month, and renews it.
    server.live_until(at("2026-02-04T12:00:00Z"), false);
    let home = server.keepwell.home();
    let file = |name: &str| home.join(name).display().to_string();
    let (credentials, owner) = (file("main.vault"), file("main.owner"));
    let set = |server: &Server, state: &str| {
        server.ok([
            "vault",
            "set-state",
            state,
            "--credentials",
            &credentials,
            "--owner-key",
            &owner,
        ]);
    };
    set(&server, "expired");
    server.learn(true, at("2026-02-05T12:00:00Z"));
    server.live_until(at("2026-03-04T12:00:00Z"), false);
    let expired = server.run(["status", "--explain"]);
    set(&server, "active");
    server.learn(false, at("2026-03-05T12:00:00Z"));

    // The skipped hour of 2026; the machine is off over the doubled one.
    server.live_until(at("2026-10-24T20:00:00Z"), false);
    server.stop();
    server.move_clock(at("2026-10-26T07:00:00Z"));
    server.start();
    server.live_until(at("2026-11-20T12:00:00Z"), false);
    let jobs = server.ask("/v1/jobs?limit=1000")["jobs"].as_array().cloned().expect("jobs");
    let alerts = server.ask("/v1/alerts?all=true")["alerts"].as_array().cloned().expect("alerts");
    server.stop();
    server.ok(["forget"]);
    server.ok(["forget", "--vault"]);

    // Every Sunday has one run, at its time, but for those on which nothing could or might be backed up.
    let backups = of_task(&jobs, "backup web", "done");
    let runs: BTreeSet<Timestamp> =
        backups.iter().map(|job| at(job["started"].as_str().expect("a time"))).collect();
    // To ten minutes: a loaded machine begins a little later.
    let time = |run: &Timestamp| {
        let local = berlin(*run);
        (local.date(), format!("{:02}:{}0", local.hour(), local.minute() / 10))
    };
    let times: BTreeMap<Date, String> = runs.iter().map(time).collect();
    let first = times.keys().next().copied().expect("a first run");
    assert_eq!(times.len(), backups.len(), "one run a day at most");
    assert_eq!(first, date(2024, 11, 20), "a new group is protected at once");
    let missed = [
        date(2025, 5, 11),
        date(2025, 5, 18),
        date(2025, 8, 3),
        date(2025, 8, 10),
        date(2025, 8, 17),
        // Day 18 of the silence.
        date(2025, 11, 30),
        date(2026, 2, 8),
        date(2026, 2, 15),
        date(2026, 2, 22),
        date(2026, 3, 1),
        date(2026, 10, 25),
    ];
    let mut expected: BTreeMap<Date, &str> = BTreeMap::new();
    let mut sunday = date(2024, 11, 24);
    while sunday < date(2026, 11, 20) {
        if !missed.contains(&sunday) {
            expected.insert(sunday, "02:30");
        }
        sunday = sunday.checked_add(jiff::Span::new().weeks(1)).expect("a Sunday");
    }
    expected.insert(first, "13:00");
    // Skipped hours, and what was caught up once: 15:00 and 07:00 UTC.
    expected.insert(date(2025, 3, 30), "03:00");
    expected.insert(date(2026, 3, 29), "03:00");
    expected.insert(date(2025, 5, 20), "17:00");
    expected.insert(date(2026, 10, 26), "08:00");
    let expected: BTreeMap<Date, String> =
        expected.into_iter().map(|(day, time)| (day, time.to_string())).collect();
    assert_eq!(times, expected);

    // What was not run says why.
    let told =
        |job: &Value, what: &str| job["message"].as_str().is_some_and(|it| it.contains(what));
    let stopped = of_task(&jobs, "backup web", "stopped");
    assert!(stopped.iter().any(|job| told(job, "out of reach for")), "{stopped:#?}");
    assert!(stopped.iter().any(|job| told(job, "set it expired")), "{stopped:#?}");
    let full = of_task(&jobs, "backup web", "failed");
    assert!(!full.is_empty() && full.iter().all(|job| job["exit_code"] == 7), "{full:#?}");
    assert!(lost.stdout.contains("lost, active (strict) since 2025-11-2"), "{lost:?}");
    assert!(lost.stdout.contains("for more, the vault must be reached again"), "{lost:?}");
    assert!(expired.stdout.contains("connected, expired (strict) since 2026-02-04"), "{expired:?}");
    assert_eq!((lost.code, expired.code), (Some(1), Some(1)));
    let copies = of_task(&jobs, "sync web", "done");
    let on_thursday = |job: &&&Value| {
        job["started"].as_str().is_some_and(|time| time.starts_with("2026-03-05T12:"))
    };
    assert_eq!(copies.iter().filter(on_thursday).count(), 1, "what was stopped goes on at once");
    for task in ["forget", "prune", "forget --vault=main", "check --vault=main"] {
        let done = of_task(&jobs, task, "done");
        assert!(done.iter().any(|job| job["reason"] == "schedule"), "{task}");
    }
    for key in [
        "out of reach main day 1",
        "out of reach main day 7",
        "out of reach main day 12",
        "out of reach main day 14",
        "stopped main",
        // The one of November fell into the days without the vault.
        "late check --vault=main",
        "full",
    ] {
        let of_key: Vec<_> = alerts.iter().filter(|alert| alert["key"] == key).collect();
        assert!(!of_key.is_empty(), "{key}: {alerts:#?}");
        assert!(of_key.iter().all(|alert| alert["active"] == false), "{of_key:#?}");
    }

    // The points are exactly those that the policies demand, and they are sound.
    let days = |moments: &BTreeSet<Timestamp>| -> BTreeSet<Date> {
        moments.iter().map(|moment| berlin(*moment).date()).collect()
    };
    let on_disk = server.points(["--json", "points", "web"]);
    assert_eq!(days(&on_disk), days(&demanded(&runs, ON_DISK)));
    assert_eq!(on_disk.len(), demanded(&runs, ON_DISK).len());
    let in_vault = server.points(["--json", "points", "--vault", "main", "web"]);
    assert_eq!(days(&in_vault), days(&demanded(&runs, IN_VAULT)));
    assert!(on_disk.len() >= 10 && in_vault.len() >= 18, "{on_disk:?} {in_vault:?}");
    let all = server.points(["--json", "points"]);
    assert!(made_by_hand.is_subset(&all), "what no retention judges stays");
    server.ok(["check", "--read-data"]);
    server.ok(["check", "--vault", "--read-data"]);
}
