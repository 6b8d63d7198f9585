//! Life signs for the service manager, given only while scheduler, pool and queue make progress.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use super::Desk;

/// Something that could run waits so long only if the desk is stuck.
const WAITING_MOST: Duration = Duration::from_secs(300);

impl Desk {
    // Fed only if scheduler, pool and queue make progress: the scheduler was just looked at, the pool's disks answered, and what can run runs.
    pub(super) fn feed_watchdog(&mut self, monotonic: Duration) {
        let Some(every) = self.notifier.watchdog_every() else { return };
        if self.fed.is_some_and(|fed| monotonic.saturating_sub(fed) < every) {
            return;
        }
        let stuck = !self.waiting.is_empty() && self.running.is_empty() && !self.stopping;
        if stuck {
            let since = *self.idle_since.get_or_insert(monotonic);
            if monotonic.saturating_sub(since) > WAITING_MOST {
                return;
            }
        } else {
            self.idle_since = None;
        }
        if let Some(probe) = &self.probe {
            // The last look at the disks has not come back: they hang.
            if matches!(probe.try_recv(), Err(mpsc::TryRecvError::Empty)) {
                return;
            }
        }
        let (done, probe) = mpsc::channel();
        let paths: Vec<PathBuf> = self.config.pool.paths.clone();
        let looking = std::thread::Builder::new().name("probe".to_string()).spawn(move || {
            for path in paths {
                // Missing is an answer; only no answer is none.
                let _ = std::fs::symlink_metadata(path);
            }
            let _ = done.send(());
        });
        self.probe = looking.is_ok().then_some(probe);
        self.fed = Some(monotonic);
        self.notifier.tell("WATCHDOG=1");
    }
}
