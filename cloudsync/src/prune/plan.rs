//! What a prune condemns and deletes: pure, from a state, the vault's time and the stamps of its commits.

use std::collections::BTreeSet;
use std::time::Duration;

use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::simulated::{self, Mistake};

use crate::layout::Generation;
use crate::vault::Ordinals;
use crate::vault::commit::{CommitKind, ObjectRecord, PointRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::time::{Stamps, minus};

/// How long a condemned object stays at least: for those who are just reading it, in a restore that began before.
pub const SETTLING: Duration = Duration::from_secs(24 * 3600);

/// What to do about forgotten points and condemned objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeletionPlan {
    /// Forgotten points whose time is up.
    pub(super) points_gone: Vec<PointId>,
    /// Objects that nothing needs any more.
    pub(super) condemned: Ordinals,
    /// Condemned objects whose time is up.
    pub(super) due: Vec<(u64, ObjectRecord)>,
    /// Condemned objects that wait.
    pub(super) waiting: Vec<(u64, ObjectRecord)>,
}

/// Returns the commits whose stamps a plan needs.
pub(super) fn deciding_commits(snapshot: &Snapshot) -> BTreeSet<Generation> {
    let condemned = snapshot.objects().values().filter_map(|object| object.condemned);
    crate::forget::forgetting_commits(snapshot).chain(condemned).collect()
}

impl DeletionPlan {
    /// Decides. Without a trusted time nothing is condemned and nothing is due.
    pub(super) fn new(
        snapshot: &Snapshot,
        now: Option<Timestamp>,
        stamps: &Stamps,
        undelete: Duration,
    ) -> Self {
        let past = |generation: &Generation, wait: Duration| {
            let stamped = stamps.get(generation).and_then(|stamp| stamp.time);
            matches!((now, stamped), (Some(now), Some(stamped)) if minus(now, stamped) >= wait)
        };
        let mut plan = Self::default();
        for (ordinal, object) in snapshot.objects() {
            let Some(generation) = object.condemned else { continue };
            let repack = stamps.get(&generation).is_none_or(|it| it.kind == CommitKind::Repack);
            let wait = if repack { undelete.max(SETTLING) } else { SETTLING };
            let list = if past(&generation, wait) { &mut plan.due } else { &mut plan.waiting };
            list.push((*ordinal, object.record));
        }
        let gone = snapshot.forgotten().values().filter(|(forgot, _)| past(forgot, undelete));
        plan.points_gone = gone.map(|(_, point)| point.id).collect();
        if now.is_some() {
            let needed = needed(snapshot, protected_points(snapshot, &plan.points_gone));
            plan.condemned = snapshot
                .objects()
                .iter()
                .filter(|(ordinal, object)| {
                    object.condemned.is_none() && !needed[**ordinal as usize]
                })
                .map(|(ordinal, _)| *ordinal)
                .collect();
        }
        if simulated::makes(Mistake::DeleteBeforeCommit) {
            let condemned = plan
                .condemned
                .iter()
                .filter_map(|ordinal| Some((ordinal, snapshot.object(ordinal)?.record)));
            plan.due.extend(condemned);
        }
        plan
    }
}

/// Returns the points whose chunks must stay: live ones, and forgotten ones that can still be restored.
pub(super) fn protected_points<'a>(
    snapshot: &'a Snapshot,
    gone: &[PointId],
) -> impl Iterator<Item = &'a PointRecord> {
    let gone: BTreeSet<PointId> = gone.iter().copied().collect();
    let forgotten = snapshot.forgotten().values().map(|(_, point)| point);
    snapshot.points().values().chain(forgotten.filter(move |point| !gone.contains(&point.id)))
}

// One flag for each ordinal that was ever given.
fn needed<'a>(snapshot: &Snapshot, points: impl Iterator<Item = &'a PointRecord>) -> Vec<bool> {
    let mut needed = vec![false; snapshot.next_ordinal() as usize];
    for point in points {
        for ordinal in point.needs.iter() {
            // Checked when the point was added: none is beyond the end.
            needed[ordinal as usize] = true;
        }
    }
    needed
}
