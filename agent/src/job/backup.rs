//! Points of all sources of a group, with its hooks around them.
//!
//! `before` runs once for the group; if it fails there is no point. What `before` began, `after` ends: it is entered as owed before `before` starts,
//! and whoever finds it owed later runs it first.

use cloudsync::notes::ON_DEMAND;
use storepool::backup::{BackupOptions, BackupReport, backup};
use storepool::catalog::Pin;
use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::manifest::PointSet;
use storepool::monitor::Monitor;
use storepool::pool::Pool;

use super::Workshop;
use super::owed::{Aftermath, add, as_owed, pay_group, unpaid};
use crate::config::{GroupConfig, HookCommand};
use crate::error::{Cause, Outcome};
use crate::hooks::{self, Hook};
use crate::journal::{JobId, OwedHook};
use crate::process::host_name;
use crate::workload::{self, Prepared, Surroundings, Workload, WorkloadError};

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
    /// So many things that wait in a service, and that its point will not contain, are accepted; `None`: as configured.
    pub(crate) accept_pending: Option<u64>,
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
    /// What belongs to a source and is in none of its points: the source, and what.
    pub(crate) not_contained: Vec<(String, String)>,
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

/// Makes a point of each source of `group`. One source that fails does not keep the others from their points, unless they are held still together: then
/// there are points of all or of none.
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
    let workloads: Vec<_> = group.sources.iter().map(workload::of).collect();
    let round = Round { workshop, group, job, choices, monitor };
    let mut aftermath = Aftermath::default();
    if !choices.dry_run {
        aftermath = round.pay_what_is_owed()?;
        round.begin(&workloads, &aftermath)?;
    }
    let sources = match group.consistent && !choices.dry_run && workloads.len() > 1 {
        true => round.all_together(&workloads, &mut aftermath),
        false => round.one_by_one(&workloads, &mut aftermath),
    };
    let mut report = GroupReport { sources, hook_problems: Vec::new(), not_contained: Vec::new() };
    for workload in &workloads {
        let absent = workload.not_contained();
        report.not_contained.extend(absent.into_iter().map(|what| (workload.name(), what)));
    }
    report.hook_problems = std::mem::take(&mut aftermath.problems);
    if !choices.dry_run {
        report.hook_problems.extend(round.end(&report, &aftermath)?);
    }
    Ok(report)
}

/// Makes a point of one source of a group now, of what is to be replaced: with the source's own commands, but without the group's hooks.
///
/// # Errors
/// There is no point; or the source could not be let go again.
pub(crate) fn back_up_before_replacing(
    workshop: &Workshop<'_>,
    group: &GroupConfig,
    job: JobId,
    workload: &dyn Workload,
    monitor: &dyn Monitor,
) -> Result<PointId, Cause> {
    let _lock = workshop.lock_group(&group.name)?;
    let tags = vec!["safety".to_string()];
    let choices = BackupChoices { tags, ..BackupChoices::default() };
    let round = Round { workshop, group, job, choices: &choices, monitor };
    let mut aftermath = round.pay_what_is_owed()?;
    let mut owed = aftermath.owed.clone();
    workload.owed().iter().for_each(|debt| add(&mut owed, as_owed(debt)));
    if !owed.is_empty() {
        workshop.journal.owe_hooks(&group.name, job, &owed, workshop.now())?;
    }
    let made = round.one_source(workload, &round.surroundings(), &mut aftermath);
    round.leave_owed(&aftermath)?;
    let point = made?.point.ok_or(storepool::Error::Interrupted)?;
    match aftermath.problems.into_iter().next() {
        None => Ok(point),
        Some(problem) => Err(problem),
    }
}

struct Round<'a> {
    workshop: &'a Workshop<'a>,
    group: &'a GroupConfig,
    job: JobId,
    choices: &'a BackupChoices,
    monitor: &'a dyn Monitor,
}

