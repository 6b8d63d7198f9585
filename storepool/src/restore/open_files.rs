//! The files that several frames fill and that are not finished: found again after an interruption, and not too many of them open.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::restore::batch::{FileTask, Slot};
use crate::target::identity_of;

/// Unfinished files kept open at most; others are closed and opened again when their next piece comes.
const OPEN_FILES_MOST: usize = 512;

/// Unfinished files.
#[derive(Debug)]
pub(super) struct OpenFiles {
    most: usize,
    open: AtomicUsize,
    begun: Mutex<Begun>,
}

// Finished ones among them are forgotten in passing.
#[derive(Debug, Default)]
struct Begun {
    open: VecDeque<Arc<FileTask>>,
    parked: Vec<Arc<FileTask>>,
}

impl OpenFiles {
    /// Bounded by what the process may have open.
    pub(super) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        // The rest is for packs, directories and whatever the program has open.
        let quarter = limit.map_or(OPEN_FILES_MOST, |limit| (limit / 4) as usize);
        Self::bounded(quarter.clamp(4, OPEN_FILES_MOST))
    }

    /// Keeps at most so many open.
    pub(super) fn bounded(most: usize) -> Self {
        Self { most, open: AtomicUsize::new(0), begun: Mutex::default() }
    }

    /// Takes notice of a file just opened, and closes others for it. The caller holds no slot.
    pub(super) fn opened(&self, file: &Arc<FileTask>) {
        let mut begun = self.lock();
        begun.open.push_back(file.clone());
        self.open.fetch_add(1, Ordering::AcqRel);
        while self.open.load(Ordering::Acquire) > self.most && begun.open.len() > 1 {
            let Some(oldest) = begun.open.pop_front() else { break };
            if self.park(&oldest) {
                begun.parked.push(oldest);
            }
        }
    }

    /// Takes notice that an open file was closed.
    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Forgets the files that are finished; called between batches.
    pub(super) fn forget_finished(&self) {
        let mut begun = self.lock();
        begun.open.retain(|file| is_unfinished(file));
        begun.parked.retain(|file| is_unfinished(file));
    }

    /// Takes all files out, some of them finished.
    pub(super) fn take(&self) -> Vec<Arc<FileTask>> {
        let begun = std::mem::take(&mut *self.lock());
        begun.parked.into_iter().chain(begun.open).collect()
    }

    fn park(&self, file: &FileTask) -> bool {
        let mut slot = file.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Slot::Open(handle) = &*slot else { return false };
        let Ok(stat) = rustix::fs::fstat(handle) else { return false };
        *slot = Slot::Parked(identity_of(&stat));
        self.closed();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unfinished(file: &Arc<FileTask>) -> bool {
    let slot = file.slot.lock().unwrap_or_else(PoisonError::into_inner);
    matches!(&*slot, Slot::Open(_) | Slot::Parked(_))
}
