//! The daemon as a service: a unit that systemd accepts, and a keeper where there is no systemd.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::daemon::configure;
use crate::harness::{Keepwell, wait_until};

/// What `systemd-analyze security` may find at most: 100 is no protection at all.
const EXPOSURE_MOST: &str = "50";

#[test]
fn the_unit_is_written_once_is_sound_and_gives_no_more_rights_than_needed() {
    let keepwell = Keepwell::new();
    let units = keepwell.path("units");
    let install = |keepwell: &Keepwell| {
        let units = units.to_str().expect("text");
        keepwell.document(["service", "install", "--no-start", "--directory", units])
    };

    let first = install(&keepwell);
    let second = install(&keepwell);
    let path = units.join("keepwell.service");
    let analyze = |words: &[&str]| {
        let output = Command::new("systemd-analyze").args(words).arg(&path).output();
        let output = output.expect("systemd is installed");
        (output.status.success(), format!("{output:?}"))
    };
    let verified = analyze(&["verify", "--man=no"]);
    let threshold = format!("--threshold={EXPOSURE_MOST}");
    let secure = analyze(&["security", "--offline=yes", &threshold]);
    keepwell.ok(["service", "remove", "--directory", units.to_str().expect("text")]);

    let state = |document: &Value| {
        let steps = document["steps"].as_array().expect("steps").clone();
        steps.iter().find(|step| step["step"] == "unit").expect("the unit")["state"].clone()
    };
    assert_eq!((state(&first), state(&second)), ("done".into(), "already so".into()));
    assert!(verified.0, "{}", verified.1);
    assert!(secure.0, "{}", secure.1);
    assert!(!path.exists());
    keepwell.ok(["service", "remove", "--directory", units.to_str().expect("text")]);
}

#[test]
fn a_killed_daemon_is_started_again_and_ends_with_its_keeper() {
    let keepwell = Keepwell::new();
    configure(&keepwell, "");
    let health = || -> Option<i32> {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "5", "--unix-socket"])
            .arg(keepwell.home().join("state/control.sock"))
            .arg("http://keepwell/v1/health")
            .output()
            .expect("curl is installed");
        let health: Value = serde_json::from_slice(&output.stdout).ok()?;
        i32::try_from(health["pid"].as_i64()?).ok()
    };

    let mut keeper = keepwell.start(["watch", "--interval", "1s"]);
    wait_until("the daemon answers", || health().is_some());
    let first = health().expect("it answers");
    kill_process(Pid::from_raw(first).expect("a process"), Signal::KILL).expect("it lives");
    wait_until("another one answers", || health().is_some_and(|pid| pid != first));
    kill_process(Pid::from_child(&keeper), Signal::TERM).expect("it lives");
    let status = keeper.wait().expect("it ends");

    assert_eq!(status.code(), Some(0));
    assert_eq!(health(), None, "the daemon ended with it");
}

#[test]
fn a_daemon_that_cannot_be_kept_alive_is_given_up_with_an_alert() {
    let keepwell = Keepwell::new();
    configure(&keepwell, "");
    // Something else in its place, so that it cannot begin.
    fs::create_dir_all(keepwell.home().join("state/control.sock/in the way")).expect("made");

    let gave_up = keepwell.run(["watch", "--interval", "1s", "--max-fails", "2"]);

    assert_eq!(gave_up.code, Some(70), "{gave_up:?}");
    let alerts = keepwell.document(["alerts"])["alerts"].clone();
    assert_eq!(
        (&alerts[0]["key"], &alerts[0]["level"]),
        (&"daemon".into(), &"critical".into()),
        "{alerts}"
    );
}
