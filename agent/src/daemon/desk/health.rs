//! What people are told: judged once a minute and at the end of each job, delivered by a process of its own.

use std::time::Duration;

use storepool::clock::Timestamp;
use storepool::disk::{Disk, SystemDisk};

use super::{CONTACT, COURIER, Desk};
use crate::config::SyncWhen;
use crate::daemon::queue::Wish;
use crate::daemon::{judge, process, queue};
use crate::job::Task;
use crate::journal::{AlertDraft, Fullness, Raised, Reason};
use crate::standing;

/// An alert that goes on is counted so often.
const COUNT_EVERY: Duration = Duration::from_secs(3600);
/// Alerts about states; all others are about events.
const GOING_ON: [&str; 3] = ["late ", "out of reach ", "stopped "];
/// Between two deliveries to the outside when nothing new has happened.
const COURIER_EVERY: Duration = Duration::from_secs(300);

/// Between two looks at whether a vault can be reached; the first warning comes after a day.
const CONTACT_EVERY: Duration = Duration::from_secs(6 * 3600);

impl Desk {
    pub(super) fn judge(&mut self, now: Timestamp) {
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
        self.judge_vaults(now);
        self.measure(now);
    }

    fn judge_vaults(&mut self, now: Timestamp) {
        for vault in standing::of_all(&self.config, &self.place, now) {
            let drafts = judge::standing(&vault);
            for key in judge::standing_keys(&vault.vault) {
                if drafts.iter().any(|draft| draft.key == key) {
                    continue;
                }
                let resolved = self.journal.resolve(&key, now);
                if matches!(resolved, Ok(true)) && key == judge::stopped_key(&vault.vault) {
                    self.catch_up(&vault.vault, now);
                }
                self.note(resolved, "end an alert");
            }
            drafts.iter().for_each(|draft| self.raise(draft, now));
        }
    }

    // What was stopped goes on at once, not only after the next backup.
    fn catch_up(&mut self, vault: &str, now: Timestamp) {
        let config = self.config.clone();
        let groups = config.groups.values().filter(|group| {
            group.vault.as_deref() == Some(vault) && !group.paused && group.sync != SyncWhen::Never
        });
        for group in groups {
            let task = Task::Sync(group.name.clone());
            self.enter(Wish::task(&config, task, Reason::Follows), now);
        }
    }

    /// Asks a vault once in a while whether it can be reached and what its owner says: a group that is copied once a month must not learn only then
    /// that the vault has been away for weeks.
    pub(super) fn keep_contact(&mut self, now: Timestamp) {
        if self.contact.is_some() {
            return;
        }
        let every = CONTACT_EVERY.as_nanos() as i64;
        for name in self.config.vaults.keys() {
            let asked = self.asked.entry(name.clone()).or_insert(now);
            // A clock that was put back is no reason not to ask for years.
            if (0..every).contains(&(now.0 - asked.0)) || self.is_at_work_on(name) {
                continue;
            }
            self.asked.insert(name.clone(), now);
            let words = ["vault", "status", name.as_str()].map(str::to_string);
            let io = self.config.daemon.io;
            match process::start(&self.place, io, CONTACT, &words, &self.sender) {
                Ok(process) => self.contact = Some((name.clone(), process)),
                Err(error) => tracing::warn!(%error, vault = name, "it could not be asked"),
            }
            return;
        }
    }

    // A sync asks it anyway, and holds its lock.
    fn is_at_work_on(&self, vault: &str) -> bool {
        let mut running = self.running.values();
        running.any(|running| queue::vault_of(&self.config, &running.wish) == Some(vault))
    }

    // How full the disks are, once an hour; the row of a day is that of its last hour.
    pub(super) fn measure(&mut self, now: Timestamp) {
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

    pub(super) fn raise(&mut self, draft: &AlertDraft, now: Timestamp) {
        let counted = self.counted.get(&draft.key).copied();
        // A state that goes on is not a new event each time it is looked at.
        let goes_on = GOING_ON.iter().any(|kind| draft.key.starts_with(kind))
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

    pub(super) fn send_courier(&mut self, monotonic: Duration) {
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
}
