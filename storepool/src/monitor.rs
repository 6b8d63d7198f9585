//! Progress for whoever watches. Nothing needed for correctness travels this way.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::entry::EntryPath;

/// What an operation tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A named stage begins, such as "reading files" or "deleting packs".
    Stage(&'static str),
    /// The items of this stage are these, in the plural, and not those of the operation as a whole.
    Counting(&'static str),
    /// The amount of work is known (or known better): entries and bytes.
    Expected {
        /// Files, chunks or packs, whatever the stage counts.
        items: u64,
        /// Bytes of content.
        bytes: u64,
    },
    /// So much more was done since the last event of this thread.
    Done {
        /// Items finished.
        items: u64,
        /// Bytes finished.
        bytes: u64,
    },
    /// New bytes were stored (after compression).
    Stored {
        /// Bytes added to packs.
        bytes: u64,
    },
    /// This entry is being worked on. Sent for large files and directories only.
    Current(EntryPath),
    /// One item failed; the operation goes on.
    Problem {
        /// Which entry.
        path: EntryPath,
        /// What happened.
        message: String,
    },
}

/// Watches an operation and may ask it to stop.
///
/// Called from worker threads, several at a time; must return quickly.
pub trait Monitor: Send + Sync {
    /// Takes notice of an event.
    fn event(&self, event: Event);

    /// Returns whether the operation should stop as soon as it safely can, with [`crate::Error::Interrupted`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Default)]
pub struct SilentMonitor;

impl Monitor for SilentMonitor {
    fn event(&self, _event: Event) {}
}

/// A flag that asks an operation to stop.
#[derive(Debug, Default)]
pub struct Cancellation(AtomicBool);

impl Cancellation {
    /// Asks to stop. Safe to call from any thread, more than once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
