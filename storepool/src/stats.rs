//! Sizes: what points hold, what they really need, and what the pool takes up for it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::PointId;
use crate::marks::Marks;
use crate::monitor::{Event, Monitor};
use crate::pool::{Pool, Session};
use crate::reach::Reach;

/// What to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// Also what each point needs, and needs alone: walks each point twice.
    pub per_point: bool,
}

/// Sizes of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolStats {
    /// Number of points.
    pub points: u64,
    /// Regular files of all points together.
    pub files: u64,
    /// Bytes of content of all points together: what restoring every one would write.
    pub point_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Bytes of the pack files.
    pub stored_bytes: u64,
    /// Chunks in packs.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Different chunks that some point needs, trees and lists included.
    pub needed_chunks: u64,
    /// Their bytes before compression.
    pub needed_raw_bytes: u64,
    /// The part of the pack files that they take up.
    pub needed_stored_bytes: u64,
    /// Chunks that points need and the pool does not have: see `check`.
    pub missing_chunks: u64,
    /// Each point, oldest first; empty unless asked for.
    pub per_point: Vec<PointStats>,
}

/// Sizes of one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointStats {
    /// The point.
    pub point: PointId,
    /// Bytes of its content.
    pub bytes: u64,
    /// What it needs.
    pub needed: Weight,
    /// What no other point needs: about what forgetting it would free.
    pub alone: Weight,
}

/// How much a set of chunks is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Number of chunks.
    pub chunks: u64,
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// Bytes of pack files: each frame's shared out among its chunks by length.
    pub stored_bytes: u64,
}

impl PoolStats {
    /// Returns how many bytes of chunks one byte of pack holds; 1 for an empty pool.
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.raw_bytes, self.stored_bytes)
    }

    /// Returns how many bytes of points one byte of different chunks stands for; 1 for an empty pool.
    pub fn deduplication_ratio(&self) -> f64 {
        ratio(self.point_bytes, self.needed_raw_bytes)
    }

    /// Returns how many bytes of points one byte of the pool's packs stands for.
    pub fn total_ratio(&self) -> f64 {
        ratio(self.point_bytes, self.stored_bytes)
    }

    /// Returns the bytes of packs that no point needs.
    pub fn unused_bytes(&self) -> u64 {
        self.stored_bytes.saturating_sub(self.needed_stored_bytes)
    }
}

fn ratio(large: u64, small: u64) -> f64 {
    if small == 0 { 1.0 } else { large as f64 / small as f64 }
}

/// Measures the pool.
///
/// # Errors
/// Failures to look; chunks that are missing are counted.
pub fn stats(pool: &Arc<Pool>, options: &StatsOptions, monitor: &dyn Monitor) -> Result<PoolStats> {
    let session = pool.begin_session()?;
    let points = pool.points()?;
    let rows = pool.index().packs()?;
    monitor.event(Event::Stage("measuring points"));
    monitor.event(Event::Counting("chunks"));
    monitor.event(Event::Expected { items: rows.iter().map(|row| row.chunks).sum(), bytes: 0 });
    let mut reach = Reach::new(&session)?;
    let ids: Vec<_> = points.iter().map(|point| point.id).collect();
    reach.mark_points(&ids, monitor)?;
    let needed = weigh(pool, reach.marks(), |_, _| true)?;
    let mut stats = PoolStats {
        points: points.len() as u64,
        files: points.iter().map(|point| point.files).sum(),
        point_bytes: points.iter().map(|point| point.bytes).sum(),
        packs: rows.len() as u64,
        stored_bytes: rows.iter().map(|row| row.length).sum(),
        chunks: rows.iter().map(|row| row.chunks).sum(),
        raw_bytes: rows.iter().map(|row| row.raw_length).sum(),
        needed_chunks: needed.chunks,
        needed_raw_bytes: needed.raw_bytes,
        needed_stored_bytes: needed.stored_bytes,
        missing_chunks: reach.hole_count(),
        per_point: Vec::new(),
    };
    drop(reach);
    if options.per_point {
        let shared = shared_marks(&session, &ids, monitor)?;
        for point in &points {
            if monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            let marks = marks_of(&session, point.id, monitor)?;
            stats.per_point.push(PointStats {
                point: point.id,
                bytes: point.bytes,
                needed: weigh(pool, &marks, |_, _| true)?,
                alone: weigh(pool, &marks, |pack, ordinal| {
                    !shared.contains(crate::index::Place { pack, ordinal })
                })?,
            });
        }
    }
    Ok(stats)
}

fn marks_of(session: &Session, point: PointId, monitor: &dyn Monitor) -> Result<Marks> {
    let mut reach = Reach::new(session)?;
    reach.mark_points(&[point], monitor)?;
    Ok(reach.into_marks())
}

// The places that at least two points need.
fn shared_marks(session: &Session, points: &[PointId], monitor: &dyn Monitor) -> Result<Marks> {
    let (mut once, mut twice) = (Marks::default(), Marks::default());
    for point in points {
        for place in marks_of(session, *point, monitor)?.places() {
            if !once.set(place) {
                twice.set(place);
            }
        }
    }
    Ok(twice)
}

// Adds up the marked chunks for which `counts` holds.
fn weigh(
    pool: &Pool,
    marks: &Marks,
    counts: impl Fn(crate::index::PackNo, u32) -> bool,
) -> Result<Weight> {
    let mut weight = Weight::default();
    for no in marks.packs() {
        let Some(row) = pool.pack_row(no)? else { continue };
        let pack = match pool.open_pack(&row) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let ordinals = marks.ordinals(no).filter(|ordinal| counts(no, *ordinal));
        let share = pack.toc().share(ordinals);
        weight.chunks += share.chunks;
        weight.raw_bytes += share.raw_bytes;
        weight.stored_bytes += share.stored_bytes;
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::SilentMonitor;
    use crate::testing::fixture::{create_pool, files, make_point, test_world};

    #[test]
    fn what_two_points_share_counts_once_and_belongs_to_neither_alone() {
        let home = tempfile::tempdir().unwrap();
        let (_, pool) = create_pool(home.path(), 1, test_world());
        let mut first = files("common", 10, 2000);
        let mut second = first.clone();
        first.extend(files("first", 5, 2000));
        second.extend(files("second", 3, 2000));
        make_point(&pool, &first).unwrap();
        make_point(&pool, &second).unwrap();

        let stats = stats(&pool, &StatsOptions { per_point: true }, &SilentMonitor).unwrap();

        let metadata = |point: &PointStats| point.needed.chunks;
        assert_eq!((stats.points, stats.missing_chunks), (2, 0));
        assert_eq!(stats.needed_chunks, stats.chunks, "nothing was forgotten");
        assert_eq!(stats.raw_bytes, stats.needed_raw_bytes);
        let [one, two] = stats.per_point.as_slice() else { panic!("{stats:?}") };
        // Each has its root, its own directory and its manifest; the common directory is shared.
        assert_eq!(one.alone.chunks, 5 + 3);
        assert_eq!(two.alone.chunks, 3 + 3);
        assert_eq!((metadata(one), metadata(two)), (15 + 4, 13 + 4));
        assert!(one.alone.stored_bytes >= 5 * 2000 && one.alone.stored_bytes < 8 * 2000);
        assert!(stats.unused_bytes() < 3000, "tables and trailers alone: {stats:?}");
    }
}
