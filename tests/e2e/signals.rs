//! A stop from outside: the pool is unharmed and the next run goes on.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Keepwell, Ran, noise, picture, write_files};

/// Large enough that the backup is still running when the signal arrives.
const FILE_BYTES: usize = 64 << 20;
const FILES: u64 = 6;

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn an_interrupted_backup_is_130_leaves_no_point_and_can_be_run_again() {
    let keepwell = Keepwell::new();
    let source = keepwell.path("srv");
    for number in 0..FILES {
        write_files(&source, &[(&format!("{number}"), &noise(number + 10, FILE_BYTES))]);
    }

    let backup = keepwell.start(["backup", "--files", "srv"]);
    keepwell.wait_for_session();
    signal(&backup, Signal::USR1);
    signal(&backup, Signal::INT);
    let output = backup.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None, "it ended by itself");
    let ran = Ran::of(output);

    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stderr.contains("interrupted"), "{ran:?}");
    assert!(ran.stderr.contains("run the same command again"), "{ran:?}");
    assert_eq!(keepwell.ok(["points"]).stdout, "no points\n");
    keepwell.ok(["check", "--read-data"]);
    keepwell.ok(["backup", "--files", "srv"]);
    keepwell.ok(["restore", "latest", "--to", "back"]);
    assert_eq!(picture(&keepwell.path("back")), picture(&source));
}

#[test]
fn a_status_is_told_on_request() {
    let keepwell = Keepwell::new();
    for number in 0..FILES {
        let name = format!("{number}");
        write_files(&keepwell.path("srv"), &[(&name, &noise(number + 20, FILE_BYTES))]);
    }

    let backup = keepwell.start(["-q", "backup", "--files", "srv"]);
    keepwell.wait_for_session();
    signal(&backup, Signal::USR1);
    let ran = Ran::of(backup.wait_with_output().unwrap());

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.starts_with("[0:0") && ran.stderr.contains(" files"), "{ran:?}");
}
