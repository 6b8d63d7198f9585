//! Repair: mends what can be mended and says what cannot. It never deletes anything that could still be read: a damaged pack is moved aside, a point
//! with holes stays.
//!
//! | Found | Done |
//! | --- | --- |
//! | marker missing or damaged, the others name it | written anew |
//! | index damaged, wrong or to be made anew | made from packs and point files |
//! | pack with wrong bytes | every chunk that can be read is copied to a new pack, then the file goes to `damaged/` |
//! | point file damaged, another copy or its manifest chunk is sound | written again |
//! | chunk missing that a point needs | asked of a [`ChunkHealer`], if there is one (the vault) |
//! | manifest chunk missing, the point file is sound | stored again |
//! | manifest chunk without a point file | listed; written again if asked, since it may have been forgotten on purpose |
//!
//! Everything that is copied is durable and known before what it was copied from is moved, so repair can be killed and run again.

mod markers;
mod packs;
mod points;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use packs::DamagedPack;
pub use points::FoundPoint;

use crate::check::{AffectedPoint, affected_points};
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind, PointId};
use crate::monitor::{Event, Monitor};
use crate::pool::{OldIndex, Pool, PoolOptions, Session, World};
use crate::reach::Reach;
use crate::writer::{PoolWriter, SpacePolicy};

/// Missing chunks asked for at a time.
const HEALED_TOGETHER: usize = 4096;
/// How often the holes are looked for again: a tree that was healed may show more, at most one level at a time.
const HEALING_ROUNDS: usize = crate::tree::DEPTH_LIMIT;

/// What to repair beyond what is always repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Removes the index and makes it anew from packs and point files.
    pub rebuild_index: bool,
    /// Looks and reports, and changes nothing.
    pub dry_run: bool,
    /// Writes the point files of manifests that have none. Points that were forgotten since the last prune come back, too.
    pub recover_points: bool,
}

/// Another place that may have chunks which the pool has lost.
pub trait ChunkHealer {
    /// Gives those of `chunks` that it has to `take`, one by one, as it has them: whoever takes them compares each with its id.
    fn fetch(
        &self,
        chunks: &[(ChunkId, ChunkKind)],
        take: &mut dyn FnMut(ChunkId, Vec<u8>) -> Result<()>,
    ) -> Result<()>;
}

/// Has no chunks.
#[derive(Debug, Default)]
pub struct NoHealer;

impl ChunkHealer for NoHealer {
    fn fetch(
        &self,
        _chunks: &[(ChunkId, ChunkKind)],
        _take: &mut dyn FnMut(ChunkId, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        Ok(())
    }
}

/// What repair found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the index was made anew.
    pub index_rebuilt: bool,
    /// Directories whose markers were written anew.
    pub markers_mended: Vec<PathBuf>,
    /// Packs with wrong bytes.
    pub packs_damaged: Vec<DamagedPack>,
    /// Point files written again from another copy.
    pub point_files_mended: u64,
    /// Manifests in packs that have no point file.
    pub points_found: Vec<FoundPoint>,
    /// Manifest chunks stored again from sound point files.
    pub manifests_stored: u64,
    /// Chunks that came from elsewhere.
    pub chunks_healed: u64,
    /// Chunks that points need and nobody has.
    pub chunks_missing: u64,
    /// Points that cannot be restored completely.
    pub affected_points: Vec<AffectedPoint>,
}

impl RepairReport {
    /// Returns whether every point is whole.
    pub fn is_whole(&self) -> bool {
        self.affected_points.is_empty() && self.chunks_missing == 0
    }
}

/// Repairs the pool in `paths`; see the module for what that means. Keeps every other process out.
///
/// # Errors
/// [`crate::Error::Busy`] if the pool is in use. What cannot be mended is no error but part of the report.
pub fn repair(
    paths: &[PathBuf],
    options: PoolOptions,
    world: World,
    repair: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    repair_from(paths, options, world, repair, &NoHealer, monitor)
}

