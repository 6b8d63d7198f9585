//! The program dies while it copies to the vault or recovers from it: nothing that was copied is lost, and the next run goes on.

use std::ffi::OsString;
use std::path::Path;

use crate::home::{Finished, Home, announce, number_of};
use crate::second_copy::{Protected, text};
use crate::tree::{Observed, Random, write};

/// Positions of one group of system calls that are tried.
const POSITIONS_MOST: usize = 48;
/// Where a crash can leave something half done; a `?` allows for architectures that lack one.
const CALLS: [(&str, usize); 3] =
    [("?link,linkat,?rename,?renameat,?renameat2", 3), ("fsync,fdatasync", 5), ("pwrite64", 5)];

fn killed_at(home: &Home, calls: &str, position: usize, arguments: &[OsString]) -> Finished {
    let inject = format!("inject={calls}:signal=KILL:when={position}");
    let trace = format!("trace={calls}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    Finished::of(home.command_under(&strace, arguments))
}

#[test]
fn a_sync_killed_at_any_step_goes_on_and_every_point_recovers() {
    let one = Protected::new();
    let first = (one.backup(), Observed::of(&one.source));
    one.server.run(["sync"]).expect_code(0);
    write(&one.source.join("large/000"), &Random::new(8).bytes(900 << 10));
    write(&one.source.join("more"), b"more");
    let second = (one.backup(), Observed::of(&one.source));
    let pristine = one.server.copy_of();
    let restore = |(point, observed): &(String, Observed), when: &str| {
        let target = one.server.vacant("target");
        let words = ["restore", point, "--from", "vault", "--to", text(&target)];
        one.server.run(words).expect_code(0);
        observed.expect(&Observed::of(&target), &format!("point {point} {when}"));
    };
    let mut kills = 0;
    for (calls, stride) in CALLS {
        for position in (1..=POSITIONS_MOST).step_by(stride) {
            one.server.put_back(&pristine);
            let finished = killed_at(&one.server, calls, position, &["sync".into()]);
            let when = format!("after a kill at call {position} of {calls}");
            let survived = !finished.was_killed();
            assert!(!survived || finished.code() == Some(0), "{when}: {finished}");
            kills += usize::from(!survived);

            restore(&first, &when);
            let again = one.server.run(["sync", "--json"]).expect_code(0).summary();
            restore(&second, &when);
            assert_eq!(number_of(&again, "points"), 2, "{when}");
            if survived {
                break;
            }
        }
        one.server.run(["check", "--vault", "--read-data"]).expect_code(0);
        let machine = Home::empty_in_memory();
        let target = machine.beside("recovered");
        one.recover(&machine, &["latest", "--to", text(&target)]).expect_code(0);
        second.1.expect(&Observed::of(&target), "what a blank machine gets");
    }
    announce(&format!("{kills} kills of a sync"));
    assert!(kills > 10, "only {kills} kills");
}

#[test]
fn a_recovery_that_was_cut_goes_on_where_it_was() {
    let one = Protected::new();
    let point = one.backup();
    let observed = Observed::of(&one.source);
    one.server.run(["sync"]).expect_code(0);
    let machine = Home::empty_in_memory();
    let mut kept = 0;
    // Some way in: files are closed one after the other.
    // (Calls are counted for each thread.)
    for position in [4, 16, 28] {
        let target = machine.vacant("target");
        let words = one.recover_arguments(&[&point, "--to", text(&target)]);
        let finished = killed_at(&machine, "?utimensat,?fchmod,?fchown", position, &words);
        assert!(finished.was_killed(), "{position}: {finished}");
        assert!(exists(&target), "{position}: it had begun");

        let without = one.recover(&machine, &[&point, "--to", text(&target)]);
        assert!(without.stderr().contains("--resume"), "{position}: {without}");
        let words = [&point, "--to", text(&target), "--resume", "--json"];
        let resumed = one.recover(&machine, &words).expect_code(0).summary();

        observed.expect(&Observed::of(&target), &format!("resumed after call {position}"));
        kept += number_of(&resumed, "unchanged");
    }
    assert!(kept > 10, "what was there was not fetched again: {kept}");
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
