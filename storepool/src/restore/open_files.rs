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
        begun.open.retain(is_unfinished);
        begun.parked.retain(is_unfinished);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::restore::batch::{Spot, TargetDirectory, Way};
    use crate::target::attributes::Attributes;

    fn open_file() -> Arc<FileTask> {
        let directory = Arc::new(TargetDirectory {
            parent: None,
            name: Box::default(),
            depth: 0,
            fresh: true,
            gives_acl: false,
            attributes: None,
            tree: None,
            swept: false,
        });
        let handle = std::fs::File::open("/dev/null").unwrap();
        Arc::new(FileTask {
            spot: Spot { directory, name: Box::default() },
            size: 0,
            attributes: Attributes::new(&crate::entry::Metadata::default(), 0, 0),
            way: Way::New,
            pieces: 0,
            outstanding: AtomicU64::new(1),
            anchor: None,
            slot: Mutex::new(Slot::Open(Arc::new(handle.into()))),
            differs: AtomicBool::new(false),
        })
    }

    #[test]
    fn the_oldest_are_closed_and_none_is_lost() {
        let open_files = OpenFiles::bounded(4);
        let files: Vec<_> = (0..10).map(|_| open_file()).collect();

        for file in &files {
            open_files.opened(file);
        }
        *files[9].slot.lock().unwrap() = Slot::Finished;
        open_files.closed();
        open_files.forget_finished();

        let is_open = |file: &Arc<FileTask>| matches!(&*file.slot.lock().unwrap(), Slot::Open(_));
        let open: Vec<_> = files.iter().map(is_open).collect();
        assert_eq!(open, [false, false, false, false, false, false, true, true, true, false]);
        assert_eq!(open_files.take().len(), 9);
    }
}
