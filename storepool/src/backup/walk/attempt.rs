//! Tries to read a file that may be written to meanwhile: what was read must have been in the file at one moment.

use crate::backup::content::{WindowRead, held_still};
use crate::manifest::ProblemKind;
use crate::source::{SourceError, SourceKind, SourceStat};

/// How often a file that changes under the reader is read.
pub(super) const READS_MOST: u32 = 4;

/// One try to read a file that should hold still.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) stat: SourceStat,
    pub(super) number: u32,
    // What an earlier try found in the same bytes.
    pub(super) before: Option<Vec<WindowRead>>,
}

/// What to do after a try.
pub(super) enum Verdict {
    Accept(SourceStat),
    Again(Attempt),
    GiveUp,
}

impl Attempt {
    pub(super) fn first(stat: SourceStat) -> Self {
        Self { stat, number: 1, before: None }
    }

    /// Judges what was read: either the file held still, or two readings of the same bytes agree (a log that only grows), so that they were
    /// together in the file between the two.
    pub(super) fn judge(self, windows: &[WindowRead], after: SourceStat) -> Verdict {
        if held_still(&self.stat, &after) || self.before.as_deref() == Some(windows) {
            return Verdict::Accept(self.stat);
        }
        if self.number >= READS_MOST || after.kind != SourceKind::File {
            return Verdict::GiveUp;
        }
        let number = self.number + 1;
        if after.size < self.stat.size {
            return Verdict::Again(Attempt { stat: after, number, before: None });
        }
        let again = SourceStat { size: self.stat.size, ..after };
        Verdict::Again(Attempt { stat: again, number, before: Some(windows.to_vec()) })
    }
}

pub(super) fn kept_changing() -> SourceError {
    SourceError {
        kind: ProblemKind::Changed,
        message: format!("changed each of the {READS_MOST} times it was read"),
    }
}
