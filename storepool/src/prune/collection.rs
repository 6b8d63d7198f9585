//! One run of garbage collection: what must stay is marked, what need not is condemned, what nobody can be using any more is removed.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{ChunkKind, PointId};
use crate::index::{PackNo, PackRow, RowSum, SessionNo};
use crate::monitor::{Event, Monitor};
use crate::pack::Toc;
use crate::pool::{Pool, Session};
use crate::prune::plan::{PackUse, Standing};
use crate::reach::Reach;
use crate::simulated::{self, Mistake};
use crate::space::drop_ballast;

/// How often a condemnation is tried again because points appeared meanwhile; each time only what is new is marked.
const ATTEMPTS_MOST: usize = 32;
/// Chunk rows removed in one transaction: other processes wait for it.
const CHUNKS_REMOVED_TOGETHER: u64 = 100_000;
/// Packs removed in one transaction.
const PACKS_REMOVED_TOGETHER: usize = 128;

/// What was removed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) packs: u64,
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
}

/// A run that has marked everything that points and sessions need.
pub(crate) struct Collection<'a> {
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) session: &'a Session,
    pub(crate) reach: Reach<'a>,
    pub(crate) monitor: &'a dyn Monitor,
    pub(crate) removed: Removed,
    // The packs there were before anything was marked: of others nothing is known.
    rows: Vec<PackRow>,
    // Packs from this number on may belong to points that do not exist yet.
    first_in_use: PackNo,
    // Proved when a chunk was not found.
    index_is_complete: bool,
}

impl<'a> Collection<'a> {
    /// Marks what all points and all live sessions need.
    ///
    /// # Errors
    /// Damage, if it cannot be known what some point needs: then nothing may be deleted.
    pub(crate) fn begin(session: &'a Session, monitor: &'a dyn Monitor) -> Result<Self> {
        let pool = session.pool();
        // Packs before sessions: a pack that a session writes after its row was read is not among these.
        let rows = pool.index().packs()?;
        let mut collection = Self {
            pool,
            session,
            reach: Reach::watching_doubles(session)?,
            monitor,
            removed: Removed::default(),
            rows,
            first_in_use: PackNo(i64::MAX),
            index_is_complete: false,
        };
        monitor.event(Event::Stage("marking chunks"));
        monitor.event(Event::Counting("chunks"));
        let chunks = collection.rows.iter().map(|row| row.chunks).sum();
        monitor.event(Event::Expected { items: chunks, bytes: 0 });
        collection.look_around()?;
        Ok(collection)
    }

    // Finds out who is alive, then which points there are, in this order: a point of a session that has just died is seen. Marks
    // what is new. Returns the oldest live session.
    fn look_around(&mut self) -> Result<SessionNo> {
        let mut dead = Vec::new();
        let mut oldest = SessionNo(i64::MAX);
        let mut points = BTreeSet::new();
        for session in self.pool.index().sessions()? {
            if session.no == self.session.no() {
                continue;
            }
            if simulated::makes(Mistake::PruneIgnoresSessions)
                || !self.pool.locks().is_alive(&session.lock)?
            {
                dead.push(session.no);
                continue;
            }
            oldest = oldest.min(session.no);
            self.first_in_use = self.first_in_use.min(session.first_pack);
            points.extend(session.base);
        }
        self.pool.index().end_sessions(&dead)?;
        points.extend(self.pool.points()?.iter().map(|point| point.id));
        points.extend(existing_points(self.pool)?);
        self.mark(&points.into_iter().collect::<Vec<_>>())?;
        Ok(oldest)
    }

    fn mark(&mut self, points: &[PointId]) -> Result<()> {
        self.reach.mark_points(points, self.monitor)?;
        if self.reach.is_complete() {
            self.reach.settle_doubles()?;
            return self.require_complete_index();
        }
        let hole = self.reach.holes().iter().find(|hole| hole.kind != ChunkKind::Data);
        let hole = hole.or(self.reach.holes().first());
        let (object, detail) = hole.map_or(("a tree".to_string(), String::new()), |hole| {
            (format!("{:?} {}", hole.kind, hole.chunk.short()).to_lowercase(), hole.detail.clone())
        });
        Err(Error::damaged(
            object,
            format!("{detail}; nothing may be deleted while it is not known what a point needs"),
        ))
    }

