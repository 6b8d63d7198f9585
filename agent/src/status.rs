//! Whether all is well: what is protected, where the copies are and how old, what is wrong, and which command mends it. Local and quick: no vault
//! is asked.

mod log;
mod proofs;

use std::collections::BTreeMap;
use std::sync::Arc;

use cloudsync::standing::Policy;
use schemars::JsonSchema;
use serde::Serialize;
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::disk::{Disk, SystemDisk};
use storepool::pool::{Pool, World};

use crate::config::{AlertLevel, Config, GroupConfig, SyncWhen};
use crate::console::units::{between, counted, duration, rfc3339};
use crate::daemon::{forecast, patience};
use crate::documents::AlertDocument;
use crate::drill::SealKey;
use crate::error::{Attempt, Cause, Error};
use crate::job::Task;
use crate::journal::{Journal, TaskMemory};
use crate::place::Place;
use crate::standing::{self, StandingDocument};

/// How things are.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Status {
    /// Everything is protected as configured, and nothing is wrong.
    pub(crate) well: bool,
    /// When this was found.
    pub(crate) time: String,
    /// Whether the daemon runs.
    pub(crate) daemon: bool,
    /// The groups.
    pub(crate) groups: Vec<GroupStatus>,
    /// Forget, prune and check, of the pool and of each vault.
    pub(crate) maintenance: Vec<TaskStatus>,
    /// How things stand with the vaults.
    pub(crate) vaults: Vec<VaultStatus>,
    /// The pool.
    pub(crate) pool: PoolStatus,
    /// What is wrong, the worst first.
    pub(crate) findings: Vec<Finding>,
    /// Alerts that go on.
    pub(crate) alerts: Vec<AlertDocument>,
}

/// A group.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct GroupStatus {
    /// Its name.
    pub(crate) group: String,
    /// It rests.
    pub(crate) paused: bool,
    /// When points are made.
    pub(crate) schedule: Option<String>,
    /// When the next point is due.
    pub(crate) next_run: Option<String>,
    /// The vault of the second copy.
    pub(crate) vault: Option<String>,
    /// Its sources.
    pub(crate) sources: Vec<SourceStatus>,
    /// Making points.
    pub(crate) backup: TaskStatus,
    /// Copying them.
    pub(crate) sync: Option<TaskStatus>,
    /// Proving that they can be restored.
    pub(crate) drill: Option<TaskStatus>,
}

/// A data source.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct SourceStatus {
    /// Its name.
    pub(crate) source: String,
    /// Its kind.
    pub(crate) workload: &'static str,
    /// Points in the pool.
    pub(crate) points: u64,
    /// Bytes of the newest point.
    pub(crate) bytes: Option<u64>,
    /// Entries that the newest point lacks.
    pub(crate) problem_count: u64,
    /// When the newest point in the pool was begun.
    pub(crate) newest_point: Option<String>,
    /// How old it is.
    pub(crate) newest_age_seconds: Option<u64>,
    /// When the newest point that the vault has was begun.
    pub(crate) newest_in_vault: Option<String>,
    /// How old that is.
    pub(crate) vault_age_seconds: Option<u64>,
    /// Points that the vault does not have yet.
    pub(crate) backlog: u64,
    /// Up to when the pool can bring it back: the newest point, or the log that leads on from one.
    pub(crate) recoverable_until: Option<String>,
    /// How long ago that was: what happened since would be lost.
    pub(crate) rpo_seconds: Option<u64>,
    /// Its log comes to the pool by itself, between points.
    pub(crate) has_log: bool,
    /// When each copy was proven by a drill.
    pub(crate) proofs: Vec<ProofStatus>,
}

/// What drills of a source have shown of one copy.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct ProofStatus {
    /// `pool`, or `vault` and its name.
    pub(crate) copy: String,
    /// When a drill succeeded the last time.
    pub(crate) proven: Option<String>,
    /// The same in seconds since 1970.
    pub(crate) proven_seconds: Option<i64>,
    /// `compared`, or `working` if the restored service was started or opened and checked itself.
    pub(crate) grade: Option<&'static str>,
    /// The point that it restored.
    pub(crate) point: Option<String>,
    /// Whether it restored all of it.
    pub(crate) whole: Option<bool>,
    /// How long it took until everything wanted was back.
    pub(crate) recovery_seconds: Option<f64>,
    /// When a drill failed since then.
    pub(crate) failed: Option<String>,
    /// What it found.
    pub(crate) difference: Option<String>,
}

