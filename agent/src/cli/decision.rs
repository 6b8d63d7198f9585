//! What a retention decides about each point, as people and programs are told it: the same for the pool and for a vault.

use cloudsync::retention::RetentionPlan;
use serde::Serialize;
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::points::tags_cell;
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{local, rfc3339, size};

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
