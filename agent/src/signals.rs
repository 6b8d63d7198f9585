//! Signals: SIGINT and SIGTERM ask a running operation to stop, a second one ends the process; SIGUSR1 asks for one line of status.

use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use storepool::monitor::Cancellation;

/// Exit code of an interrupted command.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;

/// Called when SIGUSR1 arrives.
type StatusLine = Arc<dyn Fn() + Send + Sync>;

/// What arrives from outside while a command runs.
#[derive(Clone, Default)]
pub(crate) struct Attention {
    cancellation: Arc<Cancellation>,
    operation: Arc<Mutex<Option<StatusLine>>>,
}

impl Attention {
    /// Begins to listen. Without a running operation a signal to stop ends the process at once.
    pub(crate) fn listen(&self) {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]) else {
            // Then the system's own handling stays: the process just ends, which the pool survives.
            return;
        };
        let attention = self.clone();
        let listener = std::thread::Builder::new().name("signals".to_string());
        let _ = listener.spawn(move || {
            for signal in signals.forever() {
                attention.take(signal);
            }
        });
    }

    /// Returns the flag that asks the running operation to stop.
    pub(crate) fn cancellation(&self) -> Arc<Cancellation> {
        self.cancellation.clone()
    }

    /// Says that an operation runs which looks at the flag, and how it tells its status.
    pub(crate) fn begin_operation(&self, status: StatusLine) {
        *self.operation.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// Says that the operation has ended.
    pub(crate) fn end_operation(&self) {
        *self.operation.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks the running operation to stop; without one the process ends at once.
    pub(crate) fn stop(&self) {
        self.take(SIGTERM);
    }

    fn take(&self, signal: i32) {
        let operation = self.operation.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (signal, operation) {
            (SIGUSR1, Some(status)) => status(),
            (SIGUSR1, None) => {}
            (_, Some(_)) if !self.cancellation.is_cancelled() => self.cancellation.cancel(),
            // Nothing is lost by it: every change of the pool survives a kill.
            _ => std::process::exit(EXIT_INTERRUPTED),
        }
    }
}
