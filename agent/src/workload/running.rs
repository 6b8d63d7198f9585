//! A program that runs: waited for, and ended with everything it started.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use storepool::monitor::Monitor;

/// How soon the end of a program is seen.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How soon a program is ended after the run was asked to stop.
const STOP_WITHIN: Duration = Duration::from_millis(50);

/// A program that is ended with everything it started when it is no longer wanted.
pub(super) struct Running(Mutex<Leader>);

// The first process of a program, of whose group all are that it starts.
struct Leader {
    child: Child,
    // Known once it was waited for: from then on its number may be another's.
    ended: Option<ExitStatus>,
    given_up: bool,
}

impl Leader {
    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }
}

impl Running {
    /// Returns the program that was started as the first of a process group.
    pub(super) fn of(child: Child) -> Self {
        Self(Mutex::new(Leader { child, ended: None, given_up: false }))
    }

    /// Does what waits for the program; it is ended meanwhile when `monitor` asks to stop, so that the wait is over.
    pub(super) fn unless_stopped<T>(&self, monitor: &dyn Monitor, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (done, wait) = channel::<()>();
            scope.spawn(move || {
                while wait.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Timeout) {
                    if monitor.cancelled() {
                        return self.end();
                    }
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It was ended by [`Running::end`], or the system does not tell.
    pub(super) fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            // Not held while it runs, so that it can be ended meanwhile.
            let mut leader = self.lock();
            // It may have ended well, and what it started before all was said.
            if leader.given_up {
                return Err(io::Error::other("it was ended, since the run was asked to stop"));
            }
            if let Some(status) = leader.look()? {
                return Ok(status);
            }
            drop(leader);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns how it ended, if it did.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.lock().look().ok()?
    }

    /// Sends it a signal, but nothing to what it started.
    pub(super) fn send(&self, signal: Signal) {
        let leader = self.lock();
        if leader.ended.is_none() {
            // It has ended already, if it cannot be sent.
            let _ = kill_process(Pid::from_child(&leader.child), signal);
        }
    }

    /// Ends it with everything it started, which may outlive it and hold its output open.
    pub(super) fn end(&self) {
        let mut leader = self.lock();
        if leader.ended.is_none() {
            let _ = kill_process_group(Pid::from_child(&leader.child), Signal::KILL);
            leader.ended = leader.child.wait().ok();
            leader.given_up = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Leader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns how a program ended, with the last line of its complaint.
pub(super) fn ending(status: ExitStatus, complaint: &str) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
    };
    match complaint.trim().lines().last() {
        Some(last) => format!("{how}: {last}"),
        None => how,
    }
}
