//! A network that fails in every way between a server and its vault: what was committed restores, what was uploaded stays uploaded.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::harness::wait_until;
use crate::home::{Finished, Home, number_of};
use crate::protected::{Protected, text};
use crate::quickstart::{expect_equal, plant};
use crate::servers::{Fault, FaultProxy, Moto};
use crate::tree::Random;

const MIB: u64 = 1 << 20;
/// Bytes a second of each connection at which a sync is still under way when its first pack has arrived.
const SLOW_ENOUGH: u64 = 12 * MIB;

struct Story {
    moto: Moto,
    proxy: FaultProxy,
    protected: Protected,
}

impl Story {
    fn begin() -> Self {
        let moto = Moto::start();
        let proxy = FaultProxy::before(moto.host());
        let protected = Protected::by(&moto.place("servers").through(proxy.endpoint()));
        plant(&protected.source);
        proxy.take_requests();
        Self { moto, proxy, protected }
    }

    // So much that it takes more packs than are uploaded side by side: some are still to come when the first have arrived.
    fn with_much() -> Self {
        let story = Self::begin();
        let much = Random::new(11).bytes(110 * MIB as usize);
        fs::write(story.protected.source.join("much"), much).expect("a file");
        story.protected.back_up();
        story
    }

    fn expect_everything_back(&self) {
        let blank = Home::empty_in_memory();
        let target = blank.beside("recovered");
        self.protected.kept().recover(&blank, &["latest", "--to", text(&target)]).expect_code(0);
        expect_equal(&self.protected.source, &target);
    }

    fn start_sync(&self) -> std::process::Child {
        self.protected.machine.command(["sync", "--json"]).spawn().expect("the program starts")
    }
}

fn finish(child: std::process::Child) -> Finished {
    Finished::new("sync".to_string(), child.wait_with_output().expect("it is our child"))
}

// How often each object was begun to be put.
fn puts(requests: &[String]) -> BTreeMap<String, usize> {
    let mut puts = BTreeMap::new();
    for request in requests {
        if let Some(object) = request.strip_prefix("PUT ") {
            *puts.entry(object.to_string()).or_default() += 1;
        }
    }
    puts
}

#[test]
fn a_network_that_is_lost_in_the_middle_of_a_sync_and_comes_back_costs_nothing_but_time() {
    let story = Story::with_much();
    let Story { proxy, .. } = &story;
    proxy.set(Fault::Slow(SLOW_ENOUGH));

    let sync = story.start_sync();
    wait_until("a pack has arrived", || !packs(&story.moto).is_empty());
    proxy.set(Fault::Gone);
    let arrived = packs(&story.moto);
    wait_until("the sync asks in vain", || proxy.refused() >= 3);
    proxy.set(Fault::None);
    let copied = finish(sync).expect_code(0).summary();

    assert_eq!(copied["points_copied"].as_array().map(Vec::len), Some(1));
    let puts = puts(&proxy.take_requests());
    let once = arrived.iter().filter(|pack| puts.get(*pack) == Some(&1)).count();
    // The answer for one that had just arrived may have been lost, and then it is asked for again.
    assert!(once > 0 || arrived.len() == 1, "{arrived:#?} {puts:#?}");
    assert!(puts.values().all(|times| *times <= 2), "{puts:#?}");
    story.expect_everything_back();
}

#[test]
fn a_sync_that_is_killed_goes_on_where_it_was() {
    let story = Story::with_much();
    let Story { proxy, protected, .. } = &story;
    proxy.set(Fault::Slow(SLOW_ENOUGH));

    let mut sync = story.start_sync();
    wait_until("a pack has arrived", || !packs(&story.moto).is_empty());
    sync.kill().expect("it runs");
    finish(sync);
    proxy.set(Fault::None);
    let arrived = packs(&story.moto);
    proxy.take_requests();
    let copied = protected.machine.run(["sync", "--json"]).expect_code(0).summary();

    let again = puts(&proxy.take_requests());
    let twice: Vec<_> = arrived.iter().filter(|object| again.contains_key(*object)).collect();
    assert!(twice.is_empty(), "uploaded twice: {twice:#?}");
    assert_eq!(copied["points_copied"].as_array().map(Vec::len), Some(1), "{copied}");
    assert!(number_of(&copied, "bytes_uploaded") < 90 * MIB, "{copied}");
    story.expect_everything_back();
}

