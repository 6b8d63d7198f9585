//! Which tasks are due: it takes the time and never sleeps. What was missed while nothing ran is due once, however often it was missed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::tz::TimeZone;
use storepool::clock::Timestamp;

use crate::config::{Config, SyncWhen};
use crate::job::Task;
use crate::journal::Reason;
use crate::schedule::Schedule;

/// A task that begins later than this was missed, not only delayed.
const PUNCTUAL: Duration = Duration::from_secs(120);

/// All tasks that have a schedule.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    entries: BTreeMap<Task, Entry>,
}

#[derive(Debug)]
struct Entry {
    schedule: Schedule,
    zone: TimeZone,
    jitter: Duration,
    // Everything scheduled up to here was begun.
    handled: Timestamp,
}

/// A task whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// What is to be done.
    pub(crate) task: Task,
    /// On time, or caught up.
    pub(crate) reason: Reason,
}

impl Scheduler {
    /// Makes the scheduler of a configuration. `handled` tells up to when each task was begun.
    pub(crate) fn of<E>(
        config: &Config,
        mut handled: impl FnMut(&Task) -> Result<Timestamp, E>,
    ) -> Result<Self, E> {
        let mut entries = BTreeMap::new();
        let mut add = |task: Task, schedule: &Schedule, zone: &TimeZone, jitter| {
            let handled = handled(&task)?;
            let (schedule, zone) = (schedule.clone(), zone.clone());
            entries.insert(task, Entry { schedule, zone, jitter, handled });
            Ok(())
        };
        for group in config.groups.values().filter(|group| !group.paused) {
            if let Some(schedule) = &group.schedule {
                add(Task::Backup(group.name.clone()), schedule, &group.zone, group.jitter)?;
            }
            if let (Some(_), SyncWhen::At(schedule)) = (&group.vault, &group.sync) {
                add(Task::Sync(group.name.clone()), schedule, &group.zone, group.jitter)?;
            }
            let drill = group.drill.as_ref().and_then(|drill| drill.schedule.as_ref());
            if let Some(schedule) = drill {
                add(Task::Drill(group.name.clone()), schedule, &group.zone, group.jitter)?;
            }
        }
        for (vault, upkeep, maintenance) in config.upkeep() {
            if let Some(schedule) = &maintenance.routine(upkeep).schedule {
                add(Task::upkeep(upkeep, vault), schedule, &maintenance.zone, Duration::ZERO)?;
            }
        }
        Ok(Self { entries })
    }

    /// Returns the tasks that are due at `now`.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<Due> {
        let due = self.entries.iter().filter_map(|(task, entry)| {
            let time = entry.next(task, now).filter(|time| *time <= now)?;
            let missed = now.0 - time.0 > PUNCTUAL.as_nanos() as i64;
            let reason = if missed { Reason::CatchUp } else { Reason::Schedule };
            Some(Due { task: task.clone(), reason })
        });
        due.collect()
    }

    /// Remembers that a task was begun at `now`: whatever was scheduled up to then is done with.
    pub(crate) fn begun(&mut self, task: &Task, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(task) {
            entry.handled = now;
        }
    }

    /// Returns when something is due next.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.entries.iter().filter_map(|(task, entry)| entry.next(task, now)).min()
    }

    /// Returns when a task is due next.
    pub(crate) fn next_of(&self, task: &Task, now: Timestamp) -> Option<Timestamp> {
        self.entries.get(task)?.next(task, now)
    }
}

