//! Points of all sources of a group, with its hooks around them.
//!
//! `before` runs once for the group; if it fails there is no point. What `before` began, `after` ends: it is entered as owed before `before` starts,
//! and whoever finds it owed later runs it first.

use std::time::Duration;

use cloudsync::notes::ON_DEMAND;
use storepool::backup::{BackupOptions, BackupReport, backup};
use storepool::catalog::Pin;
use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::monitor::Monitor;
use storepool::pool::Pool;

use super::Workshop;
use crate::config::{GroupConfig, HookCommand};
use crate::error::{Cause, Outcome};
use crate::hooks::{self, Hook};
use crate::journal::{JobId, OwedHook};
use crate::process::host_name;
use crate::workload::{self, Surroundings};

/// Choices of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackupChoices {
    /// Look and compare, but store nothing; hooks do not run.
    pub(crate) dry_run: bool,
    /// Read every file.
    pub(crate) force: bool,
    /// Tags of the new points.
    pub(crate) tags: Vec<String>,
    /// No retention removes the new points before.
    pub(crate) keep_until: Option<Timestamp>,
}

/// Pins a point that was made on demand until a date of its own.
pub(crate) fn keep(pool: &Pool, point: PointId, until: Timestamp) -> Result<(), Cause> {
    let all = pool.points()?;
    let Some(found) = all.iter().find(|other| other.id == point) else { return Ok(()) };
    let mut notes = found.notes.clone();
    notes.pins.push(Pin { reason: ON_DEMAND.to_string(), until: Some(until.0) });
    Ok(pool.set_notes(point, &notes)?)
}

/// What became of one source.
#[derive(Debug)]
pub(crate) struct SourceResult {
    /// Its name.
    pub(crate) source: String,
    /// Its point, or why there is none.
    pub(crate) result: Result<BackupReport, Cause>,
}

/// What became of a group.
#[derive(Debug)]
pub(crate) struct GroupReport {
    /// Each source.
    pub(crate) sources: Vec<SourceResult>,
    /// What went wrong with hooks beside the points.
    pub(crate) hook_problems: Vec<Cause>,
}

impl GroupReport {
    /// Returns the new points.
    pub(crate) fn points(&self) -> impl Iterator<Item = PointId> {
        self.sources.iter().filter_map(|source| source.result.as_ref().ok()?.point)
    }

    /// Returns how it went, if every source has its point.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut problems = !self.hook_problems.is_empty();
        for source in &self.sources {
            problems |= source.result.as_ref().ok()?.problem_count > 0;
        }
        Some(if problems { Outcome::Incomplete } else { Outcome::Done })
    }
}

/// Makes a point of each source of `group`. One source that fails does not keep the others from their points.
///
/// # Errors
/// Another run of the group is going on, or `before` failed: then there is no point at all.
pub(crate) fn back_up(
    workshop: &Workshop<'_>,
    group: &GroupConfig,
    job: JobId,
    choices: &BackupChoices,
    monitor: &dyn Monitor,
) -> Result<GroupReport, Cause> {
    let _lock = workshop.lock_group(&group.name)?;
    let round = Round { workshop, group, job, monitor };
    let mut hook_problems = Vec::new();
    if !choices.dry_run {
        hook_problems.extend(round.pay_what_is_owed()?);
        round.begin()?;
    }
    let mut report = GroupReport { sources: Vec::new(), hook_problems };
    for source in &group.sources {
        let workload = workload::of(source);
        let result = round.one_source(&*workload, choices);
        let interrupted = matches!(result, Err(Cause::Pool(storepool::Error::Interrupted)));
        report.sources.push(SourceResult { source: workload.name(), result });
        if interrupted {
            break;
        }
    }
    if !choices.dry_run {
        report.hook_problems.extend(round.end(&report)?);
    }
    Ok(report)
}

fn run_owed(group: &str, job: JobId, owed: &OwedHook) -> Result<(), Cause> {
    let hook = Hook {
        command: owed.command.clone(),
        timeout: Duration::from_secs(owed.timeout_seconds),
        user: owed.user.clone(),
    };
    let error = "the run was interrupted".to_string();
    let variables = variables("after", group, job, "interrupted", &error, "");
    hook.run(&variables, "", &|| false).map_err(|error| told("after", group, error))
}

struct Round<'a> {
    workshop: &'a Workshop<'a>,
    group: &'a GroupConfig,
    job: JobId,
    monitor: &'a dyn Monitor,
}

