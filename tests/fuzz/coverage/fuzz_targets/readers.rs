//! One fuzz target for all readers: the first byte chooses which.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../targets.rs"]
mod targets;

use targets::{Target, Verdict, targets};

thread_local! {
    static TARGETS: Vec<(Target, Vec<Verdict>)> = targets()
        .into_iter()
        .map(|target| {
            let written = target.corpus.iter().map(|bytes| (target.read)(bytes)).collect();
            (target, written)
        })
        .collect();
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    TARGETS.with(|targets| {
        let (target, written) = &targets[usize::from(*choice) % targets.len()];
        let verdict = (target.read)(bytes);
        let forged = target.is_authentic && verdict != Verdict::Refused;
        assert!(!forged || written.contains(&verdict), "{} believes a forgery", target.name);
    });
});
