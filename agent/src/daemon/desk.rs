//! The desk: owns queue, schedule and journal, starts jobs as slots become free, and enters how they ended.

mod calendar;
mod counter;
mod health;
mod jobs;
mod watchdog;

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;
use storepool::clock::{Clock, Timestamp};
use tokio::sync::broadcast;

pub(crate) use calendar::in_force;

use super::event::{Command, DeskHandle, Event};
use super::process::JobProcess;
use super::queue::{Later, Waiting, Wish};
use crate::config::Config;
use crate::error::Cause;
use crate::journal::{JobId, Journal};
use crate::notify::Notifier;
use crate::place::Place;
use crate::scheduler::Scheduler;
use crate::worker::STOP_WITHIN;
use jobs::Running;

/// Events that may wait for the desk.
const EVENTS_MOST: usize = 1024;
/// Messages of a job that a slow listener may be behind.
const MESSAGES_BEHIND: usize = 256;
/// A clock that was moved, or a machine that slept, is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The name under which the courier's process reports; no job has it.
const COURIER: JobId = JobId(0);
/// The name under which a process reports that looks whether a vault can be reached.
// Not a negative one: that would be taken for an option.
const CONTACT: JobId = JobId(i64::MAX);

/// The desk.
pub(crate) struct Desk {
    place: Place,
    config: Arc<Config>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    notifier: Notifier,
    scheduler: Scheduler,
    waiting: Vec<Waiting>,
    later: Vec<Later>,
    running: BTreeMap<JobId, Running>,
    // Those who listen to a job that has not begun.
    listeners: HashMap<JobId, broadcast::Sender<Arc<Value>>>,
    sender: SyncSender<Event>,
    receiver: Receiver<Event>,
    stopping: bool,
    looked: Option<Duration>,
    fed: Option<Duration>,
    counted: HashMap<String, Timestamp>,
    measured: Option<Timestamp>,
    courier: Option<JobProcess>,
    courier_sent: Option<Duration>,
    // The vault that is asked at present, and by whom.
    contact: Option<(String, JobProcess)>,
    asked: HashMap<String, Timestamp>,
    news: bool,
    idle_since: Option<Duration>,
    probe: Option<mpsc::Receiver<()>>,
}

impl Desk {
    /// Opens for business: jobs of a process that is gone are entered as interrupted, and run again if they are tasks.
    pub(crate) fn open(
        place: Place,
        config: Config,
        journal: Journal,
        clock: Arc<dyn Clock>,
        notifier: Notifier,
    ) -> Result<Self, Cause> {
        let (sender, receiver) = sync_channel(EVENTS_MOST);
        let mut desk = Self {
            place,
            config: Arc::new(config),
            journal,
            clock,
            notifier,
            scheduler: Scheduler::default(),
            waiting: Vec::new(),
            later: Vec::new(),
            running: BTreeMap::new(),
            listeners: HashMap::new(),
            sender,
            receiver,
            stopping: false,
            looked: None,
            fed: None,
            counted: HashMap::new(),
            measured: None,
            courier: None,
            courier_sent: None,
            contact: None,
            asked: HashMap::new(),
            news: false,
            idle_since: None,
            probe: None,
        };
        let now = desk.clock.now();
        desk.journal.reap(now)?;
        desk.schedule(now)?;
        desk.resume(now)?;
        Ok(desk)
    }