impl Round<'_> {
    // What a run before this one began and never ended.
    fn pay_what_is_owed(&self) -> Result<Option<Cause>, Cause> {
        let Some((job, owed)) = self.workshop.journal.owed_hook(&self.group.name)? else {
            return Ok(None);
        };
        let problem = run_owed(&self.group.name, job, &owed).err();
        self.workshop.journal.settle_hook(&self.group.name)?;
        Ok(problem)
    }

    fn begin(&self) -> Result<(), Cause> {
        let Some(before) = &self.group.hooks.before else { return Ok(()) };
        if let Some(after) = &self.group.hooks.after {
            let owed = OwedHook {
                command: hooks::words(after),
                timeout_seconds: self.group.hooks.timeout.as_secs(),
                user: self.group.hooks.user.clone(),
            };
            let now = self.workshop.now();
            self.workshop.journal.owe_hook(&self.group.name, self.job, &owed, now)?;
        }
        let Err(failed) = self.run("before", before, "running", "", "") else { return Ok(()) };
        // It may have stopped half of what it was to stop.
        let message = failed.chain();
        for (phase, hook) in
            [("after", &self.group.hooks.after), ("on_error", &self.group.hooks.on_error)]
        {
            let Some(hook) = hook else { continue };
            if let Err(error) = self.run(phase, hook, "failed", &message, "") {
                tracing::warn!(group = %self.group.name, %error, "{phase} failed, after before had failed");
            }
        }
        self.workshop.journal.settle_hook(&self.group.name)?;
        if self.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        Err(failed)
    }

    fn one_source(
        &self,
        workload: &dyn workload::Workload,
        choices: &BackupChoices,
    ) -> Result<BackupReport, Cause> {
        if self.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        let surroundings = Surroundings { never: self.workshop.own_folders() };
        let prepared = workload.prepare(&surroundings)?;
        let options = BackupOptions {
            host: host_name(),
            group: self.group.name.clone(),
            source: workload.name(),
            tags: choices.tags.clone(),
            program: env!("CARGO_PKG_VERSION").to_string(),
            dry_run: choices.dry_run,
            threads: 0,
            force: choices.force,
        };
        let made = backup(self.workshop.pool, prepared.source(), &options, self.monitor);
        let released = prepared.release();
        let report = made?;
        if let Err(cause) = released {
            // What the source said at its end shows that what was read is not sound.
            if let Some(point) = report.point {
                self.workshop.pool.forget(&[point])?;
            }
            return Err(cause);
        }
        if let (Some(point), Some(until)) = (report.point, choices.keep_until) {
            keep(self.workshop.pool, point, until)?;
        }
        Ok(report)
    }

    fn end(&self, report: &GroupReport) -> Result<Vec<Cause>, Cause> {
        let failed = report.sources.iter().find_map(|source| {
            let error = source.result.as_ref().err()?;
            Some(format!("{}: {}", source.source, error.chain()))
        });
        let word = match (&failed, report.outcome()) {
            (None, Some(Outcome::Done)) => "done",
            (None, _) => "incomplete",
            (Some(_), _) => "failed",
        };
        let message = failed.clone().unwrap_or_default();
        let points: Vec<String> = report.points().map(|point| point.to_string()).collect();
        let points = points.join(" ");
        let mut problems = Vec::new();
        let hooks = &self.group.hooks;
        if let Some(after) = &hooks.after {
            problems.extend(self.run("after", after, word, &message, &points).err());
        }
        self.workshop.journal.settle_hook(&self.group.name)?;
        if let (Some(on_error), Some(_)) = (&hooks.on_error, failed) {
            problems.extend(self.run("on_error", on_error, word, &message, &points).err());
        }
        Ok(problems)
    }

    fn run(
        &self,
        phase: &'static str,
        command: &HookCommand,
        result: &str,
        error: &str,
        points: &str,
    ) -> Result<(), Cause> {
        let hooks = &self.group.hooks;
        let hook = Hook {
            command: hooks::words(command),
            timeout: hooks.timeout,
            user: hooks.user.clone(),
        };
        let variables = variables(phase, &self.group.name, self.job, result, error, points);
        // What was begun is ended even if the run was asked to stop; only `before` can be given up.
        let cancelled = || phase == "before" && self.monitor.cancelled();
        hook.run(&variables, "", &cancelled).map_err(|error| told(phase, &self.group.name, error))
    }
}

fn told(phase: &'static str, group: &str, error: hooks::HookError) -> Cause {
    Cause::Hook { phase, group: group.to_string(), cause: Box::new(error) }
}

// Documented in docs/operations.md.
fn variables(
    phase: &str,
    group: &str,
    job: JobId,
    result: &str,
    error: &str,
    points: &str,
) -> [(&'static str, String); 7] {
    [
        ("KEEPWELL_HOOK_PHASE", phase.to_string()),
        ("KEEPWELL_HOOK_GROUP", group.to_string()),
        ("KEEPWELL_HOOK_HOST", host_name()),
        ("KEEPWELL_HOOK_JOB", job.to_string()),
        ("KEEPWELL_HOOK_RESULT", result.to_string()),
        ("KEEPWELL_HOOK_ERROR", error.to_string()),
        ("KEEPWELL_HOOK_POINTS", points.to_string()),
    ]
}
