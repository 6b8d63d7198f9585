//! One file of WAL into the pool: on return it is durable there, and only then may PostgreSQL forget it.
//!
//! The WAL of a cluster is one point that grows ([`WalTree`]). A push makes the new point first and forgets the old one afterwards: after a crash in
//! between there are two, and the next push forgets what has nothing of its own, also if its file was there already. What no base in the pool needs any more is left out on the way.

use std::path::Path;
use std::sync::Arc;

use storepool::backup::{BackupOptions, BackupReport, backup};
use storepool::catalog::Point;
use storepool::chunks::{ChunkSource, PoolChunks};
use storepool::entry::EntryPath;
use storepool::id::PointId;
use storepool::lock::{LockMode, Locks};
use storepool::manifest::Manifest;
use storepool::monitor::Monitor;
use storepool::pool::Pool;
use storepool::restore::read_file;

use super::Workshop;
use crate::config::{GroupConfig, PostgresConfig};
use crate::error::Cause;
use crate::process::host_name;
use crate::workload::postgres::PostgresDetail;
use crate::workload::postgres::base::BaseDetail;
use crate::workload::postgres::error::PostgresError;
use crate::workload::postgres::lsn::{Segment, WalFile};
use crate::workload::postgres::wal_tree::{SegmentHead, WAL_WORKLOAD, WalTree};

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in the pool now.
    Stored {
        /// The point that holds the WAL.
        point: PointId,
        /// Bytes added to the pool.
        bytes_stored: u64,
        /// Files that were pushed before and that the pool has lost.
        lost: u64,
    },
    /// The same file was in the pool already.
    Known,
}

