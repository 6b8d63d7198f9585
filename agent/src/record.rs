//! A run that is entered in the journal: by the daemon, or by the command itself if none runs.

use serde_json::Value;
use storepool::clock::{Clock, SystemClock};
use storepool::entropy::SystemEntropy;

use crate::assembly::Assembly;
use crate::console::failure;
use crate::error::{Cause, Error, Outcome};
use crate::journal::{Ending, JobId, JobState, Journal, NewJob, Reason};
use crate::signals::EXIT_INTERRUPTED;

/// One run in the journal.
pub(crate) struct Record<'a> {
    journal: &'a Journal,
    id: JobId,
    // The daemon enters the jobs of its workers itself.
    own: bool,
}

/// Opens the journal of this installation.
pub(crate) fn open_journal(assembly: &Assembly) -> Result<Journal, Cause> {
    let journal = Journal::open(&assembly.place.state(), assembly.holder(), &SystemEntropy)?;
    if let Some(aside) = journal.put_aside() {
        let aside = aside.display();
        assembly
            .console
            .warn(format!("the journal was damaged: begun anew, the old one is {aside}"));
    }
    Ok(journal)
}

impl<'a> Record<'a> {
    /// Enters a run that begins now.
    pub(crate) fn begin(
        assembly: &Assembly,
        journal: &'a Journal,
        task: String,
        reason: Reason,
    ) -> Result<Self, Cause> {
        if let Some(id) = assembly.job {
            return Ok(Self { journal, id, own: false });
        }
        let now = SystemClock::new().now();
        journal.reap(now)?;
        let job = NewJob { task, reason, attempt: 1, arguments: Vec::new(), request: None };
        let id = journal.queue(&job, now)?;
        journal.start(id, now)?;
        Ok(Self { journal, id, own: true })
    }

    /// Returns the number of the job.
    pub(crate) fn id(&self) -> JobId {
        self.id
    }

    /// Enters how the run ended.
    pub(crate) fn end(
        self,
        result: Result<Outcome, &Error>,
        summary: Option<Value>,
    ) -> Result<(), Cause> {
        if !self.own {
            return Ok(());
        }
        let (state, ending) = ending(result, summary);
        self.journal.finish(self.id, state, &ending, SystemClock::new().now())
    }
}

/// Returns how a run is entered that ended so.
fn ending(result: Result<Outcome, &Error>, summary: Option<Value>) -> (JobState, Ending) {
    match result {
        Ok(outcome) => {
            let ending = Ending { exit_code: Some(outcome.code()), summary, ..Ending::default() };
            (state_of(outcome.code()), ending)
        }
        Err(error) => {
            let failure = failure::explain(error);
            let ending = Ending {
                exit_code: Some(failure.code),
                message: Some(failure.message),
                hint: failure.hint,
                summary,
            };
            let state = match failure.stopped {
                true => JobState::Stopped,
                false => state_of(failure.code),
            };
            (state, ending)
        }
    }
}

/// Returns the state that an exit code stands for.
pub(crate) fn state_of(code: u8) -> JobState {
    match i32::from(code) {
        0 => JobState::Done,
        // Something was skipped, or only the vault is behind, which is a job of its own.
        3 | 4 => JobState::Incomplete,
        EXIT_INTERRUPTED => JobState::Cancelled,
        _ => JobState::Failed,
    }
}

/// Runs a command that is a task of maintenance, and enters it. A journal that cannot be used does not keep anybody from mending the pool.
pub(crate) fn recorded(
    assembly: &Assembly,
    task: &str,
    run: impl FnOnce() -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    if assembly.job.is_some() || !assembly.place.configuration.exists() {
        return run();
    }
    let journal = match open_journal(assembly) {
        Ok(journal) => journal,
        Err(cause) => {
            tracing::warn!(error = %cause.chain(), "this run is not entered in the journal");
            return run();
        }
    };
    let record = Record::begin(assembly, &journal, task.to_string(), Reason::Hand);
    let result = run();
    let entered = record.and_then(|record| match &result {
        Ok(outcome) => record.end(Ok(*outcome), None),
        Err(error) => record.end(Err(error), None),
    });
    if let Err(cause) = entered {
        tracing::warn!(error = %cause.chain(), "this run is not entered in the journal");
    }
    result
}
