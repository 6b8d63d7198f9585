//! Readers of bytes from disk and vault, fed with what nobody wrote: they neither panic nor take more memory than the bytes are worth, and take nothing
//! changed for sound. The corpus is the pool and the vault of `tests/fixtures`; changes are drawn from a seed that each run prints.
//!
//! The targets are plain functions ([`targets`]), so that a coverage-guided fuzzer can call the same ones.

mod allocation;
mod mutation;
mod targets;

use std::time::{Duration, Instant};

use crate::allocation::most_allocated;
use crate::mutation::Mutator;
use crate::targets::{Verdict, targets};

/// How long each target is fed.
const TIME_OF_EACH: Duration = Duration::from_millis(1_500);
/// Memory that a reader may take, whatever it is given.
const ALLOCATION_BASE: usize = 4 << 20;
/// Memory that it may take for each byte of input: an entry of a tree has some ten bytes on disk and some hundreds in memory.
const ALLOCATION_PER_BYTE: usize = 64;
/// Fewest inputs of a target, on the slowest machine.
const INPUTS_LEAST: u64 = 30;

#[test]
fn no_reader_panics_takes_too_much_or_believes_a_forgery() {
    let seed = mutation::seed();
    for target in targets() {
        assert!(!target.corpus.is_empty(), "{} has a corpus", target.name);
        let written: Vec<Verdict> =
            target.corpus.iter().map(|bytes| (target.read)(bytes)).collect();
        assert!(!written.contains(&Verdict::Refused), "{}: what was written is read", target.name);
        let mut mutator = Mutator::new(seed);
        let (start, mut inputs) = (Instant::now(), 0);
        while start.elapsed() < TIME_OF_EACH || inputs < INPUTS_LEAST {
            let changed = mutator.change(&target.corpus);
            inputs += 1;
            let mut verdict = None;
            let allocated = most_allocated(|| {
                verdict = std::panic::catch_unwind(|| (target.read)(&changed)).ok();
            });
            let what = || format!("{}: KEEPWELL_FUZZ_SEED={seed}, input {inputs}", target.name);
            let verdict = verdict.unwrap_or_else(|| panic!("{} panics", what()));
            let most = ALLOCATION_BASE + ALLOCATION_PER_BYTE * changed.len();
            assert!(allocated <= most, "{}: {allocated} bytes for {}", what(), changed.len());
            if target.is_authentic && verdict != Verdict::Refused {
                assert!(written.contains(&verdict), "{} believes a forgery", what());
            }
        }
    }
}
