//! `keepwell forget --vault`: points of a vault that nobody needs any more. They can be taken back for a while.

use std::collections::BTreeSet;

use cloudsync::forget::{ForgetPlan, SourcePlan};
use cloudsync::notes::pinned;
use cloudsync::retention::{POINTS_PER_SOURCE, POINTS_WARNING, RetentionPolicy, floor};
use cloudsync::vault::commit::PointRecord;
use cloudsync::vault::snapshot::Snapshot;
use jiff::tz::TimeZone;
use serde::Serialize;
use storepool::catalog::choose;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::decision::{self, Decision, Judged};
use super::upkeep;
use crate::assembly::Assembly;
use crate::config::{Config, Upkeep, VaultConfig};
use crate::console::Console;
use crate::console::units::counted;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::origin::as_point;
use crate::vaults::{self, Engine, OwnVault};

/// What is asked for.
pub(super) struct Request<'a> {
    /// Which vault of the configuration.
    pub(super) vault: Option<&'a str>,
    /// Exactly these points; by policy if there are none.
    pub(super) points: &'a [String],
    /// The policy of the command line; empty for the one of the configuration.
    pub(super) policy: RetentionPolicy,
    /// Show, but change nothing.
    pub(super) dry_run: bool,
}

#[derive(Serialize)]
struct Report {
    vault: String,
    dry_run: bool,
    removed: usize,
    kept: usize,
    undelete_days: f64,
    sources: Vec<SourceReport>,
}

#[derive(Serialize)]
struct SourceReport {
    group: String,
    source: String,
    points: Vec<Decision>,
}

pub(super) fn run(assembly: &Assembly, request: &Request<'_>) -> Result<Outcome, Error> {
    // Only what the configuration says is the task that comes again; what was named here is done here.
    if request.dry_run || !request.points.is_empty() || !request.policy.is_empty() {
        return act(assembly, request);
    }
    let task = upkeep::Request {
        upkeep: Upkeep::Forget,
        vault: Some(request.vault.unwrap_or_default()),
        options: serde_json::json!({}),
        detach: false,
    };
    upkeep::run(assembly, &task, || act(assembly, request))
}

fn act(assembly: &Assembly, request: &Request<'_>) -> Result<Outcome, Error> {
    let config = assembly.config()?;
    let (name, vault) = vaults::choose(&config, request.vault)?;
    let attempt = || format!("forget points of the vault \"{name}\"");
    let policy = match request.points.is_empty() {
        true => Some(policy_of(&config, name, vault, &request.policy)?),
        false => None,
    };
    let pool = assembly.open_configured(&config)?;
    let noted = pool.points().attempt(attempt)?;
    let engine = Engine::start()?;
    let mut own = OwnVault::open(assembly, &engine, name, vault).attempt(attempt)?;
    let mut snapshot = own.state(&engine).attempt(attempt)?;
    let clocks = own.clocks(&engine).attempt(attempt)?;
    let mut plan = ForgetPlan::new(
        &snapshot,
        &noted,
        policy.as_ref().unwrap_or(&RetentionPolicy::default()),
        &TimeZone::system(),
        &clocks,
    );
    let mut report = Report {
        vault: name.to_string(),
        dry_run: request.dry_run,
        removed: 0,
        kept: 0,
        undelete_days: vault.undelete.as_secs_f64() / 86_400.0,
        sources: Vec::new(),
    };
    let going: BTreeSet<PointId> = match policy {
        Some(_) => {
            for source in &plan.sources {
                tell_source(&assembly.console, source);
                report.sources.push(source_report(source));
            }
            plan.removed().collect()
        }
        None => {
            let chosen = by_name(&snapshot, request.points, clocks.guess().min(clocks.agent));
            let chosen = chosen.attempt(attempt)?;
            plan.sources.iter().for_each(|source| {
                report.sources.extend(named_report(source, &chosen));
            });
            chosen
        }
    };
    report.removed = going.len();
    report.kept = snapshot.points().len() - going.len();
    if !request.dry_run {
        let notes = std::mem::take(&mut plan.notes);
        let forgotten = match request.points.is_empty() {
            true => own.forget(&engine, &mut snapshot, &going, &notes),
            false => own.dismiss(&engine, &mut snapshot, &going),
        };
        forgotten.attempt(attempt)?;
    }
    match assembly.job {
        None => assembly.console.document(&report),
        Some(_) => assembly.console.message("summary", &report),
    }
    tell_end(&assembly.console, name, &report);
    warn_of_full_sources(&assembly.console, &snapshot, vault);
    Ok(Outcome::Done)
}

