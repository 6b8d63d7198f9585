//! Running jobs: begun as slots become free, listened to, and entered as they end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use storepool::clock::Timestamp;
use tokio::sync::broadcast;

use super::{Desk, MESSAGES_BEHIND, last_hint, last_line};
use crate::config::SyncWhen;
use crate::daemon::judge;
use crate::daemon::process::{self, JobEnd, JobProcess};
use crate::daemon::queue::{self, Later, Waiting, Wish};
use crate::job::Task;
use crate::journal::{Ending, JobId, JobState, Reason};
use crate::record::state_of;
use crate::worker::STOP_WITHIN;

/// A job that says nothing for so long hangs. Workers speak every second.
const SILENCE_MOST: Duration = Duration::from_secs(30 * 60);

/// A job that runs.
pub(super) struct Running {
    pub(super) wish: Wish,
    pub(super) process: JobProcess,
    pub(super) messages: broadcast::Sender<Arc<Value>>,
    pub(super) last: Option<Arc<Value>>,
    summary: Option<Value>,
    failure: Option<Value>,
    // By the monotonic clock.
    heard: Duration,
    pub(super) stop_by: Option<Duration>,
    pub(super) cancelled: bool,
}

impl Desk {
    pub(super) fn fill_slots(&mut self, now: Timestamp) {
        while self.running.len() < self.config.daemon.slots {
            let free = self.waiting.iter().enumerate().filter(|(_, waiting)| {
                let mut running = self.running.values();
                let asked = self.contact.as_ref().map(|(vault, _)| vault.as_str());
                let is_asked =
                    asked.is_some() && asked == queue::vault_of(&self.config, &waiting.wish);
                !is_asked
                    && !running
                        .any(|running| queue::excludes(&self.config, &running.wish, &waiting.wish))
            });
            let next = free.min_by_key(|(_, waiting)| (queue::rank(&waiting.wish), waiting.id));
            let Some(place) = next.map(|(place, _)| place) else { return };
            let Waiting { id, wish } = self.waiting.remove(place);
            self.begin(id, wish, now);
        }
    }

    pub(super) fn begin(&mut self, id: JobId, wish: Wish, now: Timestamp) {
        let entered = self.journal.start(id, now);
        self.note(entered, "enter the start of a job");
        let io = self.config.daemon.io;
        match process::start(&self.place, io, id, &wish.words, &self.sender) {
            Ok(process) => {
                tracing::info!(job = %id, task = %wish.name, "started");
                let messages = self.listeners.remove(&id);
                let messages = messages.unwrap_or_else(|| broadcast::channel(MESSAGES_BEHIND).0);
                let running = Running {
                    wish,
                    process,
                    messages,
                    last: None,
                    summary: None,
                    failure: None,
                    heard: self.clock.monotonic(),
                    stop_by: None,
                    cancelled: false,
                };
                self.running.insert(id, running);
            }
            Err(error) => {
                let ending = Ending {
                    message: Some(format!("cannot start its process: {error}")),
                    ..Ending::default()
                };
                self.finish(id, &wish, JobState::Failed, ending, now);
            }
        }
    }

    pub(super) fn hear(&mut self, id: JobId, message: Value) {
        let Some(running) = self.running.get_mut(&id) else { return };
        running.heard = self.clock.monotonic();
        match message["message_type"].as_str() {
            Some("summary") => running.summary = Some(message.clone()),
            // The last word of a command that failed; problems of single entries have no exit code.
            Some("error") if message.get("exit_code").is_some() => {
                running.failure = Some(message.clone());
            }
            _ => {}
        }
        let message = Arc::new(message);
        running.last = Some(message.clone());
        // Nobody may be listening.
        let _ = running.messages.send(message);
    }

