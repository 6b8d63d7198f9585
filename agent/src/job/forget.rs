//! Retention of the pool: what no group's policy keeps is forgotten. A plan first, then the act.
//!
//! Only points of groups that stand in the configuration with a retention are judged; a group that was removed, or a point made by hand, keeps everything.

use std::collections::BTreeMap;

use cloudsync::retention::{Candidate, RetentionPlan};
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::Workshop;
use crate::config::Config;
use crate::error::Cause;

/// The points of one series and what is to become of each.
#[derive(Debug)]
pub(crate) struct SeriesPlan {
    /// Group and source.
    pub(crate) series: String,
    /// The points, oldest first.
    pub(crate) points: Vec<Point>,
    /// The decisions about them.
    pub(crate) plan: RetentionPlan,
}

impl SeriesPlan {
    /// Returns the points that go.
    pub(crate) fn removed(&self) -> impl Iterator<Item = PointId> {
        self.plan.removed().map(|index| self.points[index].id)
    }
}

/// Returns what the retentions of all groups decide about `points`.
pub(crate) fn plan(config: &Config, points: Vec<Point>, now: Timestamp) -> Vec<SeriesPlan> {
    let mut series: BTreeMap<(String, String, String), Vec<Point>> = BTreeMap::new();
    for point in points {
        let key = (point.group.clone(), point.source.clone(), point.host.clone());
        series.entry(key).or_default().push(point);
    }
    let mut plans = Vec::new();
    for ((name, source, _), points) in series {
        let Some(group) = config.groups.get(&name) else { continue };
        // Retention only runs while protection works: a group that stands still keeps what it has.
        let (Some(policy), false) = (&group.retention, group.paused) else { continue };
        let candidates: Vec<_> = points.iter().map(|point| candidate(point, now)).collect();
        let plan = policy.plan(&candidates, &group.zone, now);
        plans.push(SeriesPlan { series: format!("{name}: {source}"), points, plan });
    }
    plans
}

/// Returns a point as retention sees it.
pub(crate) fn candidate(point: &Point, now: Timestamp) -> Candidate {
    let pins = point.notes.pins.iter();
    let live = pins.filter(|pin| pin.until.is_none_or(|until| until > now.0));
    let pinned = live.map(|pin| pin.reason.clone()).next();
    Candidate { started: point.started, tags: point.notes.tags.clone(), pinned }
}

/// Forgets what the retentions of all groups do not keep, and returns the plan that was followed.
pub(crate) fn forget(workshop: &Workshop<'_>, dry_run: bool) -> Result<Vec<SeriesPlan>, Cause> {
    let plans = plan(workshop.config, workshop.pool.points()?, workshop.now());
    let removed: Vec<PointId> = plans.iter().flat_map(SeriesPlan::removed).collect();
    if !dry_run && !removed.is_empty() {
        workshop.pool.forget(&removed)?;
    }
    Ok(plans)
}
