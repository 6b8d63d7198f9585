//! The cable is out: nobody refuses and nobody closes anything, packets just vanish.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::wait_until;
use crate::home::{Finished, Home, is_root};
use crate::protected::{Kept, create, register, text};
use crate::servers::{Cable, Moto};
use crate::tree::Random;
use crate::upload_limit::limit_uploads;

const MIB: usize = 1 << 20;

#[test]
fn a_cable_that_is_pulled_out_and_plugged_in_again_costs_a_sync_nothing_but_time() {
    if !is_root("a network of one's own") {
        return;
    }
    let cable = Cable::lay();
    // Asked at any address of this machine: from this end also while the cable is out.
    let moto = Moto::start_at("0.0.0.0");
    let (_, port) = moto.host().split_once(':').expect("host and port");
    let place = moto.place("servers").through(format!("http://{}:{port}", cable.address()));
    let machine = Home::in_memory();
    let folder = machine.directory("kept");
    let kept = Kept { credentials: folder.join("main.vault"), passphrase: folder.join("secret") };
    // Made from this end; from here on the machine is at the other one.
    create(&machine, &place, &kept.credentials).expect_code(0);
    register(&machine, &kept, "web1").expect_code(0);
    let there = |words: &[&str]| machine.command_under(&cable.wrapper(), words);
    let source = machine.directory("source");
    let content = Random::new(1).bytes(110 * MIB);
    fs::write(source.join("file"), &content).expect("written");
    machine.backup(&source, &[]);
    let packs = || moto.list("servers/r/").into_iter().filter(|path| path.contains("/p/")).count();

    limit_uploads(machine.path(), "\"24M\"");
    let mut sync = there(&["sync", "--json"]);
    let sync: Child = sync.stdout(Stdio::piped()).spawn().expect("it starts");
    wait_until("a pack has arrived", || packs() > 0);
    cable.pull_out();
    // Whoever asks now finds out in a while that nobody is there.
    let begin = Instant::now();
    let lost = Finished::of(there(&["vault", "ping"]));
    assert_eq!(lost.code(), Some(1), "{lost}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    let arrived = packs();
    assert!(arrived < 5, "{arrived} packs: nothing was left to be done");
    cable.plug_in();
    limit_uploads(machine.path(), "\"off\"");
    let output = sync.wait_with_output().expect("it is our child");

    let synced = Finished::new("sync".to_string(), output).expect_code(0).summary();
    assert_eq!(synced["points_copied"].as_array().map(Vec::len), Some(1), "{synced}");
    let blank = Home::empty_in_memory();
    let target = blank.beside("recovered");
    kept.recover(&blank, &["latest", "--to", text(&target)]).expect_code(0);
    assert!(fs::read(target.join("file")).expect("recovered") == content);
}
