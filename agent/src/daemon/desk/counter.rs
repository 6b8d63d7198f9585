//! The counter of the desk: where wishes are taken, followed and taken back.

use storepool::clock::Timestamp;
use tokio::sync::broadcast;

use super::{Desk, LOOK_EVERY, MESSAGES_BEHIND};
use crate::daemon::event::{Submitted, Subscribed};
use crate::daemon::queue::{Later, QUEUE_MOST, Waiting, Wish};
use crate::journal::{Ending, JobId, JobState, NewJob, Reason};
use crate::worker::STOP_WITHIN;

impl Desk {
    pub(super) fn submit(
        &mut self,
        wish: Wish,
        idempotency: Option<(String, u64)>,
        now: Timestamp,
    ) -> Submitted {
        if let Some((key, body)) = &idempotency {
            match self.journal.answered(key, *body) {
                Ok(Some((id, true))) => return Submitted::Job { id, new: false },
                Ok(Some((_, false))) => return Submitted::KeyReused,
                Ok(None) => {}
                Err(error) => return Submitted::Unavailable(error.chain()),
            }
        }
        if self.stopping {
            return Submitted::Unavailable("the daemon is ending".to_string());
        }
        if self.waiting.len() >= QUEUE_MOST {
            return Submitted::Unavailable("too many jobs wait already".to_string());
        }
        let Some((id, new)) = self.enter(wish, now) else {
            return Submitted::Unavailable(
                "the job could not be entered in the journal".to_string(),
            );
        };
        if let Some((key, body)) = idempotency {
            let kept = self.journal.answer(&key, body, id, now);
            self.note(kept, "remember a request");
        }
        Submitted::Job { id, new }
    }

    /// Enters a wish in the journal and the queue. A task that waits already is not entered twice.
    pub(super) fn enter(&mut self, wish: Wish, now: Timestamp) -> Option<(JobId, bool)> {
        let same = |other: &Wish| {
            wish.task.is_some() && other.task == wish.task && other.words == wish.words
        };
        let known = self.waiting.iter_mut().find(|waiting| same(&waiting.wish));
        if let Some(known) = known {
            if wish.reason == Reason::Hand {
                known.wish.reason = Reason::Hand;
            }
            return Some((known.id, false));
        }
        if let Some((id, _)) = self.running.iter().find(|(_, running)| same(&running.wish)) {
            return Some((*id, false));
        }
        // Whatever was to be tried later is tried now.
        self.later.retain(|later| !same(&later.wish));
        let new = NewJob {
            task: wish.name.clone(),
            reason: wish.reason,
            attempt: wish.attempt,
            arguments: wish.words.clone(),
            request: wish.request.clone(),
        };
        match self.journal.queue(&new, now) {
            Ok(id) => {
                tracing::info!(job = %id, task = %wish.name, reason = wish.reason.word(), request = wish.request.as_deref(), "queued");
                self.waiting.push(Waiting { id, wish });
                Some((id, true))
            }
            Err(error) => {
                tracing::error!(task = %wish.name, error = %error.chain(), "a job could not be entered in the journal");
                // Not lost: the disk may have room again in a minute.
                if wish.task.is_some() {
                    let not_before = Timestamp(now.0 + LOOK_EVERY.as_nanos() as i64);
                    self.later.push(Later { not_before, wish });
                }
                None
            }
        }
    }

    pub(super) fn cancel(&mut self, id: JobId, now: Timestamp) -> bool {
        if let Some(running) = self.running.get_mut(&id) {
            running.cancelled = true;
            running.process.ask_to_stop();
            running.stop_by.get_or_insert(self.clock.monotonic() + STOP_WITHIN);
            return true;
        }
        let Some(place) = self.waiting.iter().position(|waiting| waiting.id == id) else {
            return false;
        };
        let waiting = self.waiting.remove(place);
        self.listeners.remove(&id);
        self.finish(id, &waiting.wish, JobState::Cancelled, Ending::default(), now);
        true
    }

    pub(super) fn subscribe(&mut self, id: JobId) -> Option<Subscribed> {
        let job = self.journal.job(id).ok().flatten()?;
        if let Some(running) = self.running.get(&id) {
            let (last, messages) = (running.last.clone(), Some(running.messages.subscribe()));
            return Some(Subscribed { job, last, messages });
        }
        if self.waiting.iter().any(|waiting| waiting.id == id) {
            let sender =
                self.listeners.entry(id).or_insert_with(|| broadcast::channel(MESSAGES_BEHIND).0);
            return Some(Subscribed { job, last: None, messages: Some(sender.subscribe()) });
        }
        Some(Subscribed { job, last: None, messages: None })
    }
}
