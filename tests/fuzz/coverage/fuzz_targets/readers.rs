//! One fuzz target for all readers: the first byte chooses which, unless `KEEPWELL_FUZZ_READER` names one.
//!
//! Folders of a corpus are given what the fixtures hold before they are read, so that no run begins with nothing.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;

#[path = "../../targets.rs"]
mod targets;

use targets::{Target, Verdict, targets};

struct Readers {
    all: Vec<(Target, Vec<Verdict>)>,
    only: Option<usize>,
}

impl Readers {
    fn load() -> Self {
        let with_verdicts = |target: Target| {
            let written = target.corpus.iter().map(|bytes| (target.read)(bytes)).collect();
            (target, written)
        };
        let all: Vec<_> = targets().into_iter().map(with_verdicts).collect();
        let only = std::env::var("KEEPWELL_FUZZ_READER").ok().map(|name| {
            let known: Vec<_> = all.iter().map(|(target, _)| target.name).collect();
            let found = known.iter().position(|known| *known == name);
            found.unwrap_or_else(|| panic!("KEEPWELL_FUZZ_READER is one of {known:?}"))
        });
        Self { all, only }
    }

    fn read(&self, choice: u8, bytes: &[u8]) {
        let index = self.only.unwrap_or(usize::from(choice) % self.all.len());
        let (target, written) = &self.all[index];
        let verdict = (target.read)(bytes);
        let forged = target.is_authentic && verdict != Verdict::Refused;
        assert!(!forged || written.contains(&verdict), "{} believes a forgery", target.name);
    }

    fn plant(&self, folder: &Path) {
        for (choice, (target, _)) in self.all.iter().enumerate() {
            if self.only.is_some_and(|only| only != choice) {
                continue;
            }
            for (number, bytes) in target.corpus.iter().enumerate() {
                let name = format!("{}-{number}", target.name.replace(' ', "-"));
                let seed = [&[choice as u8], bytes.as_slice()].concat();
                fs::write(folder.join(name), seed).expect("the corpus can be written to");
            }
        }
    }
}

thread_local! {
    static READERS: Readers = Readers::load();
}

fn plant_corpus() {
    let folders = std::env::args_os().skip(1).map(PathBuf::from).filter(|path| path.is_dir());
    READERS.with(|readers| folders.for_each(|folder| readers.plant(&folder)));
}

fuzz_target!(init: plant_corpus(), |input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    READERS.with(|readers| readers.read(*choice, bytes));
});