impl Round<'_> {
    fn pay_what_is_owed(&self) -> Result<Aftermath, Cause> {
        let (_, problems) = pay_group(self.workshop, &self.group.name)?;
        let left = self.workshop.journal.owed_hooks(&self.group.name)?;
        Ok(Aftermath { problems, owed: left.map(|(_, owed)| owed).unwrap_or_default() })
    }

    fn begin(&self, workloads: &[Box<dyn Workload>], before: &Aftermath) -> Result<(), Cause> {
        let mut owed = before.owed.clone();
        for debt in workloads.iter().flat_map(|workload| workload.owed()) {
            add(&mut owed, as_owed(&debt));
        }
        let hooks = &self.group.hooks;
        if let (Some(_), Some(after)) = (&hooks.before, &hooks.after) {
            owed.push(OwedHook {
                command: hooks::words(after),
                timeout_seconds: hooks.timeout.as_secs(),
                user: hooks.user.clone(),
                ..OwedHook::default()
            });
        }
        if !owed.is_empty() {
            let now = self.workshop.now();
            self.workshop.journal.owe_hooks(&self.group.name, self.job, &owed, now)?;
        }
        let Some(command) = &hooks.before else { return Ok(()) };
        let Err(failed) = self.run("before", command, "running", "", "") else { return Ok(()) };
        // It may have stopped half of what it was to stop.
        let message = failed.chain();
        for (phase, hook) in [("after", &hooks.after), ("on_error", &hooks.on_error)] {
            let Some(hook) = hook else { continue };
            if let Err(error) = self.run(phase, hook, "failed", &message, "") {
                tracing::warn!(group = %self.group.name, %error, "{phase} failed, after before had failed");
            }
        }
        self.leave_owed(before)?;
        if self.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        Err(failed)
    }

    fn leave_owed(&self, aftermath: &Aftermath) -> Result<(), Cause> {
        let (journal, group) = (self.workshop.journal, &self.group.name);
        match aftermath.owed.is_empty() {
            true => journal.settle_hooks(group),
            false => journal.owe_hooks(group, self.job, &aftermath.owed, self.workshop.now()),
        }
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            never: self.workshop.own_folders(),
            state: self.workshop.place.state(),
            dry_run: self.choices.dry_run,
            accept_pending: self.choices.accept_pending,
            monitor: self.monitor,
        }
    }

    fn one_by_one(
        &self,
        workloads: &[Box<dyn Workload>],
        aftermath: &mut Aftermath,
    ) -> Vec<SourceResult> {
        let surroundings = self.surroundings();
        let mut sources = Vec::new();
        for workload in workloads {
            let result = self.one_source(&**workload, &surroundings, aftermath);
            let interrupted = matches!(result, Err(Cause::Pool(storepool::Error::Interrupted)));
            sources.push(SourceResult { source: workload.name(), result });
            if interrupted {
                break;
            }
        }
        sources
    }

    fn one_source(
        &self,
        workload: &dyn Workload,
        surroundings: &Surroundings<'_>,
        aftermath: &mut Aftermath,
    ) -> Result<BackupReport, Cause> {
        let prepared = self.prepare(workload, surroundings, aftermath)?;
        let made = self.read(workload, &*prepared, None);
        self.release(workload, prepared, aftermath);
        made
    }

    // All sources are held still before the first is read, and let go when the last was.
    fn all_together(
        &self,
        workloads: &[Box<dyn Workload>],
        aftermath: &mut Aftermath,
    ) -> Vec<SourceResult> {
        let surroundings = self.surroundings();
        let entropy = &*self.workshop.pool.world().entropy;
        let set = PointSet {
            id: storepool::entropy::random_bytes(entropy),
            count: u32::try_from(workloads.len()).unwrap_or(u32::MAX),
        };
        let mut held = Vec::new();
        let mut failure = None;
        for workload in workloads {
            match self.prepare(&**workload, &surroundings, aftermath) {
                Ok(prepared) => held.push(prepared),
                Err(cause) => {
                    failure = Some((workload.name(), cause));
                    break;
                }
            }
        }
        let mut made = Vec::new();
        if failure.is_none() {
            for (workload, prepared) in workloads.iter().zip(&held) {
                match self.read(&**workload, &**prepared, Some(set)) {
                    Ok(report) => made.push(report),
                    Err(cause) => {
                        failure = Some((workload.name(), cause));
                        break;
                    }
                }
            }
        }
        for (workload, prepared) in workloads.iter().zip(held) {
            self.release(&**workload, prepared, aftermath);
        }
        let names = workloads.iter().map(|workload| workload.name());
        let Some((culprit, cause)) = failure else {
            let results = names.zip(made);
            return results
                .map(|(source, made)| SourceResult { source, result: Ok(made) })
                .collect();
        };
        // Half a set shows no moment of all sources.
        let points: Vec<PointId> = made.iter().filter_map(|report| report.point).collect();
        if let Err(error) = self.workshop.pool.forget(&points) {
            aftermath.problems.push(error.into());
        }
        let mut cause = Some(cause);
        let result = |source: String| {
            let own = cause.take_if(|_| source == culprit);
            let other = || {
                WorkloadError::failed(format!("{culprit}, which it is held still with, failed"))
                    .into()
            };
            SourceResult { result: Err(own.unwrap_or_else(other)), source }
        };
        names.map(result).collect()
    }

    fn prepare<'w>(
        &self,
        workload: &'w dyn Workload,
        surroundings: &'w Surroundings<'w>,
        aftermath: &mut Aftermath,
    ) -> Result<Box<dyn Prepared + 'w>, Cause> {
        if self.monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        let prepared = workload.prepare(surroundings);
        if prepared.is_err() && !self.choices.dry_run {
            for debt in workload.owed() {
                if let Err(cause) = debt.pay() {
                    aftermath.problems.push(unpaid(&debt, cause));
                    add(&mut aftermath.owed, as_owed(&debt));
                }
            }
        }
        match prepared {
            // Programs that were asked something were ended with the run.
            Err(_) if self.monitor.cancelled() => Err(storepool::Error::Interrupted.into()),
            prepared => prepared,
        }
    }

    fn release(
        &self,
        workload: &dyn Workload,
        prepared: Box<dyn Prepared + '_>,
        aftermath: &mut Aftermath,
    ) {
        let debts: Vec<_> = workload.owed().iter().map(as_owed).collect();
        match prepared.release() {
            // Paid, and with it what an earlier run could not pay.
            Ok(()) if !self.choices.dry_run => aftermath.owed.retain(|owed| !debts.contains(owed)),
            Ok(()) => {}
            Err(cause) => {
                aftermath.problems.push(cause);
                debts.into_iter().for_each(|debt| add(&mut aftermath.owed, debt));
            }
        }
    }

    fn read(
        &self,
        workload: &dyn Workload,
        prepared: &dyn Prepared,
        set: Option<PointSet>,
    ) -> Result<BackupReport, Cause> {
        let choices = self.choices;
        let options = BackupOptions {
            host: host_name(),
            group: self.group.name.clone(),
            source: workload.name(),
            tags: choices.tags.clone(),
            set,
            program: env!("CARGO_PKG_VERSION").to_string(),
            dry_run: choices.dry_run,
            threads: 0,
            force: choices.force,
        };
        let report = backup(self.workshop.pool, prepared.source(), &options, self.monitor)?;
        if let (Some(point), Some(until)) = (report.point, choices.keep_until) {
            keep(self.workshop.pool, point, until)?;
        }
        Ok(report)
    }

    fn end(&self, report: &GroupReport, aftermath: &Aftermath) -> Result<Vec<Cause>, Cause> {
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
        self.leave_owed(aftermath)?;
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

/// Returns the failure of a hook.
pub(super) fn told(phase: &'static str, group: &str, error: hooks::HookError) -> Cause {
    Cause::Hook { phase, group: group.to_string(), cause: Box::new(error) }
}

/// Returns what a hook gets to know; documented in docs/operations.md.
pub(super) fn variables(
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
