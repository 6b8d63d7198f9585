//! `keepwell backup GROUP...`: points of all sources of groups, then the second copy.

use std::time::Duration;

use serde::Serialize;

use super::backup::{Summary, tell_point};
use super::workshop;
use crate::assembly::Assembly;
use crate::config::{Config, GroupConfig, SyncWhen};
use crate::console::failure;
use crate::console::units::{between, counted};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::backup::{BackupChoices, GroupReport, back_up};
use crate::job::{self, Task, Workshop};
use crate::journal::{JobId, Reason};
use crate::record::{Record, open_journal};
use crate::vaults;

/// What became of a group, for programs.
#[derive(Serialize)]
struct GroupSummary {
    group: String,
    /// The newest point, as of a backup of paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<String>,
    bytes: u64,
    bytes_stored: u64,
    problem_count: u64,
    points: Vec<Summary>,
    failed: Vec<FailedSource>,
    hook_problems: Vec<String>,
    /// What belongs to a source and is in none of its points.
    not_contained: Vec<NotContained>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<VaultSummary>,
}

#[derive(Serialize)]
struct FailedSource {
    source: String,
    message: String,
}

#[derive(Serialize)]
struct NotContained {
    source: String,
    what: String,
}

#[derive(Serialize)]
struct VaultSummary {
    vault: String,
    points_copied: usize,
    points_skipped: usize,
    bytes_uploaded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Total {
    groups: Vec<GroupSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<String>,
    bytes: u64,
    bytes_stored: u64,
    problem_count: u64,
}

/// Backs up the groups `names`, or all that are not paused.
pub(super) fn run(
    assembly: &Assembly,
    names: &[String],
    choices: &BackupChoices,
) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let groups = chosen(&config, names)?;
    let pool = assembly.open_configured(&config)?;
    let journal = open_journal(assembly).attempt(|| "enter the run in the journal".to_string())?;
    let workshop = workshop(assembly, &config, &pool, &journal);
    let mut summaries = Vec::new();
    let mut worst = Outcome::Done;
    let mut failures = Vec::new();
    for group in &groups {
        let mut summary = summary_of(group, None);
        match one_group(assembly, &workshop, group, choices, &mut summary) {
            Ok(outcome) => worst = worst.max(outcome),
            Err(error) => failures.push((group.name.as_str(), error)),
        }
        let interrupted = assembly.console.is_cancelled();
        summaries.push(summary);
        if interrupted {
            break;
        }
    }
    let total = Total {
        point: summaries.iter().rev().find_map(|group| group.point.clone()),
        bytes: summaries.iter().map(|group| group.bytes).sum(),
        bytes_stored: summaries.iter().map(|group| group.bytes_stored).sum(),
        problem_count: summaries.iter().map(|group| group.problem_count).sum(),
        groups: summaries,
    };
    assembly.console.message("summary", &total);
    if failures.len() > 1 {
        for (_, error) in &failures {
            assembly.console.warn(failure::explain(error).message);
        }
        let names: Vec<_> = failures.iter().map(|(name, _)| *name).collect();
        let cause = Cause::Groups { names: names.join(", "), all: groups.len() };
        return Err(Error { attempt: "make points of all groups".to_string(), cause });
    }
    match failures.pop() {
        Some((_, error)) => Err(error),
        None => Ok(worst),
    }
}

fn chosen<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a GroupConfig>, Error> {
    if names.is_empty() {
        let groups: Vec<_> = config.groups.values().filter(|group| !group.paused).collect();
        if groups.is_empty() {
            return Err(Error::usage(match config.groups.is_empty() {
                true => {
                    "the configuration has no group: add one with \"keepwell group add\", or name paths with --files"
                }
                false => {
                    "all groups are paused: name one, or resume them with \"keepwell group resume\""
                }
            }));
        }
        return Ok(groups);
    }
    let mut groups: Vec<&GroupConfig> = Vec::new();
    for name in names {
        let group = job::group(config, name)?;
        if !groups.iter().any(|other| other.name == group.name) {
            groups.push(group);
        }
    }
    Ok(groups)
}

fn one_group(
    assembly: &Assembly,
    workshop: &Workshop<'_>,
    group: &GroupConfig,
    choices: &BackupChoices,
    summary: &mut GroupSummary,
) -> Result<Outcome, Error> {
    let attempt = || format!("back up group \"{}\"", group.name);
    let task = Task::Backup(group.name.clone()).to_string();
    let record = match choices.dry_run {
        true => None,
        false => {
            let record = Record::begin(assembly, workshop.journal, task, Reason::Hand);
            Some(record.attempt(attempt)?)
        }
    };
    let job = record.as_ref().map_or(JobId(0), Record::id);
    let progress = assembly.console.progress("files");
    let made = back_up(workshop, group, job, choices, &progress);
    progress.finish();
    let result = made.attempt(attempt).and_then(|report| {
        *summary = summary_of(group, Some((&report, choices.dry_run)));
        tell(assembly, group, &report);
        verdict(report).attempt(attempt)
    });
    if let Some(record) = record {
        let value = serde_json::to_value(&*summary).ok();
        let entered = match &result {
            Ok(outcome) => record.end(Ok(*outcome), value),
            Err(error) => record.end(Err(error), value),
        };
        entered.attempt(|| "enter the run in the journal".to_string())?;
    }
    let outcome = result?;
    // The daemon makes second copies as jobs of their own, so that a slow vault keeps no slot from the next backup.
    let copies = !choices.dry_run && assembly.job.is_none() && group.sync == SyncWhen::AfterBackup;
    match &group.vault {
        Some(vault) if copies => {
            Ok(outcome.max(second_copy(assembly, workshop, group, vault, summary)))
        }
        _ => Ok(outcome),
    }
}