impl Entry {
    fn next(&self, task: &Task, now: Timestamp) -> Option<Timestamp> {
        // A clock that was put back must not keep anything from running until it is where it was.
        let handled = self.handled.min(now);
        let time = self.schedule.next_run(handled, &self.zone)?;
        if self.jitter.is_zero() {
            return Some(time);
        }
        // Never beyond the run that follows.
        let following = self.schedule.next_run(time, &self.zone).unwrap_or(Timestamp(i64::MAX));
        let most = (self.jitter.as_nanos() as i64).min((following.0 - time.0) / 2).max(1);
        // The same for the same run, so that looking twice gives one answer; different between hosts.
        let mut hasher = DefaultHasher::new();
        (crate::process::host_name(), task, time.0).hash(&mut hasher);
        let delay = hasher.finish() % most.unsigned_abs();
        Some(Timestamp(time.0.saturating_add(delay as i64)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;

    use super::*;

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp(i64::try_from(moment.as_nanosecond()).unwrap())
    }

    fn config(groups: &str) -> Config {
        let text = format!(
            "[pool]\npaths = [\"p\"]\n[vault.main]\ncredentials = \"c\"\n[vault.main.maintenance]\nprune = \"never\"\ntimezone = \"UTC\"\n[maintenance]\ntimezone = \"UTC\"\n{groups}"
        );
        Config::parse(Path::new("/c.toml"), &text).unwrap()
    }

    fn scheduler(groups: &str, handled: &str) -> Scheduler {
        let handled = at(handled);
        let made = Scheduler::of(&config(groups), |_| Ok::<_, Infallible>(handled));
        made.unwrap_or_else(|never| match never {})
    }

    const WEB: &str = "[group.web]\nsources = [{ files = [\"/\"] }]\nschedule = \"daily 02:00\"\n\
                       timezone = \"UTC\"\nsync = \"daily 03:00\"\n";

    fn words(due: &[Due]) -> Vec<String> {
        due.iter().map(|due| format!("{} {}", due.task, due.reason.word())).collect()
    }

    #[test]
    fn a_task_is_due_at_its_time_and_not_again_before_the_next() {
        let mut scheduler = scheduler(WEB, "2026-11-17T12:00:00Z"); // a Tuesday

        assert_eq!(scheduler.next(at("2026-11-17T12:00:00Z")), Some(at("2026-11-18T02:00:00Z")));
        assert!(scheduler.due(at("2026-11-18T01:59:59Z")).is_empty());
        let now = at("2026-11-18T02:00:01Z");
        assert_eq!(words(&scheduler.due(now)), ["backup web schedule"]);
        scheduler.begun(&Task::Backup("web".into()), now);
        assert!(scheduler.due(now).is_empty());
        assert_eq!(scheduler.next(now), Some(at("2026-11-18T03:00:00Z")));
    }

    #[test]
    fn what_was_missed_is_caught_up_once() {
        let mut scheduler = scheduler(WEB, "2026-11-01T12:00:00Z");
        let now = at("2026-11-18T13:00:00Z");

        let due = scheduler.due(now);

        assert_eq!(
            words(&due),
            [
                "backup web catch_up",
                "sync web catch_up",
                "forget catch_up",
                "prune catch_up",
                "check catch_up",
                "check --vault=main catch_up",
            ]
        );
        due.iter().for_each(|due| scheduler.begun(&due.task, now));
        assert!(scheduler.due(now).is_empty());
    }

    #[test]
    fn a_clock_that_was_put_back_keeps_nothing_from_running() {
        let scheduler = scheduler(WEB, "2036-01-01T00:00:00Z");
        let now = at("2026-11-17T12:00:00Z");

        assert_eq!(scheduler.next(now), Some(at("2026-11-18T02:00:00Z")));
    }

    #[test]
    fn a_paused_group_and_a_task_without_schedule_are_never_due() {
        let paused = format!("{WEB}paused = true\n[maintenance2]").replace("[maintenance2]", "");
        let scheduler = scheduler(&paused, "2026-01-01T00:00:00Z");

        let tasks = words(&scheduler.due(at("2026-11-17T12:00:00Z")));

        // A vault without a retention forgets nothing, and pruning it was switched off.
        assert_eq!(
            tasks,
            ["forget catch_up", "prune catch_up", "check catch_up", "check --vault=main catch_up"]
        );
    }

    #[test]
    fn jitter_delays_a_run_by_less_than_asked_and_always_the_same() {
        let jittery = scheduler(&format!("{WEB}jitter = \"30m\""), "2026-11-17T12:00:00Z");
        let now = at("2026-11-17T12:00:00Z");
        let task = Task::Backup("web".into());

        let next = jittery.next_of(&task, now).unwrap();

        assert!(next >= at("2026-11-18T02:00:00Z") && next < at("2026-11-18T02:30:00Z"));
        assert_eq!(jittery.next_of(&task, now), Some(next));
    }
}
