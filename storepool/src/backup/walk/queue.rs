//! The stack of jobs that the workers share.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::backup::assembly::DirectoryState;
use crate::backup::walk::large::LargeFile;
use crate::backup::walk::lock;
use crate::backup::walk::pieces::Pieces;
use crate::source::{SourceDirectory, SourceStat};
use crate::tree::{Content, Entry};

pub(super) enum Job {
    Scan(ScanJob),
    Files(Arc<DirectoryState>, Vec<FileJob>),
    Window(Arc<LargeFile>, usize),
    Streams(Arc<DirectoryState>, Vec<StreamJob>),
    Piece(Arc<Pieces>),
}

pub(super) struct ScanJob {
    pub(super) parent: Option<(Arc<DirectoryState>, usize)>,
    pub(super) source: Option<Arc<dyn SourceDirectory>>,
    pub(super) stat: SourceStat,
    pub(super) base: Option<Box<Entry>>,
}

pub(super) struct FileJob {
    pub(super) ordinal: usize,
    pub(super) base: Option<Box<Content>>,
}

pub(super) struct StreamJob {
    pub(super) ordinal: usize,
    pub(super) base: Option<Box<Entry>>,
}

/// The stack of jobs. The newest job goes first, so that few directories are open at a time and neighbours stay together.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: Vec<Job>,
    active: usize,
    stopped: bool,
}

impl Queue {
    pub(super) fn push(&self, job: Job) {
        lock(&self.state).jobs.push(job);
        self.changed.notify_one();
    }

    // Waits for a job; `None` when all are done or the run was stopped.
    pub(super) fn pop(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.active += 1;
                return Some(job);
            }
            if state.active == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn done(&self) {
        let mut state = lock(&self.state);
        state.active -= 1;
        if state.active == 0 && state.jobs.is_empty() {
            self.changed.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn was_stopped(&self) -> bool {
        lock(&self.state).stopped
    }
}

pub(super) struct StopOnFailure<'q> {
    pub(super) queue: &'q Queue,
    pub(super) armed: bool,
}

impl Drop for StopOnFailure<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.queue.stop();
        }
    }
}
