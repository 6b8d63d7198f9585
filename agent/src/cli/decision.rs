//! What a retention decides about each point, as people and programs are told it: the same for the pool and for a vault.

use cloudsync::retention::RetentionPlan;
use serde::Serialize;
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::points::tags_cell;
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{counted, local, rfc3339, size};

/// What becomes of a point, for programs.
#[derive(Serialize)]
pub(super) struct Decision {
    id: String,
    started: String,
    action: &'static str,
    reasons: Vec<String>,
}

impl Decision {
    /// Returns what a plan decides about the point at `index`.
    pub(super) fn of(plan: &RetentionPlan, index: usize, id: PointId, started: Timestamp) -> Self {
        let (action, reasons) = words(plan, index);
        Self { id: id.to_string(), started: rfc3339(started), action, reasons }
    }

    /// Returns the decision about a point that was named to go.
    pub(super) fn removed(id: PointId, started: Timestamp) -> Self {
        let (id, started) = (id.to_string(), rfc3339(started));
        Self { id, started, action: "remove", reasons: Vec::new() }
    }
}

/// What was forgotten in the pool, or would be, for programs.
#[derive(Serialize)]
pub(super) struct Forgotten {
    pub(super) dry_run: bool,
    pub(super) removed: usize,
    pub(super) kept: usize,
    pub(super) series: Vec<JudgedSeries>,
}

impl Forgotten {
    /// Tells people the end of it.
    pub(super) fn tell_end(&self, console: &Console) {
        let points = counted(self.removed as u64, "point");
        console.note(match (self.dry_run, self.removed) {
            (true, _) => format!("dry run: {points} would be forgotten"),
            (false, 0) => "nothing to forget".to_string(),
            (false, _) => format!("forgot {points}; \"keepwell prune\" gives their space back"),
        });
    }
}

/// Points that are thinned out together, with what becomes of each, for programs.
#[derive(Serialize)]
pub(super) struct JudgedSeries {
    series: String,
    points: Vec<Decision>,
}

impl JudgedSeries {
    /// Returns what a plan decides about its points.
    pub(super) fn planned<'p>(
        series: String,
        points: impl Iterator<Item = &'p Point>,
        plan: &RetentionPlan,
    ) -> Self {
        let decision =
            |(index, point): (usize, &Point)| Decision::of(plan, index, point.id, point.started);
        Self { series, points: points.enumerate().map(decision).collect() }
    }

    /// Returns the points that were named to go.
    pub(super) fn named<'p>(points: impl Iterator<Item = &'p Point>) -> Self {
        let decision = |point: &Point| Decision::removed(point.id, point.started);
        Self { series: "by name".to_string(), points: points.map(decision).collect() }
    }
}

/// A point as it is listed with its decision.
pub(super) struct Judged {
    pub(super) id: PointId,
    pub(super) started: Timestamp,
    pub(super) tags: String,
    pub(super) bytes: u64,
}

impl Judged {
    /// Returns a point of the pool.
    pub(super) fn of(point: &Point) -> Self {
        let (id, started, bytes) = (point.id, point.started, point.bytes);
        Self { id, started, tags: tags_cell(point), bytes }
    }
}

/// Lists the points of a series with what becomes of each, and why it stays.
pub(super) fn tell(console: &Console, series: &str, points: &[Judged], plan: &RetentionPlan) {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("ID", Align::Left),
        ("Time", Align::Left),
        ("Tags", Align::Left),
        ("Size", Align::Right),
        ("Why it stays", Align::Left),
    ]);
    for (index, point) in points.iter().enumerate() {
        let (action, reasons) = words(plan, index);
        table.row(vec![
            action.to_string(),
            point.id.short(),
            local(point.started),
            point.tags.clone(),
            size(point.bytes),
            reasons.join(", "),
        ]);
    }
    console.note(format!("{series}: {} stay, {} go", plan.kept().count(), plan.removed().count()));
    table.lines().iter().for_each(|line| console.note(line));
}

fn words(plan: &RetentionPlan, index: usize) -> (&'static str, Vec<String>) {
    let reasons: Vec<_> = plan.reasons(index).iter().map(ToString::to_string).collect();
    (if reasons.is_empty() { "remove" } else { "keep" }, reasons)
}