/// Puts the file at `path` into the pool. `group` and `config` say of which cluster it is.
///
/// # Errors
/// Whatever keeps it from being durable: then PostgreSQL has to keep it and try again.
pub(crate) fn push(
    workshop: &Workshop<'_>,
    group: &GroupConfig,
    config: &PostgresConfig,
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<Pushed, Cause> {
    let pool = workshop.pool;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = WalFile::parse(&name).ok_or_else(|| PostgresError::NotThatWal {
        path: path.to_path_buf(),
        why: "no file of WAL has such a name".to_string(),
    })?;
    let locks = Locks::new(workshop.group_locks()?, workshop.holder.clone());
    let _lock = locks.take(&format!("{}.wal", group.name), LockMode::Exclusive)?;
    let points = pool.points()?;
    let series = Series { group: group.name.clone(), base: config.name(), wal: config.wal_name() };
    let bases = series.bases(pool, &points)?;
    if let WalFile::Segment(segment) | WalFile::Partial(segment) = file {
        must_belong(path, segment, &bases)?;
    }
    let old: Vec<&Point> = points.iter().filter(|point| series.is_wal(point)).collect();
    let needed = first_needed(&bases);
    let Succession { tree, replaced, damaged } = match old.split_last() {
        None => Succession::default(),
        Some((newest, older)) => {
            let session = pool.begin_session()?;
            let chunks = PoolChunks::new(&session);
            match newest_tree(pool, &chunks, newest.id)? {
                Some((manifest, tree)) if tree.get(&name).is_some() => {
                    let known = known(&chunks, &manifest, file, &name, path)?;
                    // The push that brought it may have ended before it forgot what it replaced.
                    let left = contained(pool, &chunks, older, needed, &tree)?;
                    pool.forget(&left)?;
                    return Ok(known);
                }
                Some((_, tree)) => succeed(pool, &chunks, newest, older, tree, needed)?,
                // Archiving must go on, or the cluster's disk fills: a point of its own begins, and the damaged one stays.
                None => Succession { damaged: true, ..Succession::default() },
            }
        }
    };
    let source = tree.and(&name, file, path)?;
    let options = BackupOptions {
        host: host_name(),
        group: series.group.clone(),
        source: series.wal.clone(),
        program: env!("CARGO_PKG_VERSION").to_string(),
        threads: 1,
        ..BackupOptions::default()
    };
    let report = backup(pool, &source, &options, monitor)?;
    let pushed = settle(pool, &report, file, &name, &replaced)?;
    Ok(match pushed {
        // How many is not known; the point that named them is damaged.
        Pushed::Stored { point, bytes_stored, lost } if damaged => {
            Pushed::Stored { point, bytes_stored, lost: lost.max(1) }
        }
        pushed => pushed,
    })
}

// What a new point takes over.
#[derive(Default)]
struct Succession {
    tree: WalTree,
    replaced: Vec<PointId>,
    damaged: bool,
}

fn succeed(
    pool: &Pool,
    chunks: &PoolChunks<'_>,
    newest: &Point,
    older: &[&Point],
    mut tree: WalTree,
    needed: Option<(u64, u64)>,
) -> Result<Succession, Cause> {
    trim(&mut tree, needed);
    let mut replaced = vec![newest.id];
    replaced.extend(contained(pool, chunks, older, needed, &tree)?);
    Ok(Succession { tree, replaced, damaged: false })
}

// Those of the older points that have nothing of their own any more.
fn contained(
    pool: &Pool,
    chunks: &PoolChunks<'_>,
    older: &[&Point],
    needed: Option<(u64, u64)>,
    tree: &WalTree,
) -> Result<Vec<PointId>, Cause> {
    let mut contained = Vec::new();
    for point in older {
        if is_contained(pool, chunks, point.id, needed, tree)? {
            contained.push(point.id);
        }
    }
    Ok(contained)
}

// The newest WAL and its files; `None` if it is damaged.
fn newest_tree(
    pool: &Pool,
    chunks: &PoolChunks<'_>,
    point: PointId,
) -> Result<Option<(Manifest, WalTree)>, Cause> {
    let read = pool.manifest(point).and_then(|manifest| {
        let tree = WalTree::read(&*chunks.reader()?, manifest.root)?;
        Ok((manifest, tree))
    });
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn trim(tree: &mut WalTree, needed: Option<(u64, u64)>) {
    if let Some((number, size)) = needed {
        tree.keep_from(number, size);
    }
}

// Whether all that an older point has, and that is still needed, is in `tree` too. A point whose files were lost on the way to a newer one stays: what is
// damaged in it may still be healed from the vault.
fn is_contained(
    pool: &Pool,
    chunks: &PoolChunks<'_>,
    point: PointId,
    needed: Option<(u64, u64)>,
    tree: &WalTree,
) -> Result<bool, Cause> {
    let read =
        pool.manifest(point).and_then(|manifest| WalTree::read(&*chunks.reader()?, manifest.root));
    match read {
        Ok(mut older) => {
            trim(&mut older, needed);
            Ok(tree.has_all_of(&older))
        }
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

// The new file must be in the new point; the points it replaces go if it has all they had.
fn settle(
    pool: &Arc<Pool>,
    report: &BackupReport,
    file: WalFile,
    name: &str,
    replaced: &[PointId],
) -> Result<Pushed, Cause> {
    let Some(point) = report.point else { return Err(storepool::Error::Interrupted.into()) };
    let own = EntryPath::parse(format!("{}/{name}", file.folder()).as_bytes()).unwrap_or_default();
    if report.problem_count == 0 {
        pool.forget(replaced)?;
    } else if !is_in(pool, point, name)? {
        pool.forget(&[point])?;
        let problem = report.problems.iter().find(|problem| problem.path == own);
        let why = problem.map_or("it could not be read", |problem| problem.message.as_str());
        return Err(PostgresError::NotThatWal { path: name.into(), why: why.to_string() }.into());
    }
    Ok(Pushed::Stored {
        point,
        bytes_stored: report.totals.bytes_stored,
        lost: report.problem_count,
    })
}

fn is_in(pool: &Arc<Pool>, point: PointId, name: &str) -> Result<bool, Cause> {
    let session = pool.begin_session()?;
    let chunks = PoolChunks::new(&session);
    let tree = WalTree::read(&*chunks.reader()?, pool.manifest(point)?.root)?;
    Ok(tree.get(name).is_some())
}

struct Series {
    group: String,
    base: String,
    wal: String,
}

impl Series {
    fn is_wal(&self, point: &Point) -> bool {
        point.workload == WAL_WORKLOAD && point.group == self.group && point.source == self.wal
    }

    fn bases(&self, pool: &Pool, points: &[Point]) -> Result<Vec<BaseDetail>, Cause> {
        let mut bases = Vec::new();
        let own = |point: &&Point| point.group == self.group && point.source == self.base;
        for point in points.iter().filter(own) {
            let manifest = match pool.manifest(point.id) {
                // Forgotten by somebody else a moment ago.
                Err(storepool::Error::PointNotFound { .. }) => continue,
                Err(error) if error.is_damage() => return Ok(Vec::new()),
                manifest => manifest?,
            };
            let detail: Option<PostgresDetail> = serde_json::from_str(&manifest.detail).ok();
            match detail.and_then(|detail| detail.base) {
                Some(base) => bases.push(base),
                // Nobody knows what it needs: nothing may be left out.
                None => return Ok(Vec::new()),
            }
        }
        Ok(bases)
    }
}

// The first segment that a base in the pool needs. Without a base everything is kept: one may be on its way.
fn first_needed(bases: &[BaseDetail]) -> Option<(u64, u64)> {
    let size = bases.first()?.wal_segment_bytes;
    let same = bases.iter().all(|base| base.wal_segment_bytes == size);
    let first = bases.iter().map(|base| base.start.0 / size).min()?;
    same.then_some((first, size))
}

fn must_belong(path: &Path, segment: Segment, bases: &[BaseDetail]) -> Result<(), Cause> {
    let head = SegmentHead::read(path, segment)?;
    let own = head.system_identifier.to_string();
    match bases.last() {
        Some(base) if base.system_identifier != own => Err(PostgresError::NotThatWal {
            path: path.to_path_buf(),
            why: format!(
                "it is of cluster {own}, the bases of this source are of cluster {}",
                base.system_identifier
            ),
        }
        .into()),
        _ => Ok(()),
    }
}

// PostgreSQL pushes a file again if it did not hear that it was taken. Another file of that name is an accident that must not be covered up.
fn known(
    chunks: &PoolChunks<'_>,
    manifest: &Manifest,
    file: WalFile,
    name: &str,
    path: &Path,
) -> Result<Pushed, Cause> {
    let bytes = std::fs::read(path).map_err(PostgresError::file("read", path))?;
    let mut stored = Vec::with_capacity(bytes.len());
    let inside =
        EntryPath::parse(format!("{}/{name}", file.folder()).as_bytes()).unwrap_or_default();
    read_file(chunks, manifest, &inside, &mut stored)?;
    match stored == bytes {
        true => Ok(Pushed::Known),
        false => Err(PostgresError::OtherWal { name: name.to_string() }.into()),
    }
}
