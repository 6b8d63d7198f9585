//! The simulation proves itself: each mistake that is planted in the real code is found, within as many histories as one run of the suite lives.

use std::time::Duration;

use storepool::simulated::{Mistake, plant};

use crate::alone;
use crate::run::{Until, find_failure};

/// Most histories that it may take to find a mistake.
const HISTORIES_MOST: u64 = 2_000;
/// Longest time for it.
const MISTAKE_LIMIT: Duration = Duration::from_secs(240);
/// The same seeds each time, so that what was found once is found again.
const FIRST_SEED: u64 = 1_000;

/// A mistake that is made as long as this lives.
pub(crate) struct Planted;

impl Planted {
    pub(crate) fn new(mistake: Mistake) -> Self {
        plant(Some(mistake));
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

fn is_found(mistake: Mistake) {
    let _alone = alone();
    let _planted = Planted::new(mistake);
    let (lived, failure) =
        find_failure(FIRST_SEED, Until::Histories(HISTORIES_MOST), MISTAKE_LIMIT);
    let Some((script, failure)) = failure else {
        panic!("{lived} histories, and nobody noticed {mistake:?}");
    };
    println_found(mistake, lived, script.seed, &failure.what);
}

#[expect(clippy::print_stdout, reason = "shown on request: how it was noticed")]
fn println_found(mistake: Mistake, lived: u64, seed: u64, what: &str) {
    println!("{mistake:?}: after {lived} histories, by seed {seed}: {what}");
}

#[test]
fn a_pack_that_was_not_synced_is_noticed() {
    is_found(Mistake::PackUnsynced);
}

#[test]
fn the_name_of_a_pack_that_was_not_synced_is_noticed() {
    is_found(Mistake::PackNameUnsynced);
}

#[test]
fn a_point_that_is_written_before_its_packs_is_noticed() {
    is_found(Mistake::PointBeforePacks);
}

#[test]
fn a_prune_that_ignores_a_running_session_is_noticed() {
    is_found(Mistake::PruneIgnoresSessions);
}

#[test]
fn a_backup_that_relies_on_condemned_packs_is_noticed() {
    is_found(Mistake::CondemnedReused);
}

#[test]
fn a_forgotten_point_without_a_mark_is_noticed() {
    is_found(Mistake::ForgottenUnmarked);
}

#[test]
fn a_read_without_verification_is_noticed() {
    is_found(Mistake::UnverifiedChunks);
}

#[test]
fn an_index_that_is_taken_for_the_truth_is_noticed() {
    is_found(Mistake::IndexIsTruth);
}

#[test]
fn leftovers_that_are_relied_on_without_a_sync_are_noticed() {
    is_found(Mistake::LeftoversUnsynced);
}

#[test]
fn a_ledger_that_is_taken_for_the_truth_is_noticed() {
    is_found(Mistake::LedgerIsTruth);
}

#[test]
fn a_prune_by_the_own_clock_is_noticed() {
    is_found(Mistake::OwnClock);
}

#[test]
fn a_commit_before_its_data_is_noticed() {
    is_found(Mistake::CommitFirst);
}

#[test]
fn a_timeout_that_is_taken_for_success_is_noticed() {
    is_found(Mistake::TimeoutIsSuccess);
}

#[test]
fn a_salt_that_is_used_twice_is_noticed() {
    is_found(Mistake::SaltReused);
}
