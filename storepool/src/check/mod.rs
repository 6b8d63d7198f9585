//! Check: proves that the pool holds what its points need, or says exactly what is damaged and whom it affects.
//!
//! Truthful beside running backups and prunes: it holds a session, so nothing that it has seen as needed goes away, and what has gone since it looked
//! is looked up again before it is called damage.

mod affected;
mod data;
mod structure;

use std::collections::HashSet;
use std::sync::Arc;

pub use affected::AffectedPoint;
pub(crate) use affected::find as affected_points;
pub(crate) use data::read_all;

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::index::PackRow;
use crate::monitor::{Event, Monitor};
use crate::pool::Pool;
use crate::reach::Reach;

/// Most damages that are listed; the count goes on.
pub const DAMAGES_LIMIT: usize = 10_000;

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckOptions {
    /// Reads every frame of so many percent of the packs; the share rotates from day to day, so that small shares see everything in time.
    pub read_data: Option<f64>,
}

/// What kind of object is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DamagedObject {
    /// A pool directory is not there, or its marker is wrong.
    Directory,
    /// The index says something that is not so.
    Index,
    /// A pack is missing or its bytes are wrong.
    Pack,
    /// A chunk of content is missing.
    Chunk,
    /// A tree or list is missing or damaged.
    Tree,
    /// The copy of a manifest among the chunks is missing or damaged; the point's own file may have it.
    Manifest,
    /// A point file is missing or damaged.
    Point,
}

impl DamagedObject {
    fn of_chunk(kind: ChunkKind) -> Self {
        match kind {
            ChunkKind::Data => Self::Chunk,
            ChunkKind::Manifest => Self::Manifest,
            _ => Self::Tree,
        }
    }

    /// Returns the word for programs and people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Index => "index",
            Self::Pack => "pack",
            Self::Chunk => "chunk",
            Self::Tree => "tree",
            Self::Manifest => "manifest",
            Self::Point => "point",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What kind of object.
    pub what: DamagedObject,
    /// Its name: an id or a path.
    pub id: String,
    /// What is wrong with it, for people.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Packs whose tables of contents were checked.
    pub packs_checked: u64,
    /// Packs that were read and decoded whole.
    pub packs_read: u64,
    /// Bytes read from packs.
    pub bytes_read: u64,
    /// Bytes of chunks compared with their names.
    pub bytes_verified: u64,
    /// Points whose trees were walked.
    pub points_checked: u64,
    /// Chunks that these points need.
    pub chunks_needed: u64,
    /// What is wrong, the first [`DAMAGES_LIMIT`] of `damage_count`.
    pub damages: Vec<Damage>,
    /// How many things are wrong.
    pub damage_count: u64,
    /// The points that cannot be restored completely.
    pub affected_points: Vec<AffectedPoint>,
    /// Rows of the index that belong to no pack: harmless.
    pub stale_rows: u64,
}

impl CheckReport {
    /// Returns whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage_count == 0
    }

    fn add(&mut self, what: DamagedObject, id: impl ToString, detail: impl ToString) {
        self.damage_count += 1;
        if self.damages.len() < DAMAGES_LIMIT {
            let damage = Damage { what, id: id.to_string(), detail: detail.to_string() };
            self.damages.push(damage);
        }
    }
}

/// Checks markers, point files, tables of contents, index and trees; with [`CheckOptions::read_data`] also the frames.
///
/// Damage is data of the report; an error means that the check could not be carried out.
pub fn check(
    pool: &Arc<Pool>,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    let session = pool.begin_session()?;
    let mut report = CheckReport::default();

    monitor.event(Event::Stage("checking index and packs"));
    structure::check_directories(pool, &mut report)?;
    let packs = structure::check_packs(pool, &mut report, monitor)?;

    monitor.event(Event::Stage("checking points"));
    monitor.event(Event::Counting("chunks"));
    let points = structure::check_points(pool, &mut report)?;
    let chunks = packs.iter().map(|row| row.chunks).sum();
    monitor.event(Event::Expected { items: chunks, bytes: 0 });
    let mut reach = Reach::new(&session)?;
    reach.mark_points(&points, monitor)?;
    report.points_checked = points.len() as u64;
    report.chunks_needed = reach.marks().total();
    let mut broken: HashSet<ChunkId> = HashSet::new();
    for hole in reach.holes() {
        let what = DamagedObject::of_chunk(hole.kind);
        if broken.insert(hole.chunk) {
            report.add(what, hole.chunk, &hole.detail);
        }
    }
    let uncounted = reach.hole_count() > reach.holes().len() as u64;
    if uncounted {
        report.damage_count = report.damage_count.max(reach.hole_count());
    }
    // The marks grow with the pool; reading needs memory of its own.
    drop(reach);

    if let Some(percent) = options.read_data {
        monitor.event(Event::Stage("reading packs"));
        let share = data::choose(&packs, percent, pool.world().clock.now());
        let damaged = data::read(pool, &share, &mut report, monitor)?;
        broken.extend(data::without_other_copy(&session, damaged, &mut report)?);
    }
    if !broken.is_empty() {
        monitor.event(Event::Stage("finding affected points"));
        monitor.event(Event::Counting("chunks"));
        report.affected_points = affected::find(&session, &points, broken, uncounted, monitor)?;
    }
    record(pool, &packs, &report)?;
    Ok(report)
}

// Backups look twice at what they reuse while points may have holes.
fn record(pool: &Pool, packs: &[PackRow], report: &CheckReport) -> Result<()> {
    if !report.affected_points.is_empty() {
        return pool.index().suspect("a check found points with holes");
    }
    if !report.is_sound() || !pool.index().is_suspect()? {
        return Ok(());
    }
    // A pack that was lost while this check ran is not known to it.
    let now: HashSet<_> = pool.index().packs()?.iter().map(|row| row.no).collect();
    if packs.iter().all(|row| now.contains(&row.no)) {
        pool.index().clear_suspicion()?;
    }
    Ok(())
}

/// Returns whether a pack that cannot be opened has rightly gone since it was listed.
pub(crate) fn has_gone(pool: &Pool, row: &PackRow, error: &Error) -> Result<bool> {
    if !matches!(error, Error::PackMissing { .. }) {
        return Ok(false);
    }
    let now = pool.index().pack(row.no)?;
    Ok(now.is_none_or(|now| now.is_going()))
}

#[cfg(test)]
mod every_byte;
#[cfg(test)]
mod tests;
