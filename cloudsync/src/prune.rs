//! Giving back the vault's space that no point needs, safe beside a sync on another machine, clocks that jump, and an
//! end at any moment.
//!
//! Nothing is deleted in the run that finds it: objects are condemned by a commit, which is one-way and decided on
//! exactly the state before it, and deleted by a later run, by the vault's own time. A name that was condemned never
//! returns, so a late or repeated delete hits nothing. Poor packs are copied first; their originals stay for a whole
//! undelete period. Each step is idempotent: a run that was cut is ended by the next one.

mod orphans;
mod plan;
mod repack;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use storepool::id::PointId;
use storepool::monitor::{Event, Monitor};
use storepool::pool::Session;
use storepool::prune::{Fate, PackUse, PlanLimits, PrunePlan};
use storepool::simulated::{self, Mistake};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::crypto::ring::Witness;
use crate::error::{Error, Result, StoreFault};
use crate::forget::UNDELETE_PERIOD;
use crate::layout::{Generation, ObjectHash, ObjectKind, ObjectName};
use crate::marks::{self, LiveChunks};
use crate::prune::orphans::{Orphan, Sighting};
use crate::prune::plan::{DeletionPlan, deciding_commits, protected_points};
use crate::prune::repack::{Copied, Copier};
use crate::sync::SyncOptions;
use crate::vault::commit::{Changes, CommitKind, Moved, ObjectRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::time::{ClockDoubt, read_clocks, read_stamps};
use crate::writing::Writing;

pub use crate::prune::plan::SETTLING;

/// Deletes that are made side by side.
const DELETES_AT_ONCE: usize = 16;
/// Bytes of old packs that are copied before a commit gives them up.
const BATCH_BYTES: u64 = 256 << 20;

/// How a vault is pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneOptions {
    /// Look and plan, but change nothing. (To ask the vault for its time an object of a few bytes is made and deleted.)
    pub dry_run: bool,
    /// How long forgotten points can be restored.
    pub undelete: Duration,
    /// Poorest packs are copied until unused bytes are at most this share of all, in percent.
    pub max_unused_percent: f64,
    /// Every pack with anything unused is copied.
    pub repack_all: bool,
    /// New packs are closed when their frames reach this many bytes.
    pub pack_length: usize,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            undelete: UNDELETE_PERIOD,
            max_unused_percent: 10.0,
            repack_all: false,
            pack_length: SyncOptions::default().pack_length,
        }
    }
}

/// What a prune did, or would do.
#[derive(Clone, Debug)]
pub struct PruneReport {
    /// Forgotten points that are gone for good now.
    pub points_gone: Vec<PointId>,
    /// Objects that were condemned because nothing needs them, and their bytes.
    pub condemned: Tally,
    /// Of these, objects that no commit had ever named.
    pub orphans: Tally,
    /// Objects that were deleted.
    pub deleted: Tally,
    /// Condemned objects that wait for a later run.
    pub waiting: Tally,
    /// Packs that were copied without what is not needed, and are condemned now.
    pub repacked: Tally,
    /// Packs that were made by that.
    pub packs_written: u64,
    /// Bytes that were put.
    pub bytes_written: u64,
    /// Chunks that were copied from the pool.
    pub chunks_from_pool: u64,
    /// Chunks that had to be fetched from the vault.
    pub chunks_from_vault: u64,
    /// Packs of which it cannot be read what they hold.
    pub packs_unreadable: u64,
    /// Bytes in live packs that no point needs. `None` if a point could not be walked, so that it is not known and no
    /// pack was copied.
    pub bytes_unused: Option<u64>,
    /// Live objects that are not there, or not as long as they should be.
    pub missing: Vec<ObjectName>,
    /// Why nothing was condemned or deleted, if no clock can be relied on.
    pub clock_doubt: Option<ClockDoubt>,
    /// The vault does not let this server delete: condemned objects wait for its owner.
    pub may_not_delete: bool,
    /// The newest generation.
    pub generation: Generation,
    /// What to compare with, to notice a vault that was rewound.
    pub witness: Witness,
    /// Bytes of all live objects.
    pub bytes_stored: u64,
}

/// A number of objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Bytes in the store.
    pub bytes: u64,
}

impl Tally {
    fn of<'a>(records: impl IntoIterator<Item = &'a ObjectRecord>) -> Self {
        let mut tally = Self::default();
        records.into_iter().for_each(|record| tally.add(record));
        tally
    }

    fn add(&mut self, record: &ObjectRecord) {
        self.objects += 1;
        self.bytes += record.size;
    }
}