    // A chunk that was not found is lost, or the index does not list it: then its pack would look unneeded.
    fn require_complete_index(&mut self) -> Result<()> {
        if self.index_is_complete || self.reach.hole_count() == 0 {
            return Ok(());
        }
        let survey = self.pool.index().survey()?;
        for row in &survey.packs {
            if self.pool.directory_path(row.directory).is_none() {
                continue;
            }
            match self.pool.open_pack(row) {
                Ok(pack) => {
                    let sum = survey.sums.get(&row.no).copied().unwrap_or_default();
                    if sum != RowSum::of(row.no, pack.toc()) {
                        return Err(Error::damaged(
                            "the pool's index",
                            format!(
                                "it does not list all chunks of pack {}; nothing may be deleted by it",
                                row.id.short()
                            ),
                        ));
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        self.index_is_complete = true;
        Ok(())
    }

    /// Returns what is known of each pack.
    pub(crate) fn pack_uses(&self) -> Result<Vec<PackUse>> {
        self.rows.iter().map(|row| self.pack_use(row)).collect()
    }

    fn pack_use(&self, row: &PackRow) -> Result<PackUse> {
        let needed_chunks = self.reach.marks().count(row.no);
        let mut standing = match row.condemned_after {
            Some(_) => Standing::Condemned,
            None if row.no >= self.first_in_use => Standing::InUse,
            None => Standing::Free,
        };
        let mut unused_bytes = if needed_chunks == 0 { row.length } else { 0 };
        if self.pool.directory_path(row.directory).is_none()
            || self.reach.unreadable_packs().contains(&row.no)
        {
            standing = Standing::Unreadable;
        } else if needed_chunks < row.chunks {
            match self.pool.open_pack(row) {
                Ok(pack) if needed_chunks > 0 => {
                    let used = pack.toc().share(self.reach.marks().ordinals(row.no));
                    unused_bytes = pack.length().saturating_sub(used.stored_bytes);
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => standing = Standing::Unreadable,
                Err(error) => return Err(error),
            }
        }
        Ok(PackUse {
            no: row.no,
            id: row.id,
            kind: row.kind,
            length: row.length,
            unused_bytes,
            chunks: row.chunks,
            needed_chunks,
            standing,
        })
    }

    /// Takes back those of `packs` that an earlier run condemned, and that are needed after all.
    pub(crate) fn pardon(&self, packs: &[PackNo]) -> Result<()> {
        for no in packs {
            self.pool.index().keep_after_all(*no)?;
        }
        if packs.is_empty() { Ok(()) } else { self.pool.refresh_packs() }
    }

    /// Condemns `packs`, except any that turns out to be needed by a point that appeared meanwhile.
    pub(crate) fn condemn(&mut self, packs: &[PackNo]) -> Result<()> {
        for _ in 0..ATTEMPTS_MOST {
            let unneeded: Vec<_> =
                packs.iter().copied().filter(|no| self.reach.marks().count(*no) == 0).collect();
            if unneeded.is_empty() {
                return Ok(());
            }
            let reach = &self.reach;
            let condemned = self.pool.index().condemn(&unneeded, |sessions, points| {
                points.iter().all(|point| reach.has_point(*point))
                    && sessions.iter().filter_map(|row| row.base).all(|base| reach.has_point(base))
            })?;
            if condemned {
                return self.pool.refresh_packs();
            }
            self.look_around()?;
        }
        Err(Error::Busy { holder: "backups that add points faster than prune can follow".into() })
    }

    /// Removes the condemned packs that no live session can be using. Those of others wait for a later run.
    pub(crate) fn sweep(&mut self) -> Result<()> {
        let oldest = self.look_around()?;
        let mut needed = Vec::new();
        let mut batch = Vec::new();
        let mut chunks = 0;
        for row in self.pool.index().packs()? {
            let Some(after) = row.condemned_after else { continue };
            if self.reach.marks().count(row.no) > 0 {
                needed.push(row.no);
                continue;
            }
            // GOING is less than any session: what a run that died began is finished.
            if after >= oldest || self.pool.directory_path(row.directory).is_none() {
                continue;
            }
            chunks += row.chunks;
            batch.push(row);
            if batch.len() >= PACKS_REMOVED_TOGETHER || chunks >= CHUNKS_REMOVED_TOGETHER {
                self.remove(&std::mem::take(&mut batch))?;
                chunks = 0;
            }
        }
        self.remove(&batch)?;
        self.pardon(&needed)
    }

    // Files first, rows after: a row without a file is dropped by the next who opens the pool, a file without a row would be taken in again by
    // a process that opens it now, and chunks found there would be relied on while it goes.
    fn remove(&mut self, rows: &[PackRow]) -> Result<()> {
        let mut tables: HashMap<PackNo, Arc<Toc>> = HashMap::new();
        for row in rows {
            match self.pool.open_pack(row) {
                Ok(pack) => {
                    tables.insert(row.no, pack.toc().clone());
                }
                // A run that died had removed the file already.
                Err(Error::PackMissing { .. }) if row.is_going() => {}
                // What it holds is not known any more: it stays for `repair`.
                Err(error) if error.is_damage() => {
                    tracing::warn!(pack = %row.id, %error, "a condemned pack cannot be read and stays");
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        let readable: Vec<_> =
            rows.iter().filter(|row| tables.contains_key(&row.no) || row.is_going()).collect();
        let numbers: Vec<_> = readable.iter().map(|row| row.no).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let reach = &self.reach;
        let going = self.pool.index().begin_removal(&numbers, |_, points| {
            points.iter().all(|point| reach.has_point(*point))
        })?;
        let mut dirty = BTreeSet::new();
        let mut gone = Vec::new();
        for row in readable.into_iter().filter(|row| going.contains(&row.no)) {
            self.pool.close_pack(row.no);
            let Some(path) = self.pool.pack_file(row) else { continue };
            remove_file(self.pool, &path)?;
            dirty.extend(path.parent().map(Path::to_path_buf));
            self.removed.packs += 1;
            self.removed.bytes += row.length;
            self.removed.chunks += row.chunks;
            self.monitor.event(Event::Done { items: 1, bytes: row.length });
            gone.push((row.no, tables.remove(&row.no)));
        }
        for directory in &dirty {
            let sync = self.pool.world().disk.sync_directory(directory);
            sync.map_err(Error::io("sync", directory))?;
        }
        self.pool.index().remove_packs(&gone)
    }

    /// Returns how many packs are condemned but could not be removed, and their bytes.
    pub(crate) fn waiting(&self) -> Result<(u64, u64)> {
        let rows = self.pool.index().packs()?;
        let waiting = rows.iter().filter(|row| row.condemned_after.is_some());
        Ok(waiting.fold((0, 0), |(packs, bytes), row| (packs + 1, bytes + row.length)))
    }
}

/// Runs `action`; if the disk is full, drops the ballast of every directory and runs it once more.
pub(crate) fn with_ballast<T>(pool: &Pool, mut action: impl FnMut() -> Result<T>) -> Result<T> {
    match action() {
        Err(Error::NoSpace { .. }) if drop_all_ballast(pool) => action(),
        result => result,
    }
}

/// Removes the ballast of every directory. Returns whether there was any.
pub(crate) fn drop_all_ballast(pool: &Pool) -> bool {
    let directories: Vec<PathBuf> = pool.present_paths().map(Path::to_path_buf).collect();
    directories.iter().filter(|path| drop_ballast(&*pool.world().disk, path)).count() > 0
}

/// Returns the points that have a file and no forgotten mark in the directories that are there, whether the catalog knows them or not.
pub(crate) fn existing_points(pool: &Pool) -> Result<BTreeSet<PointId>> {
    let mut points = BTreeSet::new();
    let mut forgotten = BTreeSet::new();
    for files in pool.point_files() {
        let names = files.names()?;
        points.extend(names.points);
        forgotten.extend(names.forgotten);
    }
    points.retain(|point| !forgotten.contains(point));
    Ok(points)
}

fn remove_file(pool: &Pool, path: &Path) -> Result<()> {
    match pool.world().disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
