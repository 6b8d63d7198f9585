//! Whole lives of a server, simulated: real pool and vault code over a simulated disk, network and clock. `docs/simulation.md` says how, and what to do
//! with a seed that fails.

mod chance;
mod disk;
mod history;
mod host;
mod machine;
mod network;
mod promises;
mod script;
mod tree;
mod work;

use crate::script::Script;

#[test]
fn try_one() {
    storepool::simulated::in_lockstep();
    let start = std::time::Instant::now();
    let mut failed = 0;
    let from: u64 = std::env::var("FROM").ok().and_then(|x| x.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("COUNT").ok().and_then(|x| x.parse().ok()).unwrap_or(50);
    for seed in from..from + count {
        let script = Script::draw(seed);
        if let Err(failure) = history::live(&script) {
            failed += 1;
            eprintln!("seed {seed}: step {}: {}", failure.step, failure.what);
            if failed < 3 {
                eprintln!("{:#?}", script.steps.get(failure.step));
            }
        }
    }
    eprintln!("{failed} of {count} failed in {:?}", start.elapsed());
    assert_eq!(failed, 0);
}