// The paths of all packs that the server holds.
fn packs(moto: &Moto) -> Vec<String> {
    moto.list("servers/r/").into_iter().filter(|path| path.contains("/p/")).collect()
}

#[test]
fn a_slow_network_is_slow_and_nothing_else() {
    let story = Story::begin();
    story.protected.back_up();
    story.proxy.set(Fault::Slow(4 * MIB));

    story.protected.machine.run(["sync"]).expect_code(0);
    story.proxy.set(Fault::Delay(Duration::from_millis(4)));

    story.expect_everything_back();
}

#[test]
fn uploads_that_are_cut_and_answers_that_are_lost_change_nothing() {
    let story = Story::begin();
    let mut expected = 0;
    let cut = |bytes| Fault::CutUpload { bytes, times: 3 };
    let lost = |bytes| Fault::CutDownload { bytes, times: 3 };
    for fault in [cut(1), cut(300), cut(100_000), cut(2 * MIB), lost(1), lost(400)] {
        let content = Random::new(expected).bytes(3 * MIB as usize);
        fs::write(story.protected.source.join("changed"), content).expect("a file");
        story.protected.back_up();
        expected += 1;
        let refused = story.proxy.refused();
        story.proxy.set(fault);

        story.protected.machine.run(["sync"]).expect_code(0);

        assert!(story.proxy.refused() > refused, "nothing was cut by {fault:?}");
        story.proxy.set(Fault::None);
    }
    let status = story.protected.machine.run(["vault", "status", "--json"]).expect_code(0).json();
    assert_eq!(number_of(&status, "points"), expected);
    story.expect_everything_back();
}

#[test]
fn downloads_that_are_cut_or_half_closed_are_made_again() {
    let story = Story::begin();
    story.protected.back_up();
    story.protected.machine.run(["sync"]).expect_code(0);
    for fault in [
        Fault::CutDownload { bytes: 1, times: 2 },
        Fault::CutDownload { bytes: 700, times: 3 },
        Fault::CutDownload { bytes: 200_000, times: 3 },
        Fault::HalfClose { bytes: 1000, times: 2 },
        Fault::HalfClose { bytes: 300_000, times: 2 },
    ] {
        let refused = story.proxy.refused();
        story.proxy.set(fault);

        story.expect_everything_back();

        assert!(story.proxy.refused() > refused, "nothing was cut by {fault:?}");
    }
}

#[test]
fn without_a_network_a_sync_says_so_soon_and_backups_go_on() {
    let story = Story::begin();
    story.proxy.set(Fault::Gone);
    let begin = Instant::now();

    let lost = story.protected.machine.run(["sync"]).expect_code(1);

    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(lost.stderr().contains("no connection"), "{lost}");
    assert!(lost.stderr().contains("Local backups go on"), "{lost}");
    story.protected.back_up();
    story.proxy.set(Fault::None);
    story.protected.machine.run(["sync"]).expect_code(0);
    story.expect_everything_back();
}

#[test]
fn an_interrupt_ends_a_sync_that_waits_for_the_network() {
    let story = Story::begin();
    let Story { proxy, .. } = &story;
    story.protected.back_up();
    let before = proxy.uploaded();
    proxy.set(Fault::Slow(MIB / 2));

    let sync = story.start_sync();
    wait_until("something is uploaded", || proxy.uploaded() > before + MIB / 4);
    proxy.set(Fault::Gone);
    wait_until("the sync asks in vain", || proxy.refused() >= 2);
    let process = rustix::process::Pid::from_child(&sync);
    let begin = Instant::now();
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("it runs");

    finish(sync).expect_code(130);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    proxy.set(Fault::None);
    story.protected.machine.run(["sync"]).expect_code(0);
}
