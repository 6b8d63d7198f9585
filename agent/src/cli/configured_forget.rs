//! `keepwell forget` without a word: the retentions of all groups, as the configuration has them.

use serde::Serialize;
use storepool::catalog::Point;

use super::decision::{Decision, Judged, tell};
use super::upkeep;
use super::workshop;
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::console::units::counted;
use crate::error::{Attempt, Error, Outcome};
use crate::job::forget::{SeriesPlan, forget};
use crate::record::open_journal;

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    removed: usize,
    kept: usize,
    series: Vec<SeriesReport>,
}

#[derive(Serialize)]
struct SeriesReport {
    series: String,
    points: Vec<Decision>,
}

/// Forgets what the retentions of the groups do not keep.
pub(super) fn run(assembly: &Assembly, dry_run: bool) -> Result<Outcome, Error> {
    if dry_run {
        return act(assembly, true);
    }
    let request = upkeep::Request {
        upkeep: Upkeep::Forget,
        vault: None,
        options: serde_json::json!({}),
        detach: false,
    };
    upkeep::run(assembly, &request, || act(assembly, false))
}

fn act(assembly: &Assembly, dry_run: bool) -> Result<Outcome, Error> {
    let attempt = || "forget by the retentions of the groups".to_string();
    let config = assembly.config()?;
    let pool = assembly.open_configured(&config)?;
    let journal = open_journal(assembly).attempt(attempt)?;
    let workshop = workshop(assembly, &config, &pool, &journal);
    let plans = forget(&workshop, dry_run).attempt(attempt)?;
    let report = Report {
        dry_run,
        removed: plans.iter().map(|plan| plan.removed().count()).sum(),
        kept: plans.iter().map(|plan| plan.plan.kept().count()).sum(),
        series: plans.iter().map(series_report).collect(),
    };
    assembly.console.message("summary", &report);
    for plan in &plans {
        let listed: Vec<_> = plan.points.iter().map(Judged::of).collect();
        tell(&assembly.console, &plan.series, &listed, &plan.plan);
    }
    let points = counted(report.removed as u64, "point");
    assembly.console.note(match (dry_run, report.removed) {
        (true, _) => format!("dry run: {points} would be forgotten"),
        (false, 0) => "nothing to forget".to_string(),
        (false, _) => format!("forgot {points}; \"keepwell prune\" gives their space back"),
    });
    Ok(Outcome::Done)
}

fn series_report(plan: &SeriesPlan) -> SeriesReport {
    let decision =
        |(index, point): (usize, &Point)| Decision::of(&plan.plan, index, point.id, point.started);
    let points = plan.points.iter().enumerate().map(decision);
    SeriesReport { series: plan.series.clone(), points: points.collect() }
}
