//! Whole lives of a server, simulated: real pool and vault code over a simulated disk, network and clock. `docs/simulation.md` says how, and what to do
//! with a seed that fails.

mod bond;
mod chance;
mod commits;
mod disk;
mod history;
mod host;
mod machine;
mod mistakes;
mod network;
mod promises;
mod run;
mod script;
mod scripted;
mod server;
mod shrink;
mod tree;
mod work;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::run::{Until, run};
use crate::script::Script;

/// Fresh histories of each run of the suite; a build without optimisation lives fewer.
const HISTORIES: u64 = if cfg!(debug_assertions) { 300 } else { 2_000 };
/// Longest time for them; making a failing one small comes on top. A machine that is too slow lives fewer, and says how many.
const HISTORIES_LIMIT: Duration = Duration::from_secs(300);

// Planted mistakes are for the whole process: histories with and without them take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    storepool::simulated::in_lockstep();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let read = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(read.unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

fn fresh_seed() -> u64 {
    let mut seed = [0; 8];
    storepool::entropy::Entropy::fill(&storepool::entropy::SystemEntropy, &mut seed);
    u64::from_le_bytes(seed)
}

// Each state of the sources lives histories that nobody has lived before, and the same ones whenever it is tested.
fn seed_of_this_state() -> u64 {
    let sources = ["HEAD:storepool", "HEAD:cloudsync", "HEAD:migrations", "HEAD:tests/simulate"];
    let trees = std::process::Command::new("git").arg("rev-parse").args(sources).output();
    match trees {
        Ok(output) if output.status.success() => {
            let hash = blake3::hash(output.stdout.trim_ascii());
            u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
        }
        _ => fresh_seed(),
    }
}

#[test]
fn lived_histories_keep_every_promise() {
    let _alone = alone();
    if let Some(seed) = number("KEEPWELL_SIM_SEED") {
        return run(seed, Until::Histories(1), HISTORIES_LIMIT);
    }
    let first = number("KEEPWELL_SIM_FIRST");
    match number("KEEPWELL_SIM_MINUTES") {
        Some(minutes) => {
            let first = first.unwrap_or_else(fresh_seed);
            run(first, Until::Time, Duration::from_secs(60 * minutes));
        }
        None => run(
            first.unwrap_or_else(seed_of_this_state),
            Until::Histories(number("KEEPWELL_SIM_HISTORIES").unwrap_or(HISTORIES)),
            HISTORIES_LIMIT,
        ),
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let _alone = alone();
    for seed in 0..25 {
        let script = Script::draw(seed);
        let (once, again) = (history::live(&script), history::live(&script));
        let (Ok(once), Ok(again)) = (&once, &again) else {
            assert_eq!(once, again, "seed {seed}");
            continue;
        };
        for (number, (one, other)) in once.lines().zip(again.lines()).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {number} of\n{once}");
        }
        assert_eq!(once.len(), again.len(), "seed {seed}");
    }
}
