//! What time does in a vault: forgotten points can be had back for fourteen days, then they go, and whatever happens meanwhile nothing else does.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::home::{Finished, Home, announce, number_of, text_of};
use crate::protected::{Kept, Protected, text};
use crate::servers::{Calendar, Fault, FaultProxy, Moto, Place};
use crate::tree::Random;

const DAY: u64 = 24;
/// Longest wait for a process.
const PATIENCE: Duration = Duration::from_secs(120);

/// A protected machine with points of one file each, and a calendar for it and its vault.
struct Story {
    calendar: Calendar,
    moto: Moto,
    protected: Protected,
}

impl Story {
    fn new(way: impl FnOnce(&Moto) -> Place) -> Self {
        let calendar = Calendar::new();
        let moto = Moto::start_by(&calendar);
        let protected = Protected::by(&way(&moto));
        Self { calendar, moto, protected }
    }

    fn machine(&self) -> &Home {
        &self.protected.machine
    }

    fn run<const N: usize>(&self, words: [&str; N]) -> Finished {
        let mut command = self.machine().command(words);
        command.envs(self.calendar.of_program(0));
        Finished::of(command)
    }

    fn ok<const N: usize>(&self, words: [&str; N]) -> Finished {
        self.run(words).expect_code(0)
    }

    // One point in packs of its own, of which later ones need a part.
    fn point(&self, number: u64) -> String {
        let source = &self.protected.source;
        fs::write(source.join("file"), content(number)).expect("written");
        fs::write(source.join(format!("stays-{number}")), content(1000 + number)).expect("written");
        let source = text(&self.protected.source).to_string();
        let point = self.ok(["backup", "--json", "--files", &source]).point();
        self.ok(["sync"]);
        point
    }

    fn expect_restorable(&self, point: &str, number: u64, when: &str) {
        let target = self.machine().vacant("target");
        let restored = self.run(["restore", point, "--from", "vault", "--to", text(&target)]);
        assert_eq!(restored.code(), Some(0), "{when}: {restored}");
        assert_eq!(fs::read(target.join("file")).expect("restored"), content(number), "{when}");
    }

    fn prune(&self) -> serde_json::Value {
        self.ok(["prune", "--vault", "--json"]).summary()
    }

    fn objects(&self) -> Vec<String> {
        self.moto.list("servers/r/")
    }

    fn kept(&self) -> &Kept {
        self.protected.kept()
    }
}

fn content(number: u64) -> Vec<u8> {
    Random::new(number).bytes(40_000)
}

#[test]
fn a_forgotten_point_can_be_had_back_for_fourteen_days_and_is_then_gone() {
    let story = Story::new(|moto| moto.place("servers"));
    let points = [1, 2, 3].map(|number| story.point(number));
    let [first, second, _] = &points;
    story.ok(["forget", "--vault=main", first, second]);

    // Nearly fourteen days later one of them is wanted after all.
    story.calendar.pass(14 * DAY - 1);
    assert_eq!(story.prune()["points_gone"], serde_json::json!([]));
    story.ok(["undelete", first]);
    story.expect_restorable(first, 1, "taken back");

    // A machine whose clock is wrong deletes nothing, neither its own way nor the vault's.
    let before = story.objects();
    let mut command = story.machine().command(["prune", "--vault", "--json"]);
    command.envs(story.calendar.of_program(100 * DAY));
    let doubted = Finished::of(command).expect_code(3);
    assert!(doubted.stderr().contains("nothing was condemned or deleted"), "{doubted}");
    assert!(text_of(&doubted.summary(), "clock_doubt").contains("this machine's"), "{doubted}");
    assert_eq!(story.objects(), before);

    // Two hours later it is too late for the other one.
    story.calendar.pass(2);
    let gone = story.prune();
    assert_eq!(gone["points_gone"], serde_json::json!([second]));
    assert!(number_of(&gone, "objects_condemned") >= 2, "{gone}");
    assert_eq!(number_of(&gone, "objects_deleted"), 0, "{gone}");
    let late = story.run(["undelete", second]).expect_code(1);
    assert!(late.stderr().contains("no recovery point"), "{late}");

    // What was condemned stays for one more day.
    story.calendar.pass(DAY - 1);
    assert_eq!(number_of(&story.prune(), "objects_deleted"), 0);
    let before = story.objects();
    story.calendar.pass(2);
    let deleted = story.prune();
    assert!(number_of(&deleted, "objects_deleted") >= 2, "{deleted}");
    assert!(story.objects().len() < before.len());

    // Nobody wanted it, so it does not come back, although the pool has it.
    let synced = story.ok(["sync", "--json"]).summary();
    assert_eq!(synced["points_copied"], serde_json::json!([]));
    story.expect_restorable(first, 1, "in the end");
    story.ok(["check", "--vault", "--read-data"]);
    let blank = Home::empty_in_memory();
    let listed = story.kept().recover(&blank, &["--list", "--json"]).expect_code(0).json();
    let mut found: Vec<_> = listed["points"].as_array().expect("points").to_vec();
    found.sort_by_key(|point| text_of(point, "started"));
    let found: Vec<_> = found.iter().map(|point| text_of(point, "id")).collect();
    assert_eq!(found, [first.clone(), points[2].clone()]);
}