/// A task that comes again.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct TaskStatus {
    /// Its name.
    pub(crate) task: String,
    /// When it succeeded the last time.
    pub(crate) last_success: Option<String>,
    /// The same in seconds since 1970.
    pub(crate) last_success_seconds: Option<i64>,
    /// Failures since then.
    pub(crate) failures: u32,
    /// Whether that is too long ago.
    pub(crate) late: bool,
}

/// A vault.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct VaultStatus {
    /// Its name.
    pub(crate) vault: String,
    /// What is allowed, since when, and what would change it, in a sentence.
    pub(crate) explanation: String,
    /// The same for programs.
    #[serde(flatten)]
    pub(crate) standing: StandingDocument,
}

/// The pool.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct PoolStatus {
    /// Bytes of packs.
    pub(crate) bytes: u64,
    /// Bytes that can still be written without touching the reserve.
    pub(crate) room_bytes: u64,
    /// In how many days it is full, at the pace of the last weeks.
    pub(crate) full_in_days: Option<u64>,
    /// Points.
    pub(crate) points: u64,
    /// Directories that are missing.
    pub(crate) missing: Vec<String>,
}

/// Something that is wrong.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// `information`, `warning` or `critical`.
    pub(crate) level: &'static str,
    /// What is wrong.
    pub(crate) what: String,
    /// What mends it.
    pub(crate) hint: String,
}

/// Finds out how things are. `daemon` tells whether it runs.
///
/// # Errors
/// The journal cannot be read. A pool that cannot be opened is a finding.
pub(crate) fn of(
    config: &Config,
    place: &Place,
    journal: &Journal,
    now: Timestamp,
    daemon: bool,
) -> Result<Status, Error> {
    let attempt = || "look at the status".to_string();
    let mut look = Look { config, journal, now, findings: Vec::new(), key: None };
    look.key = look.seal_key(place);
    let (opened, points, pool) = look.pool();
    let mut groups = Vec::new();
    for group in config.groups.values() {
        groups.push(look.group(group, opened.as_ref(), &points).attempt(attempt)?);
    }
    let mut maintenance = Vec::new();
    let upkeep = config.upkeep().map(|(vault, upkeep, _)| Task::upkeep(upkeep, vault));
    for task in upkeep {
        maintenance.push(look.task(&task).attempt(attempt)?);
    }
    look.whole(daemon);
    let vaults = look.vaults(place);
    let alerts = journal.active_alerts().attempt(attempt)?;
    for alert in &alerts {
        let known = look.findings.iter().any(|finding| finding.what == alert.message);
        // An alert about lateness says what the finding above it says.
        // So does the finding about a record that the drill has left.
        let said = ["late ", "damage drill "].iter().any(|kind| alert.key.starts_with(kind))
            || known
            || alert.level == AlertLevel::Information;
        if !said && alert.acknowledged.is_none() {
            look.finding(
                alert.level,
                alert.message.clone(),
                alert.hint.clone().unwrap_or_else(|| "run \"keepwell alerts\"".to_string()),
            );
        }
    }
    let mut findings = look.findings;
    findings.sort_by_key(|finding| std::cmp::Reverse(AlertLevel::of_word(finding.level)));
    let well = findings.iter().all(|finding| finding.level == AlertLevel::Information.word());
    Ok(Status {
        well,
        time: rfc3339(now),
        daemon,
        groups,
        maintenance,
        vaults,
        pool,
        findings,
        alerts: alerts.iter().map(AlertDocument::of).collect(),
    })
}

struct Look<'a> {
    config: &'a Config,
    journal: &'a Journal,
    now: Timestamp,
    findings: Vec<Finding>,
    key: Option<SealKey>,
}

