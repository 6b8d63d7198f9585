//! `keepwell forget` without a word: the retentions of all groups, as the configuration has them.

use serde::Serialize;

use super::upkeep;
use crate::assembly::Assembly;
use crate::config::Upkeep;
use crate::console::table::{Align, Table};
use crate::console::units::{counted, local, rfc3339, size};
use crate::error::{Attempt, Error, Outcome};
use crate::job::Workshop;
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

#[derive(Serialize)]
struct Decision {
    id: String,
    started: String,
    action: &'static str,
    reasons: Vec<String>,
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
    let workshop = Workshop {
        place: &assembly.place,
        config: &config,
        pool: &pool,
        journal: &journal,
        holder: assembly.holder(),
    };
    let plans = forget(&workshop, dry_run).attempt(attempt)?;
    let report = Report {
        dry_run,
        removed: plans.iter().map(|plan| plan.removed().count()).sum(),
        kept: plans.iter().map(|plan| plan.plan.kept().count()).sum(),
        series: plans.iter().map(series_report).collect(),
    };
    assembly.console.message("summary", &report);
    for plan in &plans {
        tell(assembly, plan);
    }
    let points = counted(report.removed as u64, "point");
    assembly.console.note(match (dry_run, report.removed) {
        (true, _) => format!("dry run: {points} would be forgotten"),
        (false, 0) => "nothing to forget".to_string(),
        (false, _) => format!("forgot {points}; \"keepwell prune\" gives their space back"),
    });
    Ok(Outcome::Done)
}

fn words(plan: &SeriesPlan, index: usize) -> (&'static str, Vec<String>) {
    let reasons: Vec<_> = plan.plan.reasons(index).iter().map(ToString::to_string).collect();
    (if reasons.is_empty() { "remove" } else { "keep" }, reasons)
}

fn series_report(plan: &SeriesPlan) -> SeriesReport {
    let points = plan.points.iter().enumerate().map(|(index, point)| {
        let (action, reasons) = words(plan, index);
        let (id, started) = (point.id.to_string(), rfc3339(point.started));
        Decision { id, started, action, reasons }
    });
    SeriesReport { series: plan.series.clone(), points: points.collect() }
}

fn tell(assembly: &Assembly, plan: &SeriesPlan) {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("ID", Align::Left),
        ("Time", Align::Left),
        ("Size", Align::Right),
        ("Why it stays", Align::Left),
    ]);
    for (index, point) in plan.points.iter().enumerate() {
        let (action, reasons) = words(plan, index);
        table.row(vec![
            action.to_string(),
            point.id.short(),
            local(point.started),
            size(point.bytes),
            reasons.join(", "),
        ]);
    }
    let (stay, go) = (plan.plan.kept().count(), plan.plan.removed().count());
    assembly.console.note(format!("{}: {stay} stay, {go} go", plan.series));
    table.lines().iter().for_each(|line| assembly.console.note(line));
}
