//! The desk: owns queue, schedule and journal, starts jobs as slots become free, and enters how they ended.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::Value;
use storepool::clock::{Clock, Timestamp};
use storepool::disk::{Disk, SystemDisk};
use tokio::sync::{broadcast, oneshot};

use super::judge;
use super::process::{self, JobEnd, JobProcess};
use super::queue::{self, Later, QUEUE_MOST, Waiting, Wish};
use crate::config::{Config, SyncWhen};
use crate::error::{Attempt, Cause, Error};
use crate::job::Task;
use crate::journal::{Ending, Fullness, Job, JobId, JobState, Journal, NewJob, Raised, Reason};
use crate::notify::Notifier;
use crate::place::Place;
use crate::record::state_of;
use crate::scheduler::Scheduler;
use crate::worker::STOP_WITHIN;

/// Events that may wait for the desk.
const EVENTS_MOST: usize = 1024;
/// Messages of a job that a slow listener may be behind.
const MESSAGES_BEHIND: usize = 256;
/// A clock that was moved, or a machine that slept, is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A job that says nothing for so long hangs. Workers speak every second.
const SILENCE_MOST: Duration = Duration::from_secs(30 * 60);
/// An alert that goes on is counted so often.
const COUNT_EVERY: Duration = Duration::from_secs(3600);
/// Between two deliveries to the outside when nothing new has happened.
const COURIER_EVERY: Duration = Duration::from_secs(300);
/// Something that could run waits so long only if the desk is stuck.
const WAITING_MOST: Duration = Duration::from_secs(300);
/// The name under which the courier's process reports; no job has it.
const COURIER: JobId = JobId(0);

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
    /// Tells the desk; never waits. `false` if it is gone or has too much to do.
    pub(crate) fn tell(&self, command: Command) -> bool {
        match self.sender.try_send(Event::Command(command)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

struct Running {
    wish: Wish,
    process: JobProcess,
    messages: broadcast::Sender<Arc<Value>>,
    last: Option<Arc<Value>>,
    summary: Option<Value>,
    failure: Option<Value>,
    // By the monotonic clock.
    heard: Duration,
    stop_by: Option<Duration>,
    cancelled: bool,
}

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
        DeskHandle { sender: self.sender.clone() }
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
        if let Some(courier) = &self.courier {
            courier.end();
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
        }
        if !self.stopping {
            self.send_courier(monotonic);
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

    fn tasks(&self) -> Vec<Task> {
        let groups = self.config.groups.values();
        let mut tasks: Vec<Task> = Vec::new();
        for group in groups {
            tasks.push(Task::Backup(group.name.clone()));
            if group.vault.is_some() {
                tasks.push(Task::Sync(group.name.clone()));
            }
        }
        tasks.extend([Task::Forget, Task::Prune, Task::Check]);
        tasks
    }

    fn schedule(&mut self, now: Timestamp) -> Result<(), Cause> {
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

    fn resume(&mut self, now: Timestamp) -> Result<(), Cause> {
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

    fn reload(&mut self, now: Timestamp) -> Result<(), String> {
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

    fn submit(
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
    fn enter(&mut self, wish: Wish, now: Timestamp) -> Option<(JobId, bool)> {
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

    fn fill_slots(&mut self, now: Timestamp) {
        while self.running.len() < self.config.daemon.slots {
            let free = self.waiting.iter().enumerate().filter(|(_, waiting)| {
                let mut running = self.running.values();
                !running.any(|running| queue::excludes(&self.config, &running.wish, &waiting.wish))
            });
            let next = free.min_by_key(|(_, waiting)| (queue::rank(&waiting.wish), waiting.id));
            let Some(place) = next.map(|(place, _)| place) else { return };
            let Waiting { id, wish } = self.waiting.remove(place);
            self.begin(id, wish, now);
        }
    }

    fn begin(&mut self, id: JobId, wish: Wish, now: Timestamp) {
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

    fn hear(&mut self, id: JobId, message: Value) {
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

    fn ended(&mut self, id: JobId, end: &JobEnd) {
        let Some(running) = self.running.remove(&id) else { return };
        let now = self.clock.now();
        let state = match end.code {
            _ if self.stopping => JobState::Interrupted,
            _ if running.cancelled => JobState::Cancelled,
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
        let ending = Ending {
            exit_code: end.code,
            message: text("message").or_else(unexplained),
            hint: text("hint"),
            summary: running.summary,
        };
        self.finish(id, &running.wish, state, ending, now);
    }

    fn finish(&mut self, id: JobId, wish: &Wish, state: JobState, ending: Ending, now: Timestamp) {
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
        if self.stopping || state == JobState::Cancelled {
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
    fn follow(&mut self, task: &Task, now: Timestamp) {
        let Task::Backup(name) = task else { return };
        let Some(group) = self.config.groups.get(name) else { return };
        if group.vault.is_some() && group.sync == SyncWhen::AfterBackup {
            let wish = Wish::task(&self.config, Task::Sync(name.clone()), Reason::Follows);
            self.enter(wish, now);
        }
    }

    fn cancel(&mut self, id: JobId, now: Timestamp) -> bool {
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

    fn subscribe(&mut self, id: JobId) -> Option<Subscribed> {
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

    fn watch_jobs(&mut self, monotonic: Duration) {
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

    fn judge(&mut self, now: Timestamp) {
        let mut memories = Vec::new();
        for task in self.tasks() {
            match self.journal.task(&task.to_string(), now) {
                Ok(memory) => memories.push((task, memory)),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the journal cannot be read");
                    return;
                }
            }
        }
        let late = judge::late(&self.config, &memories, now);
        for (task, _) in &memories {
            let key = judge::late_key(task);
            if !late.iter().any(|draft| draft.key == key) {
                let resolved = self.journal.resolve(&key, now);
                self.note(resolved, "end an alert");
            }
        }
        late.iter().for_each(|draft| self.raise(draft, now));
        self.measure(now);
    }

    // How full the disks are, once an hour; the row of a day is that of its last hour.
    fn measure(&mut self, now: Timestamp) {
        if self.measured.is_some_and(|measured| now.0 - measured.0 < COUNT_EVERY.as_nanos() as i64)
        {
            return;
        }
        self.measured = Some(now);
        let (mut used_bytes, mut room_bytes) = (0, 0);
        for path in &self.config.pool.paths {
            let Ok(space) = SystemDisk.space(path) else { continue };
            used_bytes += space.total.saturating_sub(space.available);
            room_bytes += space.available.saturating_sub(self.config.pool.reserve.bytes(space));
        }
        let today = now.seconds().div_euclid(86_400);
        let kept = self.journal.measure(Fullness { day: today, used_bytes, room_bytes });
        self.note(kept, "remember how full the disks are");
        let days = self.journal.measurements(today - 60).unwrap_or_default();
        match judge::filling(&days) {
            Some(draft) => self.raise(&draft, now),
            None => {
                let resolved = self.journal.resolve("filling", now);
                self.note(resolved, "end an alert");
            }
        }
    }

    fn raise(&mut self, draft: &crate::journal::AlertDraft, now: Timestamp) {
        let counted = self.counted.get(&draft.key).copied();
        // A state that goes on is not a new event each time it is looked at.
        let goes_on = draft.key.starts_with("late ")
            && counted.is_some_and(|counted| now.0 - counted.0 < COUNT_EVERY.as_nanos() as i64);
        if goes_on && self.journal.is_active(&draft.key).unwrap_or(false) {
            return;
        }
        self.counted.insert(draft.key.clone(), now);
        match self.journal.raise(draft, now) {
            Ok(Raised::New) => {
                self.news = true;
                tracing::warn!(alert = %draft.key, level = draft.level.word(), "{}", draft.message);
            }
            Ok(Raised::Again) => {}
            Err(error) => {
                tracing::error!(alert = %draft.key, error = %error.chain(), "{}", draft.message)
            }
        }
    }

    fn send_courier(&mut self, monotonic: Duration) {
        let alerts = &self.config.alerts;
        let outside = alerts.command.is_some()
            || alerts.webhook.is_some()
            || alerts.mail.is_some()
            || alerts.heartbeat.is_some()
            || alerts.textfile.is_some();
        if !outside || self.courier.is_some() {
            return;
        }
        let every = match alerts.heartbeat.is_some() {
            true => COURIER_EVERY.min(alerts.heartbeat_every),
            false => COURIER_EVERY,
        };
        let is_time = self.courier_sent.is_none_or(|sent| monotonic.saturating_sub(sent) >= every);
        if !(is_time || self.news) {
            return;
        }
        self.news = false;
        self.courier_sent = Some(monotonic);
        let words = ["alerts".to_string(), "send".to_string()];
        match process::start(&self.place, self.config.daemon.io, COURIER, &words, &self.sender) {
            Ok(process) => self.courier = Some(process),
            Err(error) => tracing::warn!(%error, "alerts could not be delivered"),
        }
    }

    // Fed only if scheduler, pool and queue make progress: the scheduler was just looked at, the pool's disks answered, and what can run runs.
    fn feed_watchdog(&mut self, monotonic: Duration) {
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

    fn note<T>(&self, result: Result<T, Cause>, what: &str) {
        if let Err(error) = result {
            tracing::error!(error = %error.chain(), "the journal refused to {what}");
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

fn last_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next_back().unwrap_or_default().to_string()
}
