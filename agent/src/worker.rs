//! A command that runs as a job of the daemon: nice to the rest of the machine, within its memory, and gone when the daemon is.

use std::io::Read;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

use crate::config::DaemonConfig;
use crate::signals::Attention;

/// How long a job may take to stop safely once it was asked to; afterwards it is ended, which the pool survives.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Prepares this process: priority, memory, and the leash.
pub(crate) fn prepare(config: &DaemonConfig, attention: &Attention) {
    // Refused only where it is not needed: a sandbox has limits of its own.
    let _ = nice(config.nice);
    if let Some(bytes) = config.memory {
        let maximum = getrlimit(Resource::Data).maximum;
        let bytes = maximum.map_or(bytes, |maximum| maximum.min(bytes));
        let _ = setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum });
    }
    let attention = attention.clone();
    // Standard input is held open by the daemon for as long as it lives: its end says that nobody waits for this job any more.
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        attention.stop();
        std::thread::sleep(STOP_WITHIN);
        std::process::exit(crate::signals::EXIT_INTERRUPTED);
    });
}
