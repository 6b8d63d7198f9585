//! Many histories side by side, until one fails or enough are lived.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::history::{Failure, live};
use crate::script::Script;
use crate::shrink::{describe, shrink};

/// Histories that are lived at the same time: one more than the smallest machine has cores, since each waits for its own turns now and then.
const WORKERS: u64 = 3;
/// Longest time to make a failing history smaller.
const SHRINK_LIMIT: Duration = Duration::from_secs(45);

/// When it is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// So many histories were lived.
    Histories(u64),
    /// The time is up.
    Time,
}

/// Lives histories of consecutive seeds; fails with a small history and the command that repeats it.
///
/// # Panics
/// If one fails.
#[expect(clippy::print_stdout, reason = "shown on request: which seeds, and how many")]
pub(crate) fn run(first: u64, until: Until, limit: Duration) {
    let start = Instant::now();
    let (lived, failure) = find_failure(first, until, limit);
    if let Some((script, failure)) = failure {
        let (small, smallest) = shrink(&script, &failure, SHRINK_LIMIT);
        panic!(
            "{} (at step {})\nrepeat with KEEPWELL_SIM_SEED={}\nthe whole history: {} (at step {})\nwhat is left of it:\n{}",
            smallest.what,
            smallest.step,
            script.seed,
            failure.what,
            failure.step,
            describe(&small)
        );
    }
    println!("{lived} histories from seed {first} on, in {:?}", start.elapsed());
}

/// Lives histories until one fails; returns how many were lived, and that one.
pub(crate) fn find_failure(
    first: u64,
    until: Until,
    limit: Duration,
) -> (u64, Option<(Script, Failure)>) {
    let start = Instant::now();
    let (next, lived, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let found: Mutex<Option<(Script, Failure)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) && start.elapsed() < limit {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if matches!(until, Until::Histories(wanted) if number >= wanted) {
                        return;
                    }
                    let script = Script::draw(first.wrapping_add(number));
                    let outcome = live(&script);
                    lived.fetch_add(1, Ordering::SeqCst);
                    if let Err(failure) = outcome {
                        over.store(true, Ordering::SeqCst);
                        let mut found = found.lock().expect("nobody panics with it");
                        found.get_or_insert((script, failure));
                    }
                }
            });
        }
    });
    (lived.into_inner(), found.into_inner().expect("nobody panics with it"))
}