// A prune that can be killed at a moment that is seen on the wire.
struct Prune {
    child: Child,
    log: PathBuf,
}

impl Prune {
    fn start(story: &Story) -> Self {
        let log = story.machine().beside("prune.log");
        let mut command = story.machine().command(["prune", "--vault"]);
        command.envs(story.calendar.of_program(0));
        let output = fs::File::create(&log).expect("a log");
        command.stdout(Stdio::null()).stderr(output);
        Self { child: command.spawn().expect("it starts"), log }
    }

    // Kills it as soon as so many requests are seen that are waited for; returns whether it came to that.
    fn killed_at(
        mut self,
        proxy: &FaultProxy,
        count: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> bool {
        let begin = Instant::now();
        let mut seen = 0;
        loop {
            seen += proxy.take_requests().iter().filter(|request| wanted(request)).count();
            if seen >= count {
                self.child.kill().expect("it can be killed");
                self.child.wait().expect("it ended");
                return true;
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                assert!(status.success(), "{status}: {said}");
                return false;
            }
            assert!(begin.elapsed() < PATIENCE, "the prune takes too long");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_of_content(request: &str, method: &str) -> bool {
    let content = ["/p/", "/t/", "/i/", "/m/"].iter().any(|folder| request.contains(folder));
    content && request.starts_with(method)
}

#[test]
fn a_prune_killed_while_it_deletes_or_gathers_loses_nothing() {
    const POINTS: u64 = 9;
    let mut proxy = None;
    let story = Story::new(|moto| {
        let before = proxy.insert(FaultProxy::before(moto.host()));
        moto.place("servers").through(before.endpoint())
    });
    let proxy = proxy.expect("made above");
    let points: Vec<_> = (0..POINTS).map(|number| story.point(number)).collect();
    let (going, staying) = points.split_at(points.len() - 2);
    let expect_all = |when: &str| {
        for (number, point) in (going.len() as u64..).zip(staying) {
            story.expect_restorable(point, number, when);
        }
    };
    let words: Vec<_> =
        ["forget", "--vault=main"].into_iter().chain(going.iter().map(String::as_str)).collect();
    let mut command = story.machine().command(words);
    command.envs(story.calendar.of_program(0));
    Finished::of(command).expect_code(0);
    story.calendar.pass(15 * DAY);

    // What stays lies in packs with much that is not needed any more: it is gathered, at first without success.
    proxy.take_requests();
    let mut gathering = 0;
    for count in 1..=2 {
        let put = |request: &str| is_of_content(request, "PUT");
        gathering += usize::from(Prune::start(&story).killed_at(&proxy, count, put));
        expect_all("after a kill while packs are gathered");
    }
    story.prune();
    story.calendar.pass(15 * DAY);

    // Requests are on their way for a while, and some arrive when nobody waits for the answer any more.
    let before = story.objects().len();
    let mut deleting = 0;
    for count in [1, 3, 8] {
        proxy.take_requests();
        proxy.set(Fault::Delay(Duration::from_millis(30)));
        let deleted = |request: &str| is_of_content(request, "DELETE");
        deleting += usize::from(Prune::start(&story).killed_at(&proxy, count, deleted));
        proxy.set(Fault::None);
        expect_all("after a kill while objects are deleted");
    }
    story.prune();
    announce(&format!("{gathering} kills while gathering, {deleting} while deleting"));
    assert!(gathering > 0, "no kill while packs were gathered");
    assert!(deleting > 1, "only {deleting} kills while objects were deleted");
    assert!(story.objects().len() + going.len() * 2 <= before, "{} objects", story.objects().len());

    story.ok(["check", "--vault", "--read-data"]);
    story.point(POINTS);
    expect_all("in the end");
    let blank = Home::empty_in_memory();
    let listed = story.kept().recover(&blank, &["--list", "--json"]).expect_code(0).json();
    assert_eq!(listed["points"].as_array().map(Vec::len), Some(staying.len() + 1));
}