    /// Returns the way to the desk.
    pub(crate) fn handle(&self) -> DeskHandle {
        DeskHandle::new(self.sender.clone())
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        self.notifier.tell("READY=1\nSTATUS=protecting");
        loop {
            let now = self.clock.now();
            self.look(now);
            if self.stopping && self.running.is_empty() {
                break;
            }
            match self.receiver.recv_timeout(self.patience(now)) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
                // We hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let contact = self.contact.as_ref().map(|(_, process)| process);
        for process in self.courier.iter().chain(contact) {
            process.end();
        }
        self.notifier.tell("STATUS=ended");
    }

    fn patience(&self, now: Timestamp) -> Duration {
        let until = |time: Timestamp| Duration::from_nanos((time.0 - now.0).max(0).unsigned_abs());
        let mut patience = LOOK_EVERY;
        if let Some(next) = self.scheduler.next(now) {
            patience = patience.min(until(next));
        }
        if let Some(next) = self.later.iter().map(|later| later.not_before).min() {
            patience = patience.min(until(next));
        }
        if let Some(every) = self.notifier.watchdog_every() {
            let elapsed = self.fed.map_or(every, |fed| self.clock.monotonic().saturating_sub(fed));
            patience = patience.min(every.saturating_sub(elapsed));
        }
        let stop_by = self.running.values().filter_map(|running| running.stop_by).min();
        if let Some(stop_by) = stop_by {
            patience = patience.min(stop_by.saturating_sub(self.clock.monotonic()));
        }
        // Never a spin, whatever the clocks say.
        patience.max(Duration::from_millis(20))
    }

    fn look(&mut self, now: Timestamp) {
        let monotonic = self.clock.monotonic();
        if !self.stopping {
            for due in self.scheduler.due(now) {
                self.scheduler.begun(&due.task, now);
                let handled = self.journal.handled(&due.task.to_string(), now);
                self.note(handled, "remember a schedule");
                let wish = Wish::task(&self.config, due.task, due.reason);
                self.enter(wish, now);
            }
            let (due, later) = std::mem::take(&mut self.later)
                .into_iter()
                .partition(|later| later.not_before <= now);
            self.later = later;
            let due: Vec<Later> = due;
            for later in due {
                self.enter(later.wish, now);
            }
            self.fill_slots(now);
        }
        self.watch_jobs(monotonic);
        let is_time = self.looked.is_none_or(|looked| monotonic - looked >= LOOK_EVERY);
        if is_time && !self.stopping {
            self.looked = Some(monotonic);
            self.judge(now);
            // It may have found that something can go on.
            self.fill_slots(now);
        }
        if !self.stopping {
            self.send_courier(monotonic);
            self.keep_contact(now);
        }
        self.feed_watchdog(monotonic);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Line { id, message } => self.hear(id, message),
            Event::Ended { id: COURIER, end } => {
                self.courier = None;
                if end.code != Some(0) {
                    tracing::warn!(reason = %last_line(&end.complaints), "alerts could not be delivered");
                }
            }
            Event::Ended { id: CONTACT, end } => {
                if end.code != Some(0) {
                    tracing::info!(reason = %last_line(&end.complaints), "a vault did not answer");
                }
                // Whatever it found is remembered, and judged now.
                self.contact = None;
                self.looked = None;
            }
            Event::Ended { id, end } => self.ended(id, &end),
            Event::Command(command) => self.obey(command),
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Submit { wish, idempotency, reply } => {
                let answer = self.submit(*wish, idempotency, now);
                let _ = reply.send(answer);
            }
            Command::Cancel { id, reply } => {
                let _ = reply.send(self.cancel(id, now));
            }
            Command::Subscribe { id, reply } => {
                let _ = reply.send(self.subscribe(id));
            }
            Command::Reload { reply } => {
                let outcome = self.reload(now);
                if let Some(reply) = reply {
                    let _ = reply.send(outcome);
                }
            }
            Command::Plan { reply } => {
                let tasks = self.tasks();
                let plan = tasks.into_iter().filter_map(|task| {
                    let next = self.scheduler.next_of(&task, now)?;
                    Some((task, next))
                });
                let _ = reply.send(plan.collect());
            }
            Command::Stop => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.notifier.tell("STOPPING=1");
        let by = self.clock.monotonic() + STOP_WITHIN;
        for running in self.running.values_mut() {
            running.process.ask_to_stop();
            running.stop_by = Some(by);
        }
    }

    fn note<T>(&self, result: Result<T, Cause>, what: &str) {
        if let Err(error) = result {
            tracing::error!(error = %error.chain(), "the journal refused to {what}");
        }
    }
}

const HINT: &str = "hint: ";

/// Returns the last complaint; what helps is no complaint.
fn last_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(HINT));
    let last = lines.next_back().unwrap_or_default();
    last.strip_prefix("keepwell: ").unwrap_or(last).to_string()
}

/// Returns what helps, if the complaints end with it.
fn last_hint(text: &str) -> Option<String> {
    Some(text.lines().next_back()?.trim().strip_prefix(HINT)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_and_what_helps_are_told_apart() {
        let text =
            "keepwell: a first one\nkeepwell: 1 damaged object\nhint: run \"keepwell repair\"\n";

        assert_eq!(last_line(text), "1 damaged object");
        assert_eq!(last_hint(text).as_deref(), Some("run \"keepwell repair\""));
        assert_eq!((last_line("panicked"), last_hint("panicked")), ("panicked".to_string(), None));
        assert_eq!((last_line(""), last_hint("")), (String::new(), None));
    }
}
