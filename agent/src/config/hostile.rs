//! Configuration files that nobody wrote: whatever stands in them, they are taken or told, and that is all.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Config;
use super::effective::effective;

#[path = "../../../tests/fuzz/mutation.rs"]
mod mutation;

/// How long the reader is fed.
const TIME: Duration = Duration::from_millis(1_500);
/// Memory that this process may have taken at most, whatever it is given: files are some kilobytes.
const MEMORY_MOST: u64 = 256 << 20;

/// What is shown instead of a secret, and is none.
const HIDDEN: &str = "(hidden)";

fn corpus() -> Vec<Vec<u8>> {
    let written = include_str!("../../../tests/fuzz/corpus/configuration.toml");
    let config = Config::parse(Path::new("/etc/keepwell/keepwell.toml"), written);
    let shown = effective(&config.expect("what people write is taken"));
    vec![written.as_bytes().to_vec(), shown.into_bytes()]
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("a number") << 10
}

#[test]
fn no_configuration_file_makes_the_reader_panic_or_take_much_memory() {
    let seed = mutation::seed();
    let (corpus, mut mutator) = (corpus(), mutation::Mutator::new(seed));
    let (start, mut inputs, mut taken) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < TIME || inputs < 100 {
        let changed = mutator.change(&corpus);
        inputs += 1;
        let text = String::from_utf8_lossy(&changed);
        let read = std::panic::catch_unwind(|| {
            let config = Config::parse(Path::new("/etc/keepwell/keepwell.toml"), &text).ok()?;
            // What was taken can be shown, and what is shown, unless it hides a secret, is taken again and says the same.
            let shown = effective(&config);
            if shown.contains(HIDDEN) {
                return Some(());
            }
            let again = Config::parse(Path::new("/etc/keepwell/keepwell.toml"), &shown);
            assert_eq!(again.as_ref().map(effective).as_ref(), Ok(&shown), "{shown}");
            Some(())
        });
        let read = read.unwrap_or_else(|_| {
            panic!("KEEPWELL_FUZZ_SEED={seed}, input {inputs}: {text}");
        });
        taken += u64::from(read.is_some());
    }
    assert!(taken > 0 && taken < inputs, "{taken} of {inputs} were taken, seed {seed}");
    assert!(peak_memory() < MEMORY_MOST, "seed {seed}");
}