/// Prunes a vault.
///
/// `pool` spares downloads: trees and chunks are taken from there where it has them. While points of the pool wait to
/// be copied (`uploads_wait`), what this installation has put and not yet named is left alone, however old.
///
/// # Errors
/// Those of [`Writing`]; [`storepool::Error::Interrupted`] when the monitor says so. Damage in the vault is no error:
/// it is counted in the report, and nothing that it might concern is touched.
pub async fn prune(
    writing: &mut Writing<'_>,
    pool: Option<Arc<Session>>,
    uploads_wait: bool,
    options: &PruneOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<PruneReport> {
    monitor.event(Event::Stage("looking into the vault"));
    let mut snapshot = writing.begin().await?;
    let clocks = read_clocks(writing.realm, writing.anchor, writing.around).await?;
    let (now, clock_doubt) = match clocks.trusted() {
        _ if simulated::makes(Mistake::OwnClock) => (Some(writing.around.clock.now()), None),
        Ok(now) => (Some(now), None),
        Err(doubt) => (None, Some(doubt)),
    };
    let stamps = read_stamps(writing.realm, deciding_commits(&snapshot).into_iter()).await?;
    let sighting = orphans::look(writing.realm, &snapshot).await?;
    let reserved = reserved(writing, uploads_wait)?;
    let orphans: Vec<Orphan> = sighting
        .orphans
        .iter()
        .filter(|it| it.is_old(now, options.undelete) && !reserved.contains(&it.record.hash))
        .cloned()
        .collect();
    let plan = DeletionPlan::new(&snapshot, now, &stamps, options.undelete);
    let mut report = first_report(writing, &snapshot, &plan, &orphans, &sighting);
    report.clock_doubt = clock_doubt;
    if !options.dry_run {
        let gone = if now.is_some() {
            delete_due(writing, &plan, &sighting, &mut report, &monitor).await?
        } else {
            BTreeSet::new()
        };
        let kind = match plan.points_gone.is_empty() && plan.condemned.is_empty() {
            true if orphans.is_empty() => CommitKind::Sweep,
            _ => CommitKind::Forget,
        };
        let commit = writing.commit(&mut snapshot, kind, |state| {
            let plan = DeletionPlan::new(state, now, &stamps, options.undelete);
            let mut changes = Changes {
                points_gone: plan.points_gone,
                objects_condemned: plan.condemned,
                objects_gone: gone
                    .iter()
                    .copied()
                    .filter(|ordinal| state.object(*ordinal).is_some())
                    .collect(),
                ..Changes::default()
            };
            orphans::condemn(state, &orphans, &mut changes);
            Ok(Some(changes))
        });
        commit.await?;
    } else {
        report.deleted = Tally::of(plan.due.iter().map(|(_, record)| record));
    }
    repack(writing, &mut snapshot, pool, now.is_some(), options, &plan, &mut report, monitor)
        .await?;
    let live = snapshot.objects().values().filter(|object| object.condemned.is_none());
    report.bytes_stored = live.map(|object| object.record.size).sum();
    report.generation = snapshot.generation();
    report.witness = snapshot.witness(writing.realm.keys());
    Ok(report)
}

// What this installation has put for points that it will copy.
fn reserved(writing: &Writing<'_>, uploads_wait: bool) -> Result<BTreeSet<ObjectHash>> {
    if !uploads_wait {
        return Ok(BTreeSet::new());
    }
    let unnamed = writing.ledger.packs()?.into_iter().filter(|pack| pack.ordinal.is_none());
    Ok(unnamed.map(|pack| pack.record.hash).collect())
}

fn first_report(
    writing: &Writing<'_>,
    snapshot: &Snapshot,
    plan: &DeletionPlan,
    orphans: &[Orphan],
    sighting: &Sighting,
) -> PruneReport {
    let condemned = plan.condemned.iter().filter_map(|ordinal| snapshot.object(ordinal));
    let orphans = Tally::of(orphans.iter().map(|orphan| &orphan.record));
    let mut condemned = Tally::of(condemned.map(|object| &object.record));
    condemned.objects += orphans.objects;
    condemned.bytes += orphans.bytes;
    PruneReport {
        points_gone: plan.points_gone.clone(),
        condemned,
        orphans,
        deleted: Tally::default(),
        waiting: Tally::of(plan.waiting.iter().map(|(_, record)| record)),
        repacked: Tally::default(),
        packs_written: 0,
        bytes_written: 0,
        chunks_from_pool: 0,
        chunks_from_vault: 0,
        packs_unreadable: 0,
        bytes_unused: None,
        missing: sighting.missing.clone(),
        clock_doubt: None,
        may_not_delete: false,
        generation: snapshot.generation(),
        witness: snapshot.witness(writing.realm.keys()),
        bytes_stored: 0,
    }
}

// Deletes what is due and what came late; returns the ordinals that are gone.
async fn delete_due(
    writing: &Writing<'_>,
    plan: &DeletionPlan,
    sighting: &Sighting,
    report: &mut PruneReport,
    monitor: &Arc<dyn Monitor>,
) -> Result<BTreeSet<u64>> {
    monitor.event(Event::Stage("deleting"));
    let realm = writing.realm.id();
    let due =
        plan.due.iter().map(|(ordinal, record)| (Some((*ordinal, *record)), record.name(realm)));
    let late = sighting.leftovers.iter().map(|name| (None, name.clone()));
    let mut queue = due.chain(late).collect::<Vec<_>>().into_iter();
    let (mut deletes, mut gone) = (JoinSet::new(), BTreeSet::new());
    loop {
        while deletes.len() < DELETES_AT_ONCE
            && !report.may_not_delete
            && let Some((what, name)) = queue.next()
        {
            let store = writing.realm.store().clone();
            deletes.spawn(async move { (what, store.delete(&name).await) });
        }
        let Some(done) = deletes.join_next().await else { return Ok(gone) };
        let (what, done) = done.map_err(|_| Error::Interrupted { stage: "deleting objects" })?;
        match (done, what) {
            (Ok(()), Some((ordinal, record))) => {
                gone.insert(ordinal);
                report.deleted.add(&record);
            }
            (Ok(()), None) => {}
            (Err(error), _) if error.fault == StoreFault::PermissionDenied => {
                report.may_not_delete = true;
            }
            // What was deleted is found gone by the next run; deleting it again is no mistake.
            (Err(error), _) => return Err(error.into()),
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn repack(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    pool: Option<Arc<Session>>,
    time_is_known: bool,
    options: &PruneOptions,
    deletions: &DeletionPlan,
    report: &mut PruneReport,
    monitor: Arc<dyn Monitor>,
) -> Result<()> {
    if options.max_unused_percent >= 100.0 && !options.repack_all {
        return Ok(());
    }
    monitor.event(Event::Stage("reading trees"));
    let points = protected_points(snapshot, &deletions.points_gone).cloned().collect();
    let marks = marks::mark(writing.realm, snapshot, points, pool.clone(), monitor.clone()).await?;
    let Some(marks) = marks else { return Ok(()) };
    let uses = usage::measure(writing.realm, snapshot, &marks).await?;
    let limits = PlanLimits {
        max_unused_percent: options.max_unused_percent,
        repack_all: options.repack_all,
        pack_length: options.pack_length as u64,
    };
    // In a dry run nothing was condemned yet.
    let uses = uses.into_iter().filter(|pack| !deletions.condemned.contains(pack.no.0 as u64));
    let plan = PrunePlan::new(uses.filter(|pack| is_live(snapshot, pack)).collect(), &limits);
    report.packs_unreadable = plan.count(Fate::KeepUnreadable);
    report.bytes_unused = Some(plan.unused_bytes_left());
    let leaving: Vec<(u64, ObjectRecord)> = plan
        .with(|fate| fate == Fate::Delete || fate.is_repack())
        .filter_map(|pack| {
            let ordinal = pack.no.0 as u64;
            Some((ordinal, snapshot.object(ordinal)?.record))
        })
        .collect();
    // Copies whose originals cannot be condemned would only take more room.
    if !time_is_known || options.dry_run {
        report.repacked = Tally::of(leaving.iter().map(|(_, record)| record));
        if !time_is_known {
            report.repacked = Tally::default();
            report.bytes_unused = None;
        }
        return Ok(());
    }
    monitor.event(Event::Stage("copying packs"));
    let bytes = leaving.iter().map(|(_, record)| record.size).sum();
    monitor.event(Event::Expected { items: leaving.len() as u64, bytes });
    let marks = Arc::new(marks);
    let mut rest = leaving.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(batch_length(rest));
        rest = after;
        repack_batch(writing, snapshot, &pool, &marks, batch, options, report, &monitor).await?;
    }
    Ok(())
}

fn is_live(snapshot: &Snapshot, pack: &PackUse) -> bool {
    snapshot.object(pack.no.0 as u64).is_some_and(|object| object.condemned.is_none())
}

fn batch_length(packs: &[(u64, ObjectRecord)]) -> usize {
    let mut bytes = 0;
    let fits = |(_, record): &&(u64, ObjectRecord)| {
        bytes += record.size;
        bytes <= BATCH_BYTES
    };
    packs.iter().take_while(fits).count().max(1)
}

#[allow(clippy::too_many_arguments)]
async fn repack_batch(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    pool: &Option<Arc<Session>>,
    marks: &Arc<LiveChunks>,
    batch: &[(u64, ObjectRecord)],
    options: &PruneOptions,
    report: &mut PruneReport,
    monitor: &Arc<dyn Monitor>,
) -> Result<()> {
    let (realm, pool, state) = (writing.realm.clone(), pool.clone(), snapshot.clone());
    let (marks, monitor, batch) = (marks.clone(), monitor.clone(), batch.to_vec());
    let (runtime, pack_length) = (Handle::current(), options.pack_length);
    let doubted = writing.ledger.doubted(snapshot)?;
    let work = move || {
        let copier = Copier {
            realm: &realm,
            runtime,
            state: &state,
            pool: pool.as_deref(),
            doubted: &doubted,
            marks: &marks,
            pack_length,
            monitor: &*monitor,
        };
        copier.copy(&batch)
    };
    let copied = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { stage: "copying packs" })??;
    let mut leaving = Tally::default();
    for ordinal in copied.moved.keys() {
        if let Some(object) = snapshot.object(*ordinal) {
            leaving.add(&object.record);
        }
    }
    writing
        .commit(snapshot, CommitKind::Repack, |state| Ok(Some(repack_changes(state, &copied)?)))
        .await?;
    report.repacked.objects += leaving.objects;
    report.repacked.bytes += leaving.bytes;
    report.packs_written += copied.packs_written;
    report.bytes_written += copied.bytes_written;
    report.chunks_from_pool += copied.chunks_from_pool;
    report.chunks_from_vault += copied.chunks_from_vault;
    report.packs_unreadable += copied.unreadable;
    Ok(())
}

// What the commit changes that gives up the copied packs, on this state.
fn repack_changes(state: &Snapshot, copied: &Copied) -> Result<Changes> {
    let mut changes = Changes::default();
    let live = |ordinal: u64| state.object(ordinal).is_some_and(|it| it.condemned.is_none());
    let leaving: Vec<_> = copied.moved.iter().filter(|(ordinal, _)| live(**ordinal)).collect();
    if leaving.is_empty() {
        // An earlier attempt arrived after all.
        return Ok(changes);
    }
    let mut ordinals = std::collections::BTreeMap::new();
    for record in &copied.added {
        let ordinal = match state.live_object(record.hash) {
            Some(ordinal) => ordinal,
            None if record.copy == state.next_copy(record.hash) => {
                changes.objects_added.push(*record);
                state.next_ordinal() + changes.objects_added.len() as u64 - 1
            }
            // Condemned since it was put: the name is used up.
            None => return Err(Error::CommitLost { generation: state.generation().next() }),
        };
        ordinals.insert(record.hash, ordinal);
    }
    for (from, to) in leaving {
        let to: Vec<u64> = to.iter().map(|hash| ordinals[hash]).collect();
        // A copy that came out the same is no copy.
        if to.contains(from) {
            continue;
        }
        changes.objects_condemned.insert(*from);
        changes.moved.push(Moved { from: *from, to });
    }
    drop_idle_indexes(state, &mut changes);
    Ok(changes)
}

// An index is of use as long as one of its packs is: those between it and the index before it.
fn drop_idle_indexes(state: &Snapshot, changes: &mut Changes) {
    let mut packs_in_use = false;
    let mut idle = Vec::new();
    for (ordinal, object) in state.objects() {
        let live = object.condemned.is_none() && !changes.objects_condemned.contains(*ordinal);
        match object.record.kind {
            ObjectKind::Index => {
                if live && !packs_in_use {
                    idle.push(*ordinal);
                }
                packs_in_use = false;
            }
            ObjectKind::Data | ObjectKind::Metadata => packs_in_use |= live,
            _ => {}
        }
    }
    for ordinal in idle {
        changes.objects_condemned.insert(ordinal);
        changes.moved.push(Moved { from: ordinal, to: Vec::new() });
    }
}
