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
    service: Arc<Mutex<Option<Service>>>,
}

/// Called with each signal that arrives at a process that serves for a long time.
type Service = Arc<dyn Fn(Sign) + Send + Sync>;

/// What a signal means to a process that serves for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// End (SIGINT, SIGTERM).
    Stop,
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Say how things are (SIGUSR1).
    Status,
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

    /// Gives all signals to `service` from now on; the second one to stop still ends the process.
    pub(crate) fn serve(&self, service: impl Fn(Sign) + Send + Sync + 'static) {
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(service));
    }

    fn take(&self, signal: i32) {
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(service) = service {
            let sign = match signal {
                SIGHUP => Sign::Reload,
                SIGUSR1 => Sign::Status,
                _ => Sign::Stop,
            };
            if sign == Sign::Stop {
                if self.cancellation.is_cancelled() {
                    std::process::exit(EXIT_INTERRUPTED);
                }
                self.cancellation.cancel();
            }
            return service(sign);
        }
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
