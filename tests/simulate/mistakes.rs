//! The simulation proves itself: each mistake that is planted in the real code is found.

use std::time::{Duration, Instant};

use storepool::simulated::{Mistake, plant};

use crate::alone;
use crate::run::{Until, find_failure};

/// Most histories that it may take to find a mistake: as many as each run of the suite lives.
const HISTORIES_MOST: u64 = 2_000;
/// Longest time for one of them.
const MISTAKE_LIMIT: Duration = Duration::from_secs(120);

const MISTAKES: &[Mistake] = &[
    Mistake::PackUnsynced,
    Mistake::PackNameUnsynced,
    Mistake::PointBeforePacks,
    Mistake::PruneIgnoresSessions,
    Mistake::CondemnedReused,
    Mistake::ForgottenUnmarked,
    Mistake::UnverifiedChunks,
    Mistake::IndexIsTruth,
    Mistake::LedgerIsTruth,
    Mistake::DeleteBeforeCommit,
    Mistake::OwnClock,
    Mistake::CommitFirst,
    Mistake::TimeoutIsSuccess,
    Mistake::SaltReused,
];

struct Planted;

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

#[test]
fn every_planted_mistake_is_found() {
    let _alone = alone();
    let mut report = String::new();
    let mut missed = Vec::new();
    for mistake in MISTAKES {
        let _planted = Planted;
        plant(Some(*mistake));
        let start = Instant::now();
        let (lived, failure) = find_failure(1_000, Until::Histories(HISTORIES_MOST), MISTAKE_LIMIT);
        let what = failure.as_ref().map_or("not found", |(_, failure)| &failure.what);
        report
            .push_str(&format!("{mistake:?}: {lived} histories, {:?}: {what}\n", start.elapsed()));
        if failure.is_none() {
            missed.push(*mistake);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}\n{report}");
    if std::env::var_os("KEEPWELL_SIM_REPORT").is_some() {
        panic!("{report}");
    }
}
