//! What a person must be told: pure decisions from what happened, and from what did not happen for too long.

use std::time::Duration;

use cloudsync::standing::{Connectivity, PATIENCE, Policy, WARNING_DAYS};
use storepool::clock::Timestamp;

use crate::config::{AlertLevel, Config, GroupConfig};
use crate::console::units;
use crate::job::Task;
use crate::journal::{AlertDraft, Ending, Fullness, JobState, TaskMemory};
use crate::standing::VaultStanding;

const DAY: Duration = Duration::from_secs(86_400);
/// A schedule of minutes is not late after some minutes: a long run is no failure.
const LATE_LEAST: Duration = Duration::from_secs(3600);
/// The vault may be away for a day before anybody has to hear of it.
const SYNC_LATE_LEAST: Duration = DAY;

/// What the end of a job means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Alerts that begin or go on.
    pub(super) raise: Vec<AlertDraft>,
    /// Keys of alerts that are over.
    pub(super) resolve: Vec<String>,
}

/// Returns the key of the alert that a task has not succeeded for too long.
pub(super) fn late_key(task: &Task) -> String {
    format!("late {task}")
}

/// Returns the alert about a configuration that was not taken.
pub(super) fn bad_configuration(message: &str) -> AlertDraft {
    AlertDraft {
        key: "configuration".to_string(),
        level: AlertLevel::Warning,
        message: format!("the changed configuration is not in force: {message}"),
        hint: Some("mend the file and run \"keepwell config check\"".to_string()),
    }
}

/// Returns what the end of a task means. `failures` counts those since the last success, this one included.
pub(super) fn after(
    config: &Config,
    task: &Task,
    state: JobState,
    ending: &Ending,
    failures: u32,
) -> Verdict {
    const DAMAGE: u8 = 5;
    const NO_SPACE: u8 = 7;
    let failed = format!("failed {task}");
    let (damage, full) = (format!("damage {task}"), "full".to_string());
    let incomplete = format!("incomplete {task}");
    if state.is_success() {
        let mut resolve = vec![failed, late_key(task), damage];
        if matches!(task, Task::Backup(_)) {
            resolve.push(full);
        }
        let problems = problems(ending);
        let mut raise = Vec::new();
        match problems {
            Some(message) if state == JobState::Incomplete => raise.push(AlertDraft {
                key: incomplete,
                level: AlertLevel::Information,
                message: format!("{task}: {message}"),
                hint: Some("run \"keepwell points --problems latest\" to list them".to_string()),
            }),
            _ => resolve.push(incomplete),
        }
        return Verdict { raise, resolve };
    }
    if state != JobState::Failed {
        return Verdict::default();
    }
    let reason = ending.message.clone().unwrap_or_else(|| "no reason was given".to_string());
    let (key, level) = match ending.exit_code {
        Some(DAMAGE) => (damage, AlertLevel::Critical),
        Some(NO_SPACE) => (full, AlertLevel::Critical),
        // A vault that is away is a matter of days; points in the pool are made meanwhile.
        _ if matches!(task, Task::Sync(_) | Task::Vault(..) | Task::Drill(_)) => {
            (failed, AlertLevel::Warning)
        }
        _ if failures > config.daemon.retries => (failed, AlertLevel::Critical),
        _ => (failed, AlertLevel::Warning),
    };
    let message = match failures {
        0 | 1 => format!("{task}: {reason}"),
        times => format!("{task}: {reason} ({times} times in a row)"),
    };
    Verdict {
        raise: vec![AlertDraft { key, level, message, hint: ending.hint.clone() }],
        resolve: vec![],
    }
}