/// Copies the points of a group to its vault. A vault that cannot be reached is told, and makes no backup a failed one.
fn second_copy(
    assembly: &Assembly,
    workshop: &Workshop<'_>,
    group: &GroupConfig,
    vault: &str,
    summary: &mut GroupSummary,
) -> Outcome {
    let attempt = || format!("copy group \"{}\" to the vault \"{vault}\"", group.name);
    let task = Task::Sync(group.name.clone()).to_string();
    let progress = std::sync::Arc::new(assembly.console.progress("chunks"));
    let record = Record::begin(assembly, workshop.journal, task, Reason::Follows);
    let copied = record.and_then(|record| {
        let copied = job::sync::sync(workshop, assembly, group, progress.clone());
        let copied = copied.attempt(attempt);
        match &copied {
            Ok(_) => record.end(Ok(Outcome::Done), None)?,
            Err(error) => record.end(Err(error), None)?,
        }
        Ok(copied)
    });
    vaults::finish(progress);
    let told = |summary: &mut GroupSummary, copied, skipped, bytes, error| {
        summary.vault = Some(VaultSummary {
            vault: vault.to_string(),
            points_copied: copied,
            points_skipped: skipped,
            bytes_uploaded: bytes,
            error,
        });
    };
    match copied.attempt(attempt).and_then(|copied| copied) {
        Ok(report) => {
            let (copied, skipped) = (report.copied.len(), report.skipped.len());
            told(summary, copied, skipped, report.bytes, None);
            let points = counted(copied as u64, "point");
            assembly.console.note(format!("copied {points} to the vault \"{vault}\""));
            for skipped in &report.skipped {
                let point = skipped.point.short();
                assembly.console.warn(format!("point {point} was not copied: {}", skipped.reason));
            }
            if skipped > 0 { Outcome::VaultBehind } else { Outcome::Done }
        }
        Err(error) => {
            let failure = failure::explain(&error);
            assembly.console.warn(&failure.message);
            if let Some(hint) = &failure.hint {
                assembly.console.hint(hint);
            }
            assembly.console.warn(format!(
                "the points of \"{}\" are in the pool; \"keepwell sync {}\" copies them",
                group.name, group.name
            ));
            told(summary, 0, 0, 0, Some(failure.message));
            Outcome::VaultBehind
        }
    }
}

fn summary_of(group: &GroupConfig, report: Option<(&GroupReport, bool)>) -> GroupSummary {
    let mut summary = GroupSummary {
        group: group.name.clone(),
        point: None,
        bytes: 0,
        bytes_stored: 0,
        problem_count: 0,
        points: Vec::new(),
        failed: Vec::new(),
        hook_problems: Vec::new(),
        not_contained: Vec::new(),
        vault: None,
    };
    let Some((report, dry_run)) = report else { return summary };
    summary.hook_problems = report.hook_problems.iter().map(Cause::chain).collect();
    let absent = |(source, what): &(String, String)| NotContained {
        source: source.clone(),
        what: what.clone(),
    };
    summary.not_contained = report.not_contained.iter().map(absent).collect();
    for source in &report.sources {
        match &source.result {
            Ok(made) => {
                summary.point = made.point.map(|point| point.to_string()).or(summary.point);
                summary.bytes += made.totals.bytes;
                summary.bytes_stored += made.totals.bytes_stored;
                summary.problem_count += made.problem_count;
                let host = crate::process::host_name();
                summary.points.push(Summary::of(made, &host, &source.source, dry_run));
            }
            Err(cause) => summary
                .failed
                .push(FailedSource { source: source.source.clone(), message: cause.chain() }),
        }
    }
    summary
}

fn tell(assembly: &Assembly, group: &GroupConfig, report: &GroupReport) {
    let console = &assembly.console;
    for source in &report.sources {
        match &source.result {
            Ok(made) => {
                let elapsed: Duration = between(made.started, made.finished);
                let named = format!("{} in group \"{}\"", source.source, group.name);
                tell_point(console, &named, made, elapsed);
            }
            // The only one is told when the command ends.
            Err(cause) if report.sources.len() > 1 => {
                console.warn(format!("no point of {}: {}", source.source, cause.chain()));
            }
            Err(_) => {}
        }
    }
    for (source, what) in &report.not_contained {
        console.note(format!("not in any point of {source}: {what}"));
    }
    for problem in &report.hook_problems {
        console.warn(problem.chain());
    }
}

// A source without its point makes the run a failed one, whatever else was done.
fn verdict(report: GroupReport) -> Result<Outcome, Cause> {
    if let Some(outcome) = report.outcome() {
        return Ok(outcome);
    }
    let all = report.sources.len();
    let mut failed: Vec<_> = report
        .sources
        .into_iter()
        .filter_map(|source| Some((source.source, source.result.err()?)))
        .collect();
    // To be interrupted is no failure of a source.
    let interrupted =
        |(_, cause): &(String, Cause)| matches!(cause, Cause::Pool(storepool::Error::Interrupted));
    if all == 1 || failed.iter().any(interrupted) {
        let place = failed.iter().position(interrupted).unwrap_or(0);
        return Err(failed.swap_remove(place).1);
    }
    let (source, cause) = &failed[0];
    Err(Cause::Sources {
        failed: failed.len(),
        all,
        first: format!("{source}: {}", cause.chain()),
        code: failure::code(cause),
    })
}
