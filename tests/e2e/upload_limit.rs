//! The limit on uploads: kept, and followed when it is changed while a sync runs.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::wait_until;
use crate::home::Finished;
use crate::protected::Protected;
use crate::servers::{FaultProxy, Moto};
use crate::tree::Random;

const KIB: u64 = 1 << 10;

/// Sets the limit of the vault, which ends the configuration of this home.
pub(crate) fn limit_uploads(home: &Path, limit: &str) {
    let file = home.join("keepwell.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    let lines = text.lines().filter(|line| !line.starts_with("upload_limit"));
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("upload_limit = {limit}\n"));
    fs::write(&file, text).expect("written");
}

#[test]
fn uploads_keep_the_limit_and_follow_it_when_it_is_lifted() {
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.host());
    let protected = Protected::by(&moto.place("servers").through(proxy.endpoint()));
    let content = Random::new(5).bytes(8 << 20);
    fs::write(protected.source.join("file"), content).expect("a file");
    protected.back_up();
    limit_uploads(
        protected.machine.path(),
        "{ default = \"256K\", \"Mon 00:00-00:01\" = \"128K\" }",
    );
    let before = proxy.uploaded();

    let begin = Instant::now();
    let mut command = protected.machine.command(["sync", "--json"]);
    let sync = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    wait_until("a megabyte is uploaded", || proxy.uploaded() > before + 1024 * KIB);
    let slow = begin.elapsed();
    limit_uploads(protected.machine.path(), "\"off\"");
    let output = sync.wait_with_output().expect("it is our child");
    Finished::new("sync".to_string(), output).expect_code(0);

    // A quarter of a second's worth may go at once, and sockets hold some more before the proxy counts it.
    assert!(slow > Duration::from_secs(2), "a megabyte at 256 KiB a second in {slow:?}");
    assert!(begin.elapsed() < Duration::from_secs(25), "lifted, it took {:?}", begin.elapsed());
}

#[test]
fn a_limit_that_cannot_be_meant_is_refused_with_its_line() {
    let moto = Moto::start();
    let protected = Protected::by(&moto.place("servers"));
    limit_uploads(
        protected.machine.path(),
        "{ default = \"off\", \"Mon-Fry 08:00-18:00\" = \"20M\" }",
    );

    let refused = protected.machine.run(["sync"]).expect_code(2);

    assert!(refused.stderr().contains("keepwell.toml:"), "{refused}");
    assert!(refused.stderr().contains("Mon-Fry 08:00-18:00"), "{refused}");
}
