//! Counting what a restore does, from many threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::entry::EntryPath;
use crate::restore::{PROBLEMS_LIMIT, RestoreProblem, RestoreReport};
use crate::target::attributes::Shortfalls;

/// The report in the making.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) deleted: AtomicU64,
    owners_refused: AtomicU64,
    attributes_refused: AtomicU64,
    problem_count: AtomicU64,
    problems: Mutex<Vec<RestoreProblem>>,
}

/// Adds one or more to a count.
pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

impl Tally {
    pub(super) fn problem(&self, path: EntryPath, message: String) {
        add(&self.problem_count, 1);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS_LIMIT {
            problems.push(RestoreProblem { path, message });
        }
    }

    /// Counts what only a privileged process could have set; it is told once, at the end.
    pub(super) fn refusals(&self, shortfalls: &Shortfalls) {
        add(&self.owners_refused, u64::from(shortfalls.owner));
        add(&self.attributes_refused, u64::from(shortfalls.privileged_attribute));
    }

    /// Returns the summaries of what was refused.
    pub(super) fn refused(&self) -> Vec<String> {
        let told = |count: &AtomicU64, what: &str| match count.load(Ordering::Relaxed) {
            0 => None,
            count => Some(format!("{what} of {count} entries may only be set by root")),
        };
        let owners = told(&self.owners_refused, "the owner");
        owners.into_iter().chain(told(&self.attributes_refused, "some attributes")).collect()
    }

    pub(super) fn into_report(self) -> RestoreReport {
        let mut problems = self.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Threads find them in any order.
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        RestoreReport {
            files: self.files.into_inner(),
            directories: self.directories.into_inner(),
            others: self.others.into_inner(),
            bytes: self.bytes.into_inner(),
            unchanged: self.unchanged.into_inner(),
            skipped: self.skipped.into_inner(),
            deleted: self.deleted.into_inner(),
            problems,
            problem_count: self.problem_count.into_inner(),
        }
    }
}