    pub(super) fn ended(&mut self, id: JobId, end: &JobEnd) {
        let Some(running) = self.running.remove(&id) else { return };
        let now = self.clock.now();
        let state = match end.code {
            _ if self.stopping => JobState::Interrupted,
            _ if running.cancelled => JobState::Cancelled,
            // No failure: the state of a vault forbids it, and the alert about that says so.
            Some(_) if running.failure.as_ref().is_some_and(|it| it["stopped"] == true) => {
                JobState::Stopped
            }
            Some(code) => state_of(code),
            None => JobState::Failed,
        };
        let text = |name: &str| {
            let text = running.failure.as_ref()?.get(name)?.as_str()?;
            Some(text.to_string())
        };
        let unexplained = || match (state.is_success(), end.signal) {
            (true, _) => None,
            (false, Some(signal)) => Some(format!("signal {signal} ended its process")),
            (false, None) => Some(last_line(&end.complaints)).filter(|line| !line.is_empty()),
        };
        let helps = || last_hint(&end.complaints).filter(|_| !state.is_success());
        let ending = Ending {
            exit_code: end.code,
            message: text("message").or_else(unexplained),
            hint: text("hint").or_else(helps),
            summary: running.summary,
        };
        self.finish(id, &running.wish, state, ending, now);
    }

    pub(super) fn finish(
        &mut self,
        id: JobId,
        wish: &Wish,
        state: JobState,
        ending: Ending,
        now: Timestamp,
    ) {
        let entered = self.journal.finish(id, state, &ending, now);
        self.note(entered, "enter the end of a job");
        let message = ending.message.as_deref().unwrap_or_default();
        if state == JobState::Failed {
            tracing::warn!(job = %id, task = %wish.name, reason = %message, "failed");
        } else {
            tracing::info!(job = %id, task = %wish.name, state = state.word(), "ended");
        }
        self.news = true;
        self.idle_since = None;
        let kept = self.journal.trim(self.config.daemon.history);
        self.note(kept, "trim the history");
        let Some(task) = &wish.task else { return };
        // What the end of the job has shown of a vault is judged at once.
        self.looked = None;
        if self.stopping || matches!(state, JobState::Cancelled | JobState::Stopped) {
            return;
        }
        let failures = self.journal.known_task(&wish.name);
        let failures = failures.ok().flatten().map_or(0, |memory| memory.failures);
        let verdict = judge::after(&self.config, task, state, &ending, failures);
        verdict.raise.iter().for_each(|draft| self.raise(draft, now));
        for key in verdict.resolve {
            let resolved = self.journal.resolve(&key, now);
            self.note(resolved, "end an alert");
        }
        if state.is_success() {
            self.follow(task, now);
            return;
        }
        let retries = self.config.daemon.retries;
        let pause = queue::retry_after(task, ending.exit_code, wish.attempt, retries);
        // The next scheduled run comes soon enough by itself.
        let next = self.scheduler.next_of(task, now);
        if let Some(pause) = pause {
            let not_before = Timestamp(now.0 + pause.as_nanos() as i64);
            if next.is_none_or(|next| not_before < next) {
                let attempt = wish.attempt + 1;
                let wish = Wish {
                    attempt,
                    request: None,
                    ..Wish::task(&self.config, task.clone(), Reason::Retry)
                };
                self.later.push(Later { not_before, wish });
            }
        }
    }

    // The second copy comes after the first.
    pub(super) fn follow(&mut self, task: &Task, now: Timestamp) {
        let Task::Backup(name) = task else { return };
        let Some(group) = self.config.groups.get(name) else { return };
        if group.vault.is_some() && group.sync == SyncWhen::AfterBackup {
            let wish = Wish::task(&self.config, Task::Sync(name.clone()), Reason::Follows);
            self.enter(wish, now);
        }
    }

    pub(super) fn watch_jobs(&mut self, monotonic: Duration) {
        for (id, running) in &mut self.running {
            if running.stop_by.is_some_and(|by| by <= monotonic) {
                tracing::warn!(job = %id, "it did not stop in time and is ended");
                running.process.end();
                running.stop_by = Some(monotonic + STOP_WITHIN);
            } else if running.stop_by.is_none()
                && monotonic.saturating_sub(running.heard) > SILENCE_MOST
            {
                tracing::warn!(job = %id, "it has said nothing for too long and is stopped");
                running.process.ask_to_stop();
                running.stop_by = Some(monotonic + STOP_WITHIN);
            }
        }
    }
}
