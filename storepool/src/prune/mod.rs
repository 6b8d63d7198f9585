//! Prune: gives back the space that no point needs, beside running backups and restores.
//!
//! What keeps it safe (docs/decisions/0002 has the argument in full):
//!
//! 1. **Mark** starts from every point of the catalog, every point file, and the base of every live session. If anything on the way cannot be
//!    read, nothing is deleted.
//! 2. **Condemn** is one transaction that looks again: a point or base that was not among the roots makes it fail, the mark goes on with what is new. No
//!    backup that begins from now on finds a chunk in a condemned pack.
//! 3. A backup that had begun before may still rely on such a pack. Its commit takes the pack back (`Catalog::add`); until it has ended, the pack **waits**. If it dies
//!    after its point file was written, the next look at the point files, taken after it was found dead, sees the point and takes the pack back.
//! 4. **Sweep** first moves what is left to *going*, from where only prune takes a pack back; then the file goes, its directory is synced, and the rows go
//!    last.
//! 5. What is needed of poor packs is copied first, and each copy found again in a table of contents, before the old pack is condemned.
//!
//! Killed at any moment, the next run (or the next start) finishes what is half done.

mod collection;
mod plan;
mod repack;

use std::sync::Arc;

pub(crate) use collection::{Collection, existing_points, with_ballast};
pub use plan::{Fate, PackPlan, PackUse, PlanLimits, PrunePlan, Standing};
pub(crate) use repack::{Leaving, Repacked};

use crate::error::{Error, Result};
use crate::index::PackNo;
use crate::lock::LockMode;
use crate::monitor::{Event, Monitor};
use crate::pool::Pool;

/// The lock that keeps two prunes apart.
pub(crate) const PRUNE_LOCK: &str = "prune";

/// How to prune.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneOptions {
    /// Makes the plan and stops.
    pub dry_run: bool,
    /// The poorest packs are copied until unused bytes are at most this share of all, in percent.
    pub max_unused_percent: f64,
    /// Every pack with anything unused is copied.
    pub repack_all: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { dry_run: false, max_unused_percent: 10.0, repack_all: false }
    }
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Packs removed because nothing in them was needed.
    pub packs_deleted: u64,
    /// Packs of which the needed part was copied.
    pub packs_repacked: u64,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs that nobody needs but a running session may be reading: a later prune removes them.
    pub packs_waiting: u64,
    /// Bytes of the packs that wait.
    pub bytes_waiting: u64,
    /// Packs that stay because they cannot be read.
    pub packs_unreadable: u64,
    /// Bytes of the removed files, less what was written; negative if other packs wait while their copies are there already.
    pub bytes_freed: i64,
    /// Bytes written for copies.
    pub bytes_copied: u64,
    /// Bytes in packs that no point needs and that were not worth copying for.
    pub bytes_unused_left: u64,
    /// Chunks that are gone.
    pub chunks_removed: u64,
    /// Chunks that points need and the pool does not have: see `check`.
    pub chunks_missing: u64,
    /// Whether the disk was too full to copy everything that was planned.
    pub stopped_for_space: bool,
    /// The plan.
    pub plan: PrunePlan,
}