// The policy of the command line or of the configuration, if it may be.
fn policy_of(
    config: &Config,
    name: &str,
    vault: &VaultConfig,
    asked: &RetentionPolicy,
) -> Result<RetentionPolicy, Error> {
    let policy = match (asked.is_empty(), &vault.retention) {
        (false, _) => asked.clone(),
        (true, Some(policy)) => policy.clone(),
        (true, None) => {
            return Err(Error::usage(format!(
                "[vault.{name}] has no retention: say there what stays, or here with --keep-daily and the like"
            )));
        }
    };
    let refused = |reason: String, fitting: RetentionPolicy| Error {
        attempt: format!("forget points of the vault \"{name}\""),
        cause: Cause::RetentionRefused { reason, fitting: format!("retention = {fitting}") },
    };
    let short = policy.below(&floor());
    if config.security.enabled && !short.is_empty() {
        let parts: Vec<_> = short
            .iter()
            .map(|(period, own, least)| format!("{} {own} instead of {least}", period.word()))
            .collect();
        let reason = format!("the retention keeps less than a vault must: {}", parts.join(", "));
        return Err(refused(reason, policy.raised_to(&floor())));
    }
    let most = POINTS_PER_SOURCE as u64;
    if policy.points_most().is_some_and(|points| points > most) {
        let reason = format!(
            "the retention may keep more than {most} points of a data source, the most a vault holds"
        );
        return Err(refused(reason, policy.fitting(most)));
    }
    Ok(policy)
}

fn by_name(
    snapshot: &Snapshot,
    names: &[String],
    now: Timestamp,
) -> Result<BTreeSet<PointId>, Cause> {
    let points: Vec<_> = snapshot.points().values().map(as_point).collect();
    let mut chosen = BTreeSet::new();
    for name in names {
        let point = choose(&points, name)
            .map_err(|_| cloudsync::Error::NoSuchPoint { name: name.clone() })?;
        if let Some(reason) = pinned(&snapshot.points()[&point.id], now) {
            return Err(Cause::Pinned { reason });
        }
        chosen.insert(point.id);
    }
    Ok(chosen)
}

fn source_report(source: &SourcePlan) -> SourceReport {
    let decision = |(index, point): (usize, &PointRecord)| {
        Decision::of(&source.plan, index, point.id, point.started)
    };
    SourceReport {
        group: source.group.clone(),
        source: source.source.clone(),
        points: source.points.iter().enumerate().map(decision).collect(),
    }
}

fn named_report(source: &SourcePlan, chosen: &BTreeSet<PointId>) -> Option<SourceReport> {
    let points = source.points.iter().filter(|point| chosen.contains(&point.id));
    let points: Vec<_> = points.map(|point| Decision::removed(point.id, point.started)).collect();
    let (group, source) = (source.group.clone(), source.source.clone());
    (!points.is_empty()).then_some(SourceReport { group, source, points })
}

fn tell_source(console: &Console, source: &SourcePlan) {
    let judged = |point: &PointRecord| Judged {
        id: point.id,
        started: point.started,
        tags: point.tags.join(", "),
        bytes: point.bytes,
    };
    let name = match source.group.as_str() {
        "" => source.source.clone(),
        group => format!("{group} {}", source.source),
    };
    let listed: Vec<_> = source.points.iter().map(judged).collect();
    decision::tell(console, &name, &listed, &source.plan);
}

fn tell_end(console: &Console, name: &str, report: &Report) {
    let points = counted(report.removed as u64, "point");
    if report.dry_run {
        console.note(format!("dry run: {points} of the vault \"{name}\" would be forgotten"));
    } else if report.removed == 0 {
        console.note("nothing to forget");
    } else {
        console.note(format!(
            "forgot {points} of the vault \"{name}\"; for {} days \"keepwell undelete\" brings them back",
            report.undelete_days
        ));
    }
}

/// Warns of data sources that near the most points that one can have.
pub(super) fn warn_of_full_sources(console: &Console, snapshot: &Snapshot, vault: &VaultConfig) {
    let mut counts = std::collections::BTreeMap::new();
    for point in snapshot.points().values() {
        *counts.entry((&point.group, &point.source)).or_insert(0usize) += 1;
    }
    for ((_, source), points) in counts.into_iter().filter(|(_, it)| *it >= POINTS_WARNING) {
        warn_of_full_source(console, source, points, vault);
    }
}

/// Warns of one.
pub(super) fn warn_of_full_source(
    console: &Console,
    source: &str,
    points: usize,
    vault: &VaultConfig,
) {
    let policy = vault.retention.clone().unwrap_or_else(|| RetentionPolicy {
        hourly: cloudsync::retention::Count::Limited(48),
        daily: cloudsync::retention::Count::Limited(180),
        weekly: cloudsync::retention::Count::Limited(104),
        monthly: cloudsync::retention::Count::Limited(60),
        yearly: cloudsync::retention::Count::Limited(10),
        ..RetentionPolicy::default()
    });
    console.warn(format!(
        "{source} has {points} of at most {POINTS_PER_SOURCE} points in the vault; run \"keepwell forget --vault\" with retention = {}",
        policy.fitting(POINTS_PER_SOURCE as u64)
    ));
}