/// Repairs as [`repair`] does, and asks `healer` for chunks that the pool has lost.
pub fn repair_from(
    paths: &[PathBuf],
    options: PoolOptions,
    world: World,
    repair: &RepairOptions,
    healer: &dyn ChunkHealer,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    let mut report = RepairReport { dry_run: repair.dry_run, ..RepairReport::default() };
    report.markers_mended = markers::mend(paths, &world, repair.dry_run)?;
    let index = if repair.rebuild_index && !repair.dry_run {
        monitor.event(Event::Stage("making the index anew"));
        OldIndex::Remove
    } else {
        OldIndex::Use
    };
    let pool = Arc::new(Pool::open_alone(paths, options, world, index)?);
    let _elsewhere = pool.lock_elsewhere()?;
    report.index_rebuilt = pool.index_was_rebuilt();
    let session = pool.begin_session()?;

    monitor.event(Event::Stage("reading packs"));
    report.packs_damaged = packs::find_damaged(&pool, monitor)?;
    if !report.packs_damaged.is_empty() {
        monitor.event(Event::Stage("saving what can be read of damaged packs"));
        packs::salvage(&session, &mut report.packs_damaged, repair.dry_run, monitor)?;
    }

    monitor.event(Event::Stage("checking points"));
    monitor.event(Event::Counting("chunks"));
    if !repair.dry_run {
        report.point_files_mended = points::mend_files(&session)?;
    }
    report.points_found = points::find(&session)?;
    if repair.recover_points && !repair.dry_run {
        points::recover(&session, &mut report.points_found)?;
    }
    heal(&session, repair, healer, &mut report, monitor)?;
    if !repair.dry_run {
        if report.is_whole() {
            pool.index().clear_suspicion()?;
        } else {
            pool.index().suspect("a repair left points with holes")?;
        }
    }
    Ok(report)
}

// Walks all points; asks for what is missing, until nothing more comes.
fn heal(
    session: &Session,
    options: &RepairOptions,
    healer: &dyn ChunkHealer,
    report: &mut RepairReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    let pool = session.pool();
    let points: Vec<PointId> = pool.points()?.iter().map(|point| point.id).collect();
    for _ in 0..HEALING_ROUNDS {
        let mut reach = Reach::new(session)?;
        reach.mark_points(&points, monitor)?;
        report.chunks_missing = reach.hole_count();
        let holes: Vec<_> = reach.holes().iter().map(|hole| (hole.chunk, hole.kind)).collect();
        let uncounted = reach.hole_count() > holes.len() as u64;
        drop(reach);
        if holes.is_empty() {
            return Ok(());
        }
        let filled =
            if options.dry_run { Filled::default() } else { fill(session, &holes, healer)? };
        report.manifests_stored += filled.from_point_files;
        report.chunks_healed += filled.from_elsewhere;
        let healed = filled.from_point_files + filled.from_elsewhere;
        if healed > 0 && holes.iter().any(|(_, kind)| *kind == ChunkKind::Manifest) {
            // A point file is made from its manifest, which may have come back just now.
            report.point_files_mended += points::mend_files(session)?;
        }
        if healed == 0 {
            monitor.event(Event::Stage("finding affected points"));
            monitor.event(Event::Counting("chunks"));
            let broken: HashSet<_> = holes.into_iter().map(|(id, _)| id).collect();
            report.affected_points = affected_points(session, &points, broken, uncounted, monitor)?;
            return Ok(());
        }
    }
    Ok(())
}

/// How many holes were filled, and from where.
#[derive(Default)]
struct Filled {
    from_point_files: u64,
    from_elsewhere: u64,
}

fn fill(
    session: &Session,
    holes: &[(ChunkId, ChunkKind)],
    healer: &dyn ChunkHealer,
) -> Result<Filled> {
    let writer = PoolWriter::new(session, SpacePolicy::UseReserve)?;
    let mut chunks = writer.chunk_writer()?;
    let mut filled = Filled::default();
    let mut elsewhere = Vec::with_capacity(holes.len());
    for (id, kind) in holes {
        // The point's own file may still have what its pack has lost.
        match points::manifest_bytes(session.pool(), *id, *kind) {
            Some(bytes) => {
                chunks.put_again(*id, *kind, &bytes)?;
                filled.from_point_files += 1;
            }
            None => elsewhere.push((*id, *kind)),
        }
    }
    for batch in elsewhere.chunks(HEALED_TOGETHER) {
        let kinds: HashMap<ChunkId, ChunkKind> = batch.iter().copied().collect();
        healer.fetch(batch, &mut |id, bytes| {
            if let Some(kind) = kinds.get(&id).filter(|kind| ChunkId::of(**kind, &bytes) == id) {
                chunks.put_again(id, *kind, &bytes)?;
                filled.from_elsewhere += 1;
            }
            Ok(())
        })?;
    }
    chunks.finish()?;
    writer.flush()?;
    Ok(filled)
}

#[cfg(test)]
mod tests;
