//! Forgetting points of the vault by policy, and taking it back. Policy only: not a byte is freed here, and for a
//! while everything can be undone with one commit ([`undelete`]). What comes after is [`crate::prune`]'s.
//!
//! The plan is pure and takes the vault's time; a jump of any clock forgets nothing, because retention counts from
//! point to point. The last point of a source stays whatever is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use storepool::catalog::Point;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use crate::error::{Error, Result};
use crate::layout::Generation;
use crate::notes::{are_noted, notes_of, pinned};
use crate::retention::{Candidate, POINTS_PER_SOURCE, RetentionPlan, RetentionPolicy};
use crate::vault::commit::{Changes, CommitKind, PointNotes, PointRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::time::{Clocks, Stamps, plus};
use crate::writing::Writing;

/// How long a forgotten point can be restored, unless the configuration says otherwise.
pub const UNDELETE_PERIOD: Duration = Duration::from_secs(14 * DAY_SECONDS);
/// The shortest period that can be configured.
pub const UNDELETE_LEAST: Duration = Duration::from_secs(DAY_SECONDS);
/// The longest period that can be configured.
pub const UNDELETE_MOST: Duration = Duration::from_secs(180 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 3600;

/// The points of one data source and what becomes of each.
#[derive(Clone, Debug)]
pub struct SourcePlan {
    /// The protection group.
    pub group: String,
    /// The source.
    pub source: String,
    /// Its points, oldest first.
    pub points: Vec<PointRecord>,
    /// The decision about each, in the same order.
    pub plan: RetentionPlan,
}

/// What forgetting by policy would do.
#[derive(Clone, Debug, Default)]
pub struct ForgetPlan {
    /// Source by source.
    pub sources: Vec<SourcePlan>,
    /// Notes of the pool that the vault does not have yet.
    pub notes: Vec<PointNotes>,
}

impl ForgetPlan {
    /// Decides about all points of a state.
    ///
    /// `pool` are the points of the pool: whatever is pinned or tagged there is so in the vault. A pin is over only
    /// when both clocks say so.
    pub fn new(
        snapshot: &Snapshot,
        pool: &[Point],
        policy: &RetentionPolicy,
        zone: &TimeZone,
        clocks: &Clocks,
    ) -> Self {
        let notes = fresh_notes(snapshot, pool);
        let fresh: BTreeMap<PointId, &PointNotes> =
            notes.iter().map(|notes| (notes.point, notes)).collect();
        let mut sources: BTreeMap<(String, String), Vec<PointRecord>> = BTreeMap::new();
        for point in snapshot.points().values() {
            let mut point = point.clone();
            if let Some(notes) = fresh.get(&point.id) {
                point.keep_until = notes.keep_until;
                point.on_demand = notes.on_demand;
                point.tags = notes.tags.clone();
            }
            sources.entry((point.group.clone(), point.source.clone())).or_default().push(point);
        }
        let now = clocks.guess();
        let sources = sources.into_iter().map(|((group, source), mut points)| {
            points.sort_by_key(|point| (point.started, point.id));
            let candidates: Vec<_> =
                points.iter().map(|point| candidate(point, now.min(clocks.agent))).collect();
            let plan = policy.plan(&candidates, zone, now);
            SourcePlan { group, source, points, plan }
        });
        Self { sources: sources.collect(), notes }
    }

    /// Returns the points that go.
    pub fn removed(&self) -> impl Iterator<Item = PointId> {
        self.sources
            .iter()
            .flat_map(|source| source.plan.removed().map(|index| source.points[index].id))
    }
}

fn candidate(point: &PointRecord, now: Timestamp) -> Candidate {
    Candidate { started: point.started, tags: point.tags.clone(), pinned: pinned(point, now) }
}

// Notes of points that are in both places and were changed since they were copied.
fn fresh_notes(snapshot: &Snapshot, pool: &[Point]) -> Vec<PointNotes> {
    let notes = pool.iter().map(notes_of);
    notes
        .filter(|notes| {
            let record = snapshot.points().get(&notes.point);
            record.is_some_and(|record| !are_noted(record, notes))
        })
        .collect()
}

/// Returns the points of the pool that the vault does not have and that its retention would drop as soon as they were
/// there: to copy them would be for nothing. The newest of a source is never among them. Without a state that is
/// remembered the points of the pool are judged alone, which keeps more.
pub fn unwanted(
    snapshot: Option<&Snapshot>,
    pool: &[Point],
    policy: &RetentionPolicy,
    zone: &TimeZone,
    now: Timestamp,
) -> BTreeSet<PointId> {
    // Points of the vault without their ids: they are not the ones to be judged.
    type Series = Vec<(Option<PointId>, Candidate)>;
    let mut sources: BTreeMap<(&str, &str), Series> = BTreeMap::new();
    for point in snapshot.into_iter().flat_map(|it| it.points().values()) {
        let series = sources.entry((&point.group, &point.source)).or_default();
        series.push((None, candidate(point, now)));
    }
    let known = |point: &&Point| snapshot.is_some_and(|it| it.points().contains_key(&point.id));
    for point in pool.iter().filter(|point| !known(point)) {
        let notes = notes_of(point);
        let pinned = notes.keep_until.filter(|until| *until > now).map(|_| "kept".to_string());
        let own = Candidate { started: point.started, tags: notes.tags, pinned };
        sources.entry((&point.group, &point.source)).or_default().push((Some(point.id), own));
    }
    let mut unwanted = BTreeSet::new();
    for series in sources.into_values() {
        let (ids, candidates): (Vec<_>, Vec<_>) = series.into_iter().unzip();
        let plan = policy.plan(&candidates, zone, now);
        unwanted.extend(plan.removed().filter_map(|index| ids[index]));
    }
    unwanted
}

/// Forgets points, and brings the vault's notes up to date, in one commit. Points that are not there are passed over.
///
/// # Errors
/// [`Error::LastPoint`] if the last point of a source would go, with nothing changed; those of [`Writing`].
pub async fn forget(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    points: &BTreeSet<PointId>,
    notes: &[PointNotes],
) -> Result<()> {
    writing
        .commit(snapshot, CommitKind::Forget, |state| {
            refuse_last_points(state, points)?;
            let notes = notes.iter().filter(|notes| {
                state.points().get(&notes.point).is_some_and(|record| !are_noted(record, notes))
            });
            Ok(Some(Changes {
                points_forgotten: points
                    .iter()
                    .copied()
                    .filter(|point| state.points().contains_key(point))
                    .collect(),
                notes: notes.filter(|notes| !points.contains(&notes.point)).cloned().collect(),
                ..Changes::default()
            }))
        })
        .await?;
    Ok(())
}

/// Forgets points because somebody named them, not because of a policy. As long as this ledger lives they are not copied
/// again either, not even when the vault has nothing of them any more.
///
/// # Errors
/// Those of [`forget`], with nothing changed.
pub async fn dismiss(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    points: &BTreeSet<PointId>,
) -> Result<()> {
    // Before the commit: an end in between leaves a note about a point that is still there, which says nothing.
    writing.ledger.dismiss(points)?;
    let forgotten = forget(writing, snapshot, points, &[]).await;
    if forgotten.is_err() {
        writing.ledger.welcome(points)?;
    }
    forgotten
}

/// Forgets every point: the vault's owner has given the vault up, and the policy is to follow strictly. They can be
/// restored like all forgotten points.
pub async fn forget_all(writing: &mut Writing<'_>, snapshot: &mut Snapshot) -> Result<usize> {
    let mut forgotten = 0;
    writing
        .commit(snapshot, CommitKind::Forget, |state| {
            forgotten = forgotten.max(state.points().len());
            let points_forgotten = state.points().keys().copied().collect();
            Ok(Some(Changes { points_forgotten, ..Changes::default() }))
        })
        .await?;
    Ok(forgotten)
}

fn refuse_last_points(state: &Snapshot, going: &BTreeSet<PointId>) -> Result<()> {
    let mut staying: BTreeMap<(&str, &str), Option<&PointRecord>> = BTreeMap::new();
    for point in state.points().values() {
        let newest = staying.entry((&point.group, &point.source)).or_insert(Some(point));
        if !going.contains(&point.id) {
            *newest = None;
        }
    }
    match staying.into_values().flatten().next() {
        None => Ok(()),
        Some(point) => Err(Error::LastPoint { point: point.id, source_name: point.source.clone() }),
    }
}

/// Restores forgotten points, in one commit. Points that are there already are passed over.
///
/// # Errors
/// [`Error::NoSuchPoint`] for a point that was never there or has gone for good; [`Error::TooManyPoints`] if its
/// source would have more points than it can.
pub async fn undelete(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    points: &BTreeSet<PointId>,
) -> Result<()> {
    writing
        .commit(snapshot, CommitKind::Undelete, |state| {
            let mut restored = Vec::new();
            for point in points {
                if state.points().contains_key(point) {
                    continue;
                }
                let known = state.forgotten().contains_key(point);
                match known && is_restorable(state, *point) {
                    true => restored.push(*point),
                    false => return Err(Error::NoSuchPoint { name: point.to_string() }),
                }
            }
            refuse_too_many(state, &restored)?;
            Ok(Some(Changes { points_restored: restored, ..Changes::default() }))
        })
        .await?;
    writing.ledger.welcome(points)
}

fn is_restorable(state: &Snapshot, point: PointId) -> bool {
    state.forgotten().get(&point).is_some_and(|(_, record)| {
        let live = |ordinal| state.object(ordinal).is_some_and(|it| it.condemned.is_none());
        record.needs.iter().all(live)
    })
}

fn refuse_too_many(state: &Snapshot, restored: &[PointId]) -> Result<()> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let back = restored.iter().filter_map(|id| state.forgotten().get(id).map(|(_, point)| point));
    for point in state.points().values().chain(back) {
        let count = counts.entry((&point.group, &point.source)).or_default();
        *count += 1;
        if *count > POINTS_PER_SOURCE {
            return Err(Error::TooManyPoints { source_name: point.source.clone() });
        }
    }
    Ok(())
}

/// A forgotten point and until when it can be restored.
#[derive(Clone, Debug)]
pub struct ForgottenPoint {
    /// The point.
    pub record: PointRecord,
    /// When it was forgotten, by the vault's time, if the vault tells.
    pub forgotten: Option<Timestamp>,
    /// From when on prune lets it go for good.
    pub gone_after: Option<Timestamp>,
}

/// Returns the commits that forgot points.
pub fn forgetting_commits(snapshot: &Snapshot) -> impl Iterator<Item = Generation> {
    snapshot.forgotten().values().map(|(generation, _)| *generation)
}

/// Returns all forgotten points, oldest first. `stamps` are those of [`forgetting_commits`].
pub fn forgotten_points(
    snapshot: &Snapshot,
    stamps: &Stamps,
    undelete: Duration,
) -> Vec<ForgottenPoint> {
    let mut points: Vec<_> = snapshot
        .forgotten()
        .values()
        .map(|(generation, record)| {
            let forgotten = stamps.get(generation).and_then(|stamp| stamp.time);
            ForgottenPoint {
                record: record.clone(),
                forgotten,
                gone_after: forgotten.map(|time| plus(time, undelete)),
            }
        })
        .collect();
    points.sort_by_key(|point| (point.record.started, point.record.id));
    points
}