/// Gives back the space that no point needs.
///
/// # Errors
/// [`Error::Busy`] if another prune runs; [`Error::DirectoryMissing`] if a directory of the pool is not there, since points only it knows of may need
/// anything; damage, if it cannot be known what a point needs: then nothing was deleted.
pub fn prune(
    pool: &Arc<Pool>,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<PruneReport> {
    require_whole(pool)?;
    if options.dry_run {
        let session = pool.begin_session()?;
        let plan = make_plan(&Collection::begin(&session, monitor)?, options)?;
        return Ok(report_plan(plan));
    }
    let _lock = pool.locks().take(PRUNE_LOCK, LockMode::Exclusive)?;
    let _elsewhere = pool.lock_elsewhere()?;
    let session = with_ballast(pool, || pool.begin_session())?;
    let outcome = run(pool, &session, options, monitor);
    pool.keep_ballast();
    outcome
}

/// Fails unless every directory of the pool is there.
pub(crate) fn require_whole(pool: &Pool) -> Result<()> {
    if pool.is_whole() {
        return Ok(());
    }
    let unnamed = || {
        let missing = pool.directories().iter().find(|directory| directory.path.is_none());
        missing.map(|directory| directory.id.to_string().into()).unwrap_or_default()
    };
    let path = pool.missing_paths().first().cloned().unwrap_or_else(unnamed);
    Err(Error::DirectoryMissing { path })
}

fn run(
    pool: &Arc<Pool>,
    session: &crate::pool::Session,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<PruneReport> {
    let mut collection = with_ballast(pool, || Collection::begin(session, monitor))?;
    let plan = make_plan(&collection, options)?;
    let numbers = |fate: fn(Fate) -> bool| plan.with(fate).map(|pack| pack.no).collect::<Vec<_>>();
    with_ballast(pool, || collection.pardon(&numbers(|fate| fate == Fate::Pardon)))?;
    let dead: Vec<PackNo> = numbers(|fate| fate == Fate::Delete);
    monitor.event(Event::Stage("deleting packs"));
    monitor.event(Event::Expected {
        items: dead.len() as u64,
        bytes: plan.with(|fate| fate == Fate::Delete).map(|pack| pack.length).sum(),
    });
    with_ballast(pool, || collection.condemn(&dead))?;
    with_ballast(pool, || collection.sweep())?;
    let deleted = collection.removed.packs;

    let leaving: Vec<_> = plan.with(Fate::is_repack).map(Leaving::of).collect();
    let repacked = if leaving.is_empty() {
        Repacked::default()
    } else {
        monitor.event(Event::Stage("copying packs"));
        monitor.event(Event::Expected {
            items: leaving.iter().map(|pack| pack.needed_chunks).sum(),
            bytes: leaving.iter().map(|pack| pack.needed_bytes).sum(),
        });
        collection.repack(&leaving, None)?
    };
    let (packs_waiting, bytes_waiting) = collection.waiting()?;
    let removed = collection.removed;
    Ok(PruneReport {
        dry_run: false,
        packs_deleted: deleted,
        packs_repacked: repacked.packs,
        packs_waiting,
        bytes_waiting,
        bytes_freed: removed.bytes as i64 - repacked.stored.stored_bytes as i64,
        bytes_copied: repacked.stored.stored_bytes,
        chunks_removed: removed.chunks.saturating_sub(repacked.stored.chunks),
        chunks_missing: collection.reach.hole_count(),
        stopped_for_space: repacked.stopped,
        ..report_plan(plan)
    })
}

fn make_plan(collection: &Collection<'_>, options: &PruneOptions) -> Result<PrunePlan> {
    let limits = PlanLimits {
        max_unused_percent: options.max_unused_percent,
        repack_all: options.repack_all,
        pack_length: collection.pool.options().pack_length,
    };
    Ok(PrunePlan::new(collection.pack_uses()?, &limits))
}

fn report_plan(plan: PrunePlan) -> PruneReport {
    let goes = |fate: Fate| fate == Fate::Delete || fate.is_repack();
    PruneReport {
        dry_run: true,
        packs_deleted: plan.count(Fate::Delete),
        packs_repacked: plan.with(Fate::is_repack).count() as u64,
        packs_kept: plan.with(|fate| !goes(fate)).count() as u64,
        packs_unreadable: plan.count(Fate::KeepUnreadable),
        bytes_freed: plan.bytes_freed() as i64,
        bytes_unused_left: plan.unused_bytes_left(),
        chunks_removed: plan.with(goes).map(|pack| pack.chunks - pack.needed_chunks).sum(),
        plan,
        ..PruneReport::default()
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
