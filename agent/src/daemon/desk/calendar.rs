//! Which tasks there are and when they run: from the configuration that is in force, and from what was interrupted.

use std::sync::Arc;

use storepool::clock::Timestamp;

use super::Desk;
use crate::config::Config;
use crate::daemon::judge;
use crate::daemon::queue::Wish;
use crate::error::{Attempt, Cause, Error};
use crate::job::Task;
use crate::journal::Reason;
use crate::place::Place;
use crate::scheduler::Scheduler;

impl Desk {
    pub(super) fn tasks(&self) -> Vec<Task> {
        Task::all(&self.config)
    }

    pub(super) fn schedule(&mut self, now: Timestamp) -> Result<(), Cause> {
        let journal = &self.journal;
        self.scheduler = Scheduler::of(&self.config, |task| {
            let name = task.to_string();
            // A group that was never backed up does not wait for its time.
            if matches!(task, Task::Backup(_)) && journal.known_task(&name)?.is_none() {
                journal.task(&name, now)?;
                return Ok(Timestamp(0));
            }
            Ok::<_, Cause>(journal.task(&name, now)?.handled)
        })?;
        Ok(())
    }

    pub(super) fn resume(&mut self, now: Timestamp) -> Result<(), Cause> {
        for job in self.journal.unresumed()? {
            let Ok(task) = job.task.parse::<Task>() else { continue };
            let attempt = job.attempt + 1;
            // What ends the daemon each time must not do so for ever.
            if !self.tasks().contains(&task) || attempt > self.config.daemon.retries + 1 {
                continue;
            }
            let wish = Wish { attempt, ..Wish::task(&self.config, task, Reason::Resumed) };
            self.enter(wish, now);
        }
        // A hook may be owed to a group that no run comes back to soon.
        for group in self.journal.groups_owed()? {
            let task = Task::Backup(group.clone());
            if self.config.groups.contains_key(&group) {
                self.enter(Wish::task(&self.config, task, Reason::Resumed), now);
            }
        }
        Ok(())
    }

    pub(super) fn reload(&mut self, now: Timestamp) -> Result<(), String> {
        let told = |error: &Error| crate::console::failure::explain(error).message;
        match in_force(&self.place) {
            Ok(config) => {
                self.config = Arc::new(config);
                let resolved = self.journal.resolve("configuration", now);
                self.note(resolved, "end an alert");
                let scheduled = self.schedule(now);
                self.note(scheduled, "follow the new schedules");
                tracing::info!("the configuration was read again");
                Ok(())
            }
            Err(error) => {
                // What runs goes on as it was: a slip of the pen must not end the protection.
                let message = told(&error);
                tracing::warn!(reason = %message, "the configuration was not taken");
                self.raise(&judge::bad_configuration(&message), now);
                Err(message)
            }
        }
    }
}

/// Reads the configuration and, if it is sound, puts it in force: jobs read the copy that is made here.
pub(crate) fn in_force(place: &Place) -> Result<Config, Error> {
    let attempt = || "put the configuration in force".to_string();
    let path = &place.configuration;
    let config = Config::load(path)?;
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Cause::Io { action: "read", path: path.clone(), cause })
        .attempt(attempt)?;
    // Read twice: it may have been changed between.
    let config = if Config::parse(path, &text).as_ref() == Ok(&config) {
        config
    } else {
        Config::parse(path, &text).attempt(attempt)?
    };
    crate::config::write(&place.in_force(), &text).attempt(attempt)?;
    Ok(config)
}
