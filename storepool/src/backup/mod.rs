//! Backup: reads a data source once and makes a recovery point of it, complete or not at all.
//!
//! Workers take jobs from one stack ([`walk`]): scan a directory, read some files, read a window of a large file. An entry that looks
//! as it did in the base point is taken from there unread. Trees close bottom-up ([`assembly`]); the manifest follows; the point file
//! is the commit.

mod assembly;
mod content;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use crate::catalog::{Notes, Point};
use crate::clock::Timestamp;
use crate::entropy::random_bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkKind, PointId};
use crate::index::PackNo;
use crate::manifest::{Manifest, PROBLEMS_LIMIT, PointSet, Problem, Totals};
use crate::monitor::{Event, Monitor};
use crate::pool::{Pool, Session};
use crate::simulated::{self, Mistake};
use crate::source::DataSource;
use crate::tree::Node;
use crate::writer::{PoolWriter, SpacePolicy};

/// What a backup needs to know beside the source.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Label of the server.
    pub host: String,
    /// Protection group; empty for none.
    pub group: String,
    /// Data source: with the group it names the series whose newest point is the base.
    pub source: String,
    /// Tags of the new point.
    pub tags: Vec<String>,
    /// The set of points that this one is made with.
    pub set: Option<PointSet>,
    /// Version of the program, recorded in the point.
    pub program: String,
    /// Look, compare and count, but read and store nothing.
    pub dry_run: bool,
    /// Worker threads; 0 for one per processor.
    pub threads: usize,
    /// Read every file, whatever it looks like.
    pub force: bool,
}

/// What a backup did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The new point; `None` for a dry run.
    pub point: Option<PointId>,
    /// The point it was compared with.
    pub base: Option<PointId>,
    /// When it began.
    pub started: Timestamp,
    /// When everything had been read.
    pub finished: Timestamp,
    /// Sizes.
    pub totals: Totals,
    /// Entries (directories not counted) that the base does not have.
    pub entries_new: u64,
    /// Entries that look different from the base's.
    pub entries_changed: u64,
    /// Entries taken from the base unread.
    pub entries_unchanged: u64,
    /// The first problems of single entries.
    pub problems: Vec<Problem>,
    /// How many there were.
    pub problem_count: u64,
}

/// Makes a recovery point of `source` in `pool`. On return the point is durable and complete, but for the entries in the report's problems.
///
/// # Errors
/// [`Error::SourceFailed`] if the source as a whole cannot be read, [`Error::NoSpace`], [`Error::Interrupted`] if the monitor asked to stop: then
/// there is no new point, and what was stored is found again by the next run.
pub fn backup(
    pool: &Arc<Pool>,
    source: &dyn DataSource,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let started = pool.world().clock.now();
    let session = pool.begin_session()?;
    let base = choose_base(&session, options)?;
    let (root_stat, root) = source.root().map_err(|error| Error::SourceFailed {
        name: options.source.clone(),
        cause: std::io::Error::other(error),
    })?;
    monitor.event(Event::Stage("reading files"));
    if let Some(base) = &base {
        monitor.event(Event::Expected {
            items: base.totals.files + base.totals.others,
            bytes: base.totals.bytes,
        });
    }
    let writer = PoolWriter::new(&session, SpacePolicy::KeepReserve)?;
    let run = walk::Run::new(&session, &writer, options, base.as_ref(), monitor)?;
    let walked = run.walk(root_stat, root)?;
    let finished = pool.world().clock.now();
    let Node::Directory { tree, files: _, bytes: _ } = walked.root.node else {
        unreachable!("the root of a source is a directory");
    };
    let mut report = BackupReport {
        point: None,
        base: base.as_ref().map(Manifest::point_id),
        started,
        finished,
        totals: walked.totals,
        entries_new: walked.entries_new,
        entries_changed: walked.entries_changed,
        entries_unchanged: walked.entries_unchanged,
        problems: walked.problems,
        problem_count: walked.problem_count,
    };
    if options.dry_run {
        return Ok(report);
    }
    let failed = |error| Error::SourceFailed {
        name: options.source.clone(),
        cause: std::io::Error::other(error),
    };
    let detail = source.finish().map_err(failed)?;
    for (path, error) in source.doubts() {
        report.problem_count += 1;
        push_bounded(
            &mut report.problems,
            Problem { path, kind: error.kind, message: error.message },
        );
    }
    monitor.event(Event::Stage("committing"));
    if !simulated::makes(Mistake::PointBeforePacks) {
        writer.flush()?;
    }
    let stored = writer.stored();
    report.totals.bytes_new = stored.raw_bytes;
    report.totals.bytes_stored = stored.stored_bytes;
    report.totals.chunks_new = stored.chunks;
    let manifest = Manifest {
        nonce: random_bytes(&*pool.world().entropy),
        pool: pool.id(),
        started,
        finished,
        host: options.host.clone(),
        group: options.group.clone(),
        source: options.source.clone(),
        workload: source.workload().to_string(),
        paths: source.paths(),
        program: options.program.clone(),
        base: report.base,
        totals: report.totals,
        owners: source.owners(&walked.users, &walked.groups),
        problems: report.problems.iter().take(PROBLEMS_LIMIT).cloned().collect(),
        problem_count: report.problem_count,
        detail,
        set: options.set,
        root: tree,
        root_entry: walked.root,
    };
    let relied_on: Vec<PackNo> = walked.relied_on.into_iter().collect();
    report.point = Some(commit(&session, &writer, &manifest, &options.tags, &relied_on)?);
    // The disk may have become short by what was just written.
    pool.keep_ballast();
    Ok(report)
}

// The newest point of the series, if it exists still when the session relies on it.
fn choose_base(session: &Session, options: &BackupOptions) -> Result<Option<Manifest>> {
    let pool = session.pool();
    let Some(newest) = pool.catalog().newest(&options.group, &options.source)? else {
        return Ok(None);
    };
    if !session.rely_on(newest)? {
        return Ok(None);
    }
    match pool.manifest(newest) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.is_damage() => {
            tracing::warn!(point = %newest, %error, "everything is read: the base point is damaged");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

// Everything the manifest refers to is durable and indexed. Manifest chunk, point file (the commit), catalog row.
fn commit(
    session: &Session,
    writer: &PoolWriter,
    manifest: &Manifest,
    tags: &[String],
    relied_on: &[PackNo],
) -> Result<PointId> {
    let pool = session.pool();
    let bytes = manifest.encode();
    let mut chunks = writer.chunk_writer()?;
    let (id, _) = chunks.put(ChunkKind::Manifest, &bytes)?;
    chunks.finish()?;
    let unflushed = simulated::makes(Mistake::PointBeforePacks);
    if !unflushed {
        writer.flush()?;
    }
    let point = PointId::from(id);
    let notes = Notes { tags: tags.to_vec(), ..Notes::default() };
    for files in pool.point_files() {
        if notes != Notes::default() {
            files.write_notes(point, &notes, &pool.temporary(files.directory))?;
        }
        files.write(point, &bytes, &pool.temporary(files.directory))?;
    }
    if unflushed {
        writer.flush()?;
    }
    pool.catalog().add(&Point::of(point, manifest, notes), relied_on)?;
    Ok(point)
}

/// Keeps the list of problems within its bound.
pub(crate) fn push_bounded(problems: &mut Vec<Problem>, problem: Problem) {
    if problems.len() < PROBLEMS_LIMIT {
        problems.push(problem);
    }
}
