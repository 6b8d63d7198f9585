//! What the desk is told and asked, and the way there.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use serde_json::Value;
use storepool::clock::Timestamp;
use tokio::sync::{broadcast, oneshot};

use super::process::JobEnd;
use super::queue::Wish;
use crate::job::Task;
use crate::journal::{Job, JobId};

/// What the desk is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A job said something.
    Line {
        /// Which.
        id: JobId,
        /// What.
        message: Value,
    },
    /// A job's process ended.
    Ended {
        /// Which.
        id: JobId,
        /// How.
        end: JobEnd,
    },
    /// Somebody wants something.
    Command(Command),
}

/// What can be asked of the desk.
#[derive(Debug)]
pub(crate) enum Command {
    /// Do something.
    Submit {
        /// What.
        wish: Box<Wish>,
        /// Key and hash of the request, so that a repeated one gets the same answer.
        idempotency: Option<(String, u64)>,
        /// The answer.
        reply: oneshot::Sender<Submitted>,
    },
    /// Stop a job, or take it from the queue.
    Cancel {
        /// Which.
        id: JobId,
        /// Whether there was one.
        reply: oneshot::Sender<bool>,
    },
    /// Listen to a job.
    Subscribe {
        /// Which.
        id: JobId,
        /// The answer; `None` if there is no such job.
        reply: oneshot::Sender<Option<Subscribed>>,
    },
    /// Read the configuration again.
    Reload {
        /// Why it was not taken, if it was not.
        reply: Option<oneshot::Sender<Result<(), String>>>,
    },
    /// Ask when each task runs next.
    Plan {
        /// The answer.
        reply: oneshot::Sender<Vec<(Task, Timestamp)>>,
    },
    /// End, with all jobs stopped safely or abandoned, within ten seconds.
    Stop,
}

/// What became of a wish.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// It is a job now, or was one already.
    Job {
        /// Its number.
        id: JobId,
        /// Whether it was entered by this very request.
        new: bool,
    },
    /// The key was used for another request.
    KeyReused,
    /// Too much waits already, or the daemon ends.
    Unavailable(String),
}

/// A job and what it says from now on.
#[derive(Debug)]
pub(crate) struct Subscribed {
    /// The job as it is.
    pub(crate) job: Job,
    /// What it said last.
    pub(crate) last: Option<Arc<Value>>,
    /// What it will say; `None` if it has ended.
    pub(crate) messages: Option<broadcast::Receiver<Arc<Value>>>,
}

/// The way to the desk.
#[derive(Clone, Debug)]
pub(crate) struct DeskHandle {
    sender: SyncSender<Event>,
}

impl DeskHandle {
    /// Makes the way to the desk that hears the other end.
    pub(super) fn new(sender: SyncSender<Event>) -> Self {
        Self { sender }
    }

    /// Tells the desk; never waits. `false` if it is gone or has too much to do.
    pub(crate) fn tell(&self, command: Command) -> bool {
        match self.sender.try_send(Event::Command(command)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}
