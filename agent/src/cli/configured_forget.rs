//! `keepwell forget` without a word: the retentions of all groups, as the configuration has them.

use super::decision::{Forgotten, Judged, JudgedSeries, tell};
use super::upkeep;
use super::workshop;
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::error::{Attempt, Error, Outcome};
use crate::job::forget::forget;
use crate::record::open_journal;

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
    let series = plans
        .iter()
        .map(|plan| JudgedSeries::planned(plan.series.clone(), plan.points.iter(), &plan.plan));
    let report = Forgotten {
        dry_run,
        removed: plans.iter().map(|plan| plan.removed().count()).sum(),
        kept: plans.iter().map(|plan| plan.plan.kept().count()).sum(),
        series: series.collect(),
    };
    assembly.console.message("summary", &report);
    for plan in &plans {
        let listed: Vec<_> = plan.points.iter().map(Judged::of).collect();
        tell(&assembly.console, &plan.series, &listed, &plan.plan);
    }
    report.tell_end(&assembly.console);
    Ok(Outcome::Done)
}