fn problems(ending: &Ending) -> Option<String> {
    let summary = ending.summary.as_ref()?;
    let count = summary.get("problem_count")?.as_u64()?;
    let mut parts = Vec::new();
    if count > 0 {
        parts.push(format!("{} could not be backed up", units::counted(count, "entry")));
    }
    for group in summary.get("groups").and_then(|groups| groups.as_array()).into_iter().flatten() {
        let hooks = group.get("hook_problems").and_then(|problems| problems.as_array());
        parts.extend(
            hooks.into_iter().flatten().filter_map(|text| text.as_str()).map(str::to_string),
        );
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Returns after how long without success a task is late; `None` if it runs only by hand.
pub(crate) fn patience(config: &Config, task: &Task, now: Timestamp) -> Option<Duration> {
    let of = |group: &str| config.groups.get(group).filter(|group| !group.paused);
    match task {
        Task::Backup(group) => backup_patience(of(group)?, now),
        Task::Sync(group) => {
            let group = of(group)?;
            group.vault.as_ref()?;
            let own = match &group.sync {
                crate::config::SyncWhen::Never => return None,
                crate::config::SyncWhen::At(schedule) => schedule.longest_gap(now, &group.zone) * 2,
                crate::config::SyncWhen::AfterBackup => backup_patience(group, now)?,
            };
            Some(own.max(SYNC_LATE_LEAST))
        }
        Task::Drill(group) => {
            let group = of(group)?;
            let drill = group.drill.as_ref()?;
            let usual = drill.schedule.as_ref()?.longest_gap(now, &group.zone) * 2;
            Some(drill.alert_after.unwrap_or(usual).max(DAY))
        }
        Task::Pool(upkeep) => routine(config.maintenance.routine(*upkeep)),
        Task::Vault(upkeep, vault) => {
            routine(config.vaults.get(vault)?.maintenance.routine(*upkeep))
        }
    }
}

fn routine(routine: &crate::config::Routine) -> Option<Duration> {
    routine.schedule.as_ref().map(|_| routine.alert_after)
}

fn backup_patience(group: &GroupConfig, now: Timestamp) -> Option<Duration> {
    let schedule = group.schedule.as_ref()?;
    let usual = || (schedule.longest_gap(now, &group.zone) * 2).max(LATE_LEAST);
    Some(group.alert_after.unwrap_or_else(usual))
}

/// Returns the alerts about tasks that have not succeeded for too long.
pub(super) fn late(
    config: &Config,
    memories: &[(Task, TaskMemory)],
    now: Timestamp,
) -> Vec<AlertDraft> {
    let draft = |(task, memory): &(Task, TaskMemory)| {
        let patience = patience(config, task, now)?;
        let since = memory.last_success.unwrap_or(memory.first_seen);
        let elapsed = units::between(since, now);
        if elapsed <= patience {
            return None;
        }
        let (level, what) = match task {
            Task::Backup(group) => {
                (AlertLevel::Critical, format!("group \"{group}\" has no new point"))
            }
            Task::Sync(group) => {
                let level =
                    if elapsed > DAY * 7 { AlertLevel::Critical } else { AlertLevel::Warning };
                (level, format!("group \"{group}\" has no new second copy"))
            }
            Task::Pool(_) | Task::Vault(..) | Task::Drill(_) => {
                (AlertLevel::Warning, format!("\"{task}\" has not succeeded"))
            }
        };
        let days = units::duration(elapsed);
        let message = match memory.last_success {
            Some(_) => format!("{what} for {days}"),
            None => format!("{what} since it was configured {days} ago"),
        };
        let hint = Some(format!(
            "run \"keepwell jobs '{task}'\" to see why, \"keepwell {task}\" to do it now"
        ));
        Some(AlertDraft { key: late_key(task), level, message, hint })
    };
    memories.iter().filter_map(draft).collect()
}

/// Returns the keys of all alerts about how things stand with a vault.
pub(super) fn standing_keys(vault: &str) -> Vec<String> {
    let days = WARNING_DAYS.iter().map(|day| silence_key(vault, *day));
    days.chain([stopped_key(vault)]).collect()
}

// Each day of warning is an alert of its own: it is told on that day, not only once.
fn silence_key(vault: &str, day: u32) -> String {
    format!("out of reach {vault} day {day}")
}

/// Returns the key of the alert that the state of a vault stops something.
pub(super) fn stopped_key(vault: &str) -> String {
    format!("stopped {vault}")
}

/// Returns the alerts about how things stand with a vault: that it is out of reach, and what its state stops.
pub(super) fn standing(vault: &VaultStanding) -> Vec<AlertDraft> {
    let strict = vault.standing.policy == Policy::Strict;
    let name = &vault.vault;
    let mut alerts = Vec::new();
    if let Some((day, lost)) = vault.silence() {
        let days = lost.as_secs() / DAY.as_secs();
        let left = (PATIENCE.as_secs() / DAY.as_secs()).saturating_sub(days);
        let outlook = match (strict, vault.standing.connectivity) {
            (true, Connectivity::Waiting(_)) => {
                format!("in {} backups to disk stop, too", units::counted(left, "day"))
            }
            _ => "the second copy is behind".to_string(),
        };
        let last = WARNING_DAYS.last() == Some(&day);
        alerts.push(AlertDraft {
            key: silence_key(name, day),
            level: if last { AlertLevel::Critical } else { AlertLevel::Warning },
            message: format!(
                "the vault \"{name}\" has been out of reach for {}: {outlook}",
                units::counted(days, "day")
            ),
            hint: Some(format!("run \"keepwell vault ping {name}\" to see where the way ends")),
        });
    }
    if let Some(message) = vault.stopped() {
        alerts.push(AlertDraft {
            key: stopped_key(name),
            level: if strict { AlertLevel::Critical } else { AlertLevel::Warning },
            message,
            hint: vault.standing.way_out().map(|way_out| format!("for more, {way_out}")),
        });
    }
    alerts
}

/// Returns in how many days the disks are full at the pace of these days, which come oldest first. `None` if they do not fill, or too little is known.
pub(crate) fn forecast(days: &[Fullness]) -> Option<u64> {
    /// Of fewer days a single large restore or log file would look like a trend.
    const DAYS_LEAST: usize = 5;
    /// Beyond that nobody acts.
    const DAYS_MOST: f64 = 3650.0;
    if days.len() < DAYS_LEAST {
        return None;
    }
    // Least squares: one odd day does not decide.
    let count = days.len() as f64;
    let mean_day = days.iter().map(|day| day.day as f64).sum::<f64>() / count;
    let mean_room = days.iter().map(|day| day.room_bytes as f64).sum::<f64>() / count;
    let (mut product, mut square) = (0.0, 0.0);
    for day in days {
        let distance = day.day as f64 - mean_day;
        product += distance * (day.room_bytes as f64 - mean_room);
        square += distance * distance;
    }
    let per_day = product / square;
    let room = days.last()?.room_bytes as f64;
    let left = -room / per_day;
    (per_day < 0.0 && left.is_finite() && left <= DAYS_MOST).then_some(left.floor() as u64)
}

/// Returns the alert that the disks fill, if they do so soon.
pub(super) fn filling(days: &[Fullness]) -> Option<AlertDraft> {
    const WARN: u64 = 14;
    const CRITICAL: u64 = 3;
    let left = forecast(days).filter(|left| *left <= WARN)?;
    let level = if left <= CRITICAL { AlertLevel::Critical } else { AlertLevel::Warning };
    Some(AlertDraft {
        key: "filling".to_string(),
        level,
        message: format!("the pool is full in {}", units::counted(left, "day")),
        hint: Some("keep fewer points, or run \"keepwell pool add DIR\"".to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn config() -> Config {
        let text = "[pool]\npaths = [\"p\"]\n[vault.a]\ncredentials = \"a\"\n\
                    [group.web]\nsources = [{ files = [\"/\"] }]\nschedule = \"daily 02:00\"\ntimezone = \"UTC\"\n\
                    drill = { schedule = \"daily 05:00\" }\n\
                    [group.hand]\nsources = [{ files = [\"/\"] }]\n";
        Config::parse(Path::new("/c.toml"), text).unwrap()
    }

    fn hours(hours: i64) -> Timestamp {
        Timestamp(hours * 3_600_000_000_000)
    }

    fn memory(last_success: Option<Timestamp>) -> TaskMemory {
        TaskMemory {
            handled: hours(0),
            first_seen: hours(0),
            last_success,
            failures: 0,
            last_bytes: None,
            last_seconds: None,
        }
    }

    fn late_at(task: &str, success: Option<i64>, now: i64) -> Option<AlertLevel> {
        let tasks = [(task.parse().unwrap(), memory(success.map(hours)))];
        late(&config(), &tasks, hours(now)).first().map(|draft| draft.level)
    }

    #[test]
    fn what_did_not_succeed_for_twice_its_longest_pause_is_late() {
        use AlertLevel::{Critical, Warning};
        for (task, success, now, expected) in [
            ("backup web", Some(100), 148, None),
            ("backup web", Some(100), 149, Some(Critical)),
            ("backup web", None, 49, Some(Critical)),
            ("sync web", Some(100), 149, Some(Warning)),
            ("sync web", Some(100), 100 + 7 * 24 + 1, Some(Critical)),
            ("drill web", Some(100), 148, None),
            ("drill web", Some(100), 149, Some(Warning)),
            ("drill hand", None, 100_000, None),
            ("prune", Some(0), 30 * 24 + 1, Some(Warning)),
            ("check --vault=a", Some(0), 30 * 24, None),
            ("check --vault=a", Some(0), 30 * 24 + 1, Some(Warning)),
            ("forget --vault=removed", None, 100_000, None),
            ("backup hand", None, 100_000, None),
            ("backup removed", None, 100_000, None),
        ] {
            assert_eq!(late_at(task, success, now), expected, "{task} {success:?} {now}");
        }
    }

    #[test]
    fn a_failure_is_a_warning_at_first_and_critical_when_trying_again_does_not_help() {
        let task = Task::Backup("web".into());
        let level = |code, failures| {
            let ending = Ending { exit_code: Some(code), ..Ending::default() };
            let verdict = after(&config(), &task, JobState::Failed, &ending, failures);
            (verdict.raise[0].level, verdict.raise[0].key.clone())
        };

        assert_eq!(level(1, 1), (AlertLevel::Warning, "failed backup web".to_string()));
        assert_eq!(level(1, 4).0, AlertLevel::Critical);
        assert_eq!(level(7, 1), (AlertLevel::Critical, "full".to_string()));
        assert_eq!(level(5, 1), (AlertLevel::Critical, "damage backup web".to_string()));
    }

    #[test]
    fn a_success_ends_what_was_wrong_and_tells_of_problems_once() {
        let task = Task::Backup("web".into());
        let ending = |count: u64| Ending {
            summary: Some(json!({ "problem_count": count })),
            ..Ending::default()
        };

        let good = after(&config(), &task, JobState::Done, &ending(0), 0);
        let partly = after(&config(), &task, JobState::Incomplete, &ending(2), 0);

        assert!(good.raise.is_empty());
        for key in ["failed backup web", "late backup web", "full", "incomplete backup web"] {
            assert!(good.resolve.iter().any(|resolved| resolved == key), "{key}");
        }
        assert_eq!(partly.raise[0].message, "backup web: 2 entries could not be backed up");
        assert!(!partly.resolve.contains(&"incomplete backup web".to_string()));
        let cancelled = after(&config(), &task, JobState::Cancelled, &ending(0), 0);
        assert_eq!(cancelled, Verdict::default());
    }

    #[test]
    fn disks_that_fill_are_foreseen_and_those_that_do_not_are_not() {
        let days = |rooms: &[u64]| -> Vec<Fullness> {
            let day = |(day, room): (usize, &u64)| Fullness {
                day: day as i64,
                used_bytes: 0,
                room_bytes: *room,
            };
            rooms.iter().enumerate().map(day).collect()
        };

        assert_eq!(forecast(&days(&[100, 90, 80, 70, 60])), Some(6));
        assert_eq!(forecast(&days(&[100, 90, 80, 70])), None, "too little is known");
        assert_eq!(forecast(&days(&[60, 70, 80, 90, 100])), None);
        assert_eq!(forecast(&days(&[100, 100, 100, 100, 100])), None);
        // One large file that came and went.
        assert_eq!(forecast(&days(&[100, 100, 20, 100, 100])), None);
        assert_eq!(filling(&days(&[100, 90, 80, 70, 60])).unwrap().level, AlertLevel::Warning);
        assert_eq!(filling(&days(&[100, 80, 60, 40, 20])).unwrap().level, AlertLevel::Critical);
    }
}
