//! An oracle beside a database server: it commits one number after the other, through every crash, and knows afterwards what must be there.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Commits numbers to a table with one column `n`.
pub(crate) struct Oracle {
    table: &'static str,
    // The last number that the server said it has.
    committed: AtomicU64,
    done: AtomicBool,
}

impl Oracle {
    /// Begins with an empty table.
    pub(crate) fn of(table: &'static str) -> Self {
        Self { table, committed: AtomicU64::new(0), done: AtomicBool::new(false) }
    }

    /// Writes until [`Oracle::stop_later`] is over; `answer` runs SQL, and says nothing if the server was killed meanwhile.
    pub(crate) fn write(&self, answer: impl Fn(&str) -> Option<String>) {
        let mut number = 1;
        while !self.done.load(Ordering::Relaxed) {
            if answer(&format!("insert into {} values ({number})", self.table)).is_none() {
                // Killed in between: only the server knows whether the commit came through.
                let last = answer(&format!("select coalesce(max(n), 0) from {}", self.table));
                let Some(last) = last else { continue };
                number = last.parse().expect("a number");
            }
            self.committed.store(number, Ordering::Relaxed);
            number += 1;
        }
    }

    /// Returns the last number that is committed for certain; one more may be, without an answer yet.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Ends the writer when the result is dropped, also when the test fails.
    pub(crate) fn stop_later(&self) -> Stop<'_> {
        Stop(self)
    }
}

/// Ends the writer of an oracle.
pub(crate) struct Stop<'a>(&'a Oracle);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// Returns the question for how many numbers there are; -1 if one is missing between 1 and the last, or is there twice.
pub(crate) fn counted(table: &str) -> String {
    format!(
        "select case when count(*) = coalesce(max(n), 0) and count(*) = count(distinct n) then count(*) else -1 end from {table}"
    )
}

/// Fails unless the answer to [`counted`] is among what was expected.
pub(crate) fn must_be_among(expected: &RangeInclusive<u64>, answer: &str, when: &str) {
    let count: i64 = answer.parse().expect("a number");
    let count = u64::try_from(count).unwrap_or_else(|_| panic!("{when}: a number is missing"));
    assert!(expected.contains(&count), "{when}: {count} of {expected:?}");
}