impl Look<'_> {
    fn finding(&mut self, level: AlertLevel, what: String, hint: String) {
        self.findings.push(Finding { level: level.word(), what, hint });
    }

    fn pool(&mut self) -> (Option<Arc<Pool>>, Vec<Point>, PoolStatus) {
        let options = self.config.pool.options("keepwell status".to_string());
        let opened = Pool::open(&self.config.pool.paths, options, World::system());
        let read = opened.and_then(|pool| Ok((pool.points()?, pool)));
        let (points, pool) = match read {
            Ok(read) => read,
            // Nothing is wrong with a pool that somebody else is mending.
            Err(error @ storepool::Error::Busy { .. }) => {
                let what = Cause::from(error).chain();
                self.finding(AlertLevel::Warning, what, "wait until it has ended".to_string());
                return (None, Vec::new(), PoolStatus::default());
            }
            Err(error) => {
                let what = format!("the pool cannot be opened: {}", Cause::from(error).chain());
                self.finding(AlertLevel::Critical, what, "run \"keepwell doctor\"".to_string());
                return (None, Vec::new(), PoolStatus::default());
            }
        };
        let missing: Vec<String> =
            pool.missing_paths().iter().map(|path| path.display().to_string()).collect();
        for path in &missing {
            let what = format!("the pool directory {path} is missing");
            self.finding(AlertLevel::Critical, what, "is the disk mounted?".to_string());
        }
        let room_bytes = self.room();
        let days = self.journal.measurements(day(self.now) - 60);
        let full_in_days = days.ok().and_then(|days| forecast(&days));
        if let Some(days) = full_in_days.filter(|days| *days <= 14) {
            let level = if days <= 3 { AlertLevel::Critical } else { AlertLevel::Warning };
            let what = format!("the pool is full in {}", counted(days, "day"));
            let hint = "keep fewer points, or run \"keepwell pool add DIR\"".to_string();
            self.finding(level, what, hint);
        }
        let status = PoolStatus {
            bytes: pool.pack_rows().iter().map(|row| row.length).sum(),
            room_bytes,
            full_in_days,
            points: points.len() as u64,
            missing,
        };
        (Some(Arc::new(pool)), points, status)
    }

    fn room(&self) -> u64 {
        let disk: &dyn Disk = &SystemDisk;
        let paths = self.config.pool.paths.iter();
        paths.filter_map(|path| self.config.pool.reserve.room(disk, path).ok()).sum()
    }

    fn task(&mut self, task: &Task) -> Result<TaskStatus, Cause> {
        let name = task.to_string();
        let memory = self.journal.known_task(&name)?;
        let last_success = memory.and_then(|memory| memory.last_success);
        let since = last_success.or(memory.map(|memory: TaskMemory| memory.first_seen));
        let patience = patience(self.config, task, self.now);
        let late = match (since, patience) {
            (Some(since), Some(patience)) => between(since, self.now) > patience,
            _ => false,
        };
        let failures = memory.map_or(0, |memory| memory.failures);
        if late {
            let ago = since.map(|since| duration(between(since, self.now))).unwrap_or_default();
            let (level, what) = match task {
                Task::Backup(group) => {
                    (AlertLevel::Critical, format!("group \"{group}\" has no new point for {ago}"))
                }
                Task::Sync(group) => (
                    AlertLevel::Warning,
                    format!("group \"{group}\" has no new second copy for {ago}"),
                ),
                _ => (AlertLevel::Warning, format!("\"{task}\" has not succeeded for {ago}")),
            };
            self.finding(level, what, format!("run \"keepwell {task}\""));
        }
        Ok(TaskStatus {
            task: name,
            last_success: last_success.map(rfc3339),
            last_success_seconds: last_success.map(Timestamp::seconds),
            failures,
            late,
        })
    }

    fn group(
        &mut self,
        group: &GroupConfig,
        pool: Option<&Arc<Pool>>,
        points: &[Point],
    ) -> Result<GroupStatus, Cause> {
        let backup = self.task(&Task::Backup(group.name.clone()))?;
        let sync_task = Task::Sync(group.name.clone());
        let copied_until = match &group.vault {
            Some(_) => self.journal.last_done(&sync_task.to_string())?.and_then(|job| job.started),
            None => None,
        };
        let copies = group.vault.is_some() && group.sync != SyncWhen::Never;
        let sync = match copies {
            true => Some(self.task(&sync_task)?),
            false => None,
        };
        let drill = match &group.drill {
            Some(_) => Some(self.task(&Task::Drill(group.name.clone()))?),
            None => None,
        };
        let drilled = self.journal.drills(&group.name)?;
        let mut newest: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
        for point in points.iter().filter(|point| point.group == group.name) {
            newest.entry(point.source.as_str()).or_default().push(point);
        }
        let mut sources = Vec::new();
        for source in &group.sources {
            let name = source.name();
            let series = newest.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let mut status = self.source(&name, source.workload(), series, copied_until);
            if let Some(log) = log::log_of(source) {
                let pushed = newest.get(log.as_str()).and_then(|log| log.last()).copied();
                self.add_log(&mut status, group, series, pushed);
                if let (Some(pool), Some(pushed)) = (pool, pushed) {
                    self.look_for_gaps(&mut status, group, series, (pool, pushed));
                }
            }
            status.proofs = self.proofs(group, &name, &drilled, series);
            if status.points == 0 && !group.paused {
                let what = format!("{name} in group \"{}\" has no point yet", group.name);
                let hint = format!("run \"keepwell backup {}\"", group.name);
                self.finding(AlertLevel::Critical, what, hint);
            } else if copies && status.newest_in_vault.is_none() && !group.paused {
                let what = format!("{name} in group \"{}\" has no second copy yet", group.name);
                let hint = format!("run \"keepwell sync {}\"", group.name);
                self.finding(AlertLevel::Warning, what, hint);
            }
            sources.push(status);
        }
        let next = group.schedule.as_ref().filter(|_| !group.paused);
        let next = next.and_then(|schedule| schedule.next_run(self.now, &group.zone));
        Ok(GroupStatus {
            group: group.name.clone(),
            paused: group.paused,
            schedule: group.schedule.as_ref().map(ToString::to_string),
            next_run: next.map(rfc3339),
            vault: group.vault.clone(),
            sources,
            backup,
            sync,
            drill,
        })
    }

    fn source(
        &self,
        name: &str,
        workload: &'static str,
        series: &[&Point],
        copied_until: Option<Timestamp>,
    ) -> SourceStatus {
        let newest = series.iter().max_by_key(|point| point.started);
        // What was in the pool when the last complete sync began is in the vault.
        let is_copied = |point: &&&Point| copied_until.is_some_and(|until| point.finished <= until);
        let copied = series.iter().filter(is_copied).max_by_key(|point| point.started);
        let age =
            |point: Option<&&Point>| point.map(|point| between(point.started, self.now).as_secs());
        SourceStatus {
            source: name.to_string(),
            workload,
            points: series.len() as u64,
            bytes: newest.map(|point| point.bytes),
            problem_count: newest.map_or(0, |point| point.problem_count),
            newest_point: newest.map(|point| rfc3339(point.started)),
            newest_age_seconds: age(newest),
            newest_in_vault: copied.map(|point| rfc3339(point.started)),
            vault_age_seconds: age(copied),
            backlog: series.iter().filter(|point| !is_copied(point)).count() as u64,
            recoverable_until: newest.map(|point| rfc3339(point.started)),
            rpo_seconds: age(newest),
            has_log: false,
            proofs: Vec::new(),
        }
    }

    // A log is worth something only together with a point that it leads on from.
    fn add_log(
        &mut self,
        status: &mut SourceStatus,
        group: &GroupConfig,
        series: &[&Point],
        pushed: Option<&Point>,
    ) {
        status.has_log = true;
        match pushed {
            Some(log) if !series.is_empty() => {
                let until = series.iter().map(|point| point.started).max().max(Some(log.started));
                status.recoverable_until = until.map(rfc3339);
                status.rpo_seconds = until.map(|until| between(until, self.now).as_secs());
            }
            Some(_) => {}
            None if group.paused => {}
            None => {
                let what =
                    format!("no WAL of {} in group \"{}\" has come yet", status.source, group.name);
                let hint = "set archive_mode and archive_command = 'keepwell wal-push %p' in the cluster; see docs/workloads/postgres.md";
                self.finding(AlertLevel::Warning, what, hint.to_string());
            }
        }
    }

    // What lies behind a segment that never came is out of reach, however much of it there is.
    fn look_for_gaps(
        &mut self,
        status: &mut SourceStatus,
        group: &GroupConfig,
        series: &[&Point],
        (pool, pushed): (&Arc<Pool>, &Point),
    ) {
        let source = &status.source;
        let reach = match log::reach(pool, series, pushed) {
            Ok(Some(reach)) => reach,
            Ok(None) => return,
            // A push may have replaced it since the list was read, or the pool is busy.
            Err(Cause::Pool(
                storepool::Error::PointNotFound { .. } | storepool::Error::Busy { .. },
            )) => return,
            Err(cause) => {
                let what =
                    format!("the WAL of {source} in the pool cannot be read: {}", cause.chain());
                let hint = "run \"keepwell check\", then \"keepwell repair\"".to_string();
                self.finding(AlertLevel::Critical, what, hint);
                return;
            }
        };
        if let Some(segment) = &reach.newest.missing {
            let newest = series.last().map(|point| point.started);
            let until = reach.newest.newest.max(newest);
            let moment = until.map(rfc3339).unwrap_or_default();
            let what = format!(
                "WAL segment {segment} of {source} is missing: nothing after {moment} can be brought back"
            );
            let hint = format!(
                "run \"keepwell backup {}\": from a new base on everything can; then find out why archive_command said that the segment was kept",
                group.name
            );
            status.recoverable_until = until.map(rfc3339);
            status.rpo_seconds = until.map(|until| between(until, self.now).as_secs());
            self.finding(AlertLevel::Critical, what, hint);
        } else if let Some((segment, before)) = reach.between {
            let before = before.map_or("the end of an older base".to_string(), rfc3339);
            let what = format!(
                "WAL segment {segment} of {source} is missing: moments between {before} and the next base cannot be brought back, all others can"
            );
            let hint = "nothing has to be done; it ends when the points before it expire";
            self.finding(AlertLevel::Information, what, hint.to_string());
        }
    }

    fn vaults(&mut self, place: &Place) -> Vec<VaultStatus> {
        let mut found = Vec::new();
        for vault in standing::of_all(self.config, place, self.now) {
            if let Some(what) = vault.stopped() {
                let level = match vault.standing.policy {
                    Policy::Strict => AlertLevel::Critical,
                    Policy::KeepLocal => AlertLevel::Warning,
                };
                let way_out = vault.standing.way_out().unwrap_or_default();
                self.finding(level, what, format!("for more, {way_out}"));
            }
            found.push(VaultStatus {
                explanation: vault.explain(),
                standing: StandingDocument::of(&vault.contact, vault.standing.policy, self.now),
                vault: vault.vault,
            });
        }
        found
    }

    fn whole(&mut self, daemon: bool) {
        if self.config.groups.is_empty() {
            let hint = "run \"keepwell group add NAME --files PATH --schedule 'daily 02:00'\"";
            self.finding(
                AlertLevel::Critical,
                "no group is configured".to_string(),
                hint.to_string(),
            );
        }
        let scheduled = self.config.groups.values().any(|group| group.schedule.is_some());
        if scheduled && !daemon {
            let hint = "run \"keepwell service install\", or start it with \"keepwell daemon\"";
            let what = "the daemon does not run: nothing happens by itself".to_string();
            self.finding(AlertLevel::Critical, what, hint.to_string());
        }
        if self.config.vaults.is_empty() {
            let hint = "run \"keepwell vault register --credentials FILE\"".to_string();
            let what = "there is no vault: a disaster on this machine loses everything".to_string();
            self.finding(AlertLevel::Information, what, hint);
        }
    }
}

/// Returns the number of the day, since 1970.
pub(crate) fn day(now: Timestamp) -> i64 {
    now.seconds().div_euclid(86_400)
}
