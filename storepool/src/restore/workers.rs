//! The threads of a restore. Each keeps its reader and handles from batch to batch; a stage is run by all of them and is over when all are done.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::chunks::{ChunkReader, ChunkSource};
use crate::error::{Error, Result};
use crate::restore::desk::Desk;
use crate::restore::run::Run;

/// How often it is looked whether a restore is to end whose threads may all be waiting for a source far away.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// One thread's means.
pub(super) struct Worker<'a> {
    /// From 0 on.
    pub(super) number: usize,
    pub(super) reader: Box<dyn ChunkReader + 'a>,
    pub(super) desk: Desk<'a>,
}

/// Work that all workers do together, taking shares until none is left.
pub(super) trait Stage: Send + Sync {
    /// Takes shares and does them. An error ends the restore.
    fn work(&self, worker: &mut Worker<'_>) -> Result<()>;

    /// Lets go of those who wait for something, because the restore is to end. May be called again and again.
    fn give_up(&self) {}
}

/// The workers.
pub(super) struct Crew<'a> {
    run: &'a Run<'a>,
    jobs: Vec<Sender<Arc<dyn Stage + 'a>>>,
    answers: Receiver<Result<()>>,
}

impl<'a> Crew<'a> {
    /// Starts `count` workers; they end when the crew is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        run: &'a Run<'a>,
        source: &'a dyn ChunkSource,
        count: usize,
    ) -> Self {
        let (answer, answers) = unbounded();
        let start = |number| {
            let (sender, jobs) = bounded(1);
            let answer = answer.clone();
            scope.spawn(move || serve(number, run, source, &jobs, &answer));
            sender
        };
        Self { run, jobs: (0..count).map(start).collect(), answers }
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.jobs.len()
    }

    /// Has all workers do the stage; returns when all are done, with the first error.
    pub(super) fn perform(&self, stage: Arc<dyn Stage + 'a>) -> Result<()> {
        let begun = self.jobs.iter().filter(|jobs| jobs.send(stage.clone()).is_ok()).count();
        let lost = || Error::WorkerPanicked { stage: "restoring" };
        let mut result = if begun == self.jobs.len() { Ok(()) } else { Err(lost()) };
        let mut missing = begun;
        while missing > 0 {
            match self.answers.recv_timeout(LOOK_AROUND) {
                Ok(answer) => {
                    result = result.and(answer);
                    missing -= 1;
                }
                Err(RecvTimeoutError::Timeout) if self.run.check().is_err() => stage.give_up(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return result.and(Err(lost())),
            }
        }
        result
    }
}

fn serve<'a>(
    number: usize,
    run: &'a Run<'a>,
    source: &'a dyn ChunkSource,
    jobs: &Receiver<Arc<dyn Stage + 'a>>,
    answers: &Sender<Result<()>>,
) {
    let opened = source.reader();
    let mut worker = opened.map(|reader| Worker { number, reader, desk: Desk::new(run) });
    for stage in jobs {
        let answer = match &mut worker {
            Ok(worker) => {
                let work = AssertUnwindSafe(|| stage.work(worker));
                let done = std::panic::catch_unwind(work);
                done.unwrap_or(Err(Error::WorkerPanicked { stage: "restoring" }))
            }
            // Told once; the restore ends with it.
            Err(error) => Err(std::mem::replace(error, Error::Interrupted)),
        };
        if answer.is_err() {
            run.stop();
        }
        drop(stage);
        let _ = answers.send(answer);
    }
}
