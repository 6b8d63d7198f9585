//! Reach: every chunk that a set of points needs, trees first. Used by prune, check, stats and sync.
//!
//! Memory is bounded by one bit for each chunk of the pool and by batches: trees wait in a stack, are located in the order of the index and
//! read in the order of their packs, a tree that was marked before is not read again. What cannot be found or read becomes a [`Hole`] and the walk goes
//! on; who may not live with holes ([`crate::prune`]) looks at them before it acts.

mod doubles;
mod nodes;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PointId, TreeId};
use crate::index::{PackNo, Place};
use crate::locator::Locator;
use crate::manifest::Manifest;
use crate::marks::Marks;
use crate::monitor::{Event, Monitor};
use crate::pack::reader::PackReader;
use crate::pack::{ChunkEntry, Slot};
use crate::pool::{Pool, Session};
use crate::reach::nodes::{FrameJob, Harvest, Want, Worker};
use crate::simulated;
use crate::tree::{ChunkRef, ListRef};

/// Trees (or lists) that are located and read together.
const NODE_BATCH: usize = 1 << 14;
/// Bytes of nodes that are read together; 34 bytes of them name one chunk.
const NODE_BYTES: u64 = 16 << 20;
/// Chunks of content that are located together; 36 bytes each, and as much again while they are being located.
const DATA_BATCH: usize = 1 << 19;
/// Most holes that are listed; the count goes on.
pub const HOLES_LIMIT: usize = 10_000;
/// Packs that are open at the same time while nodes are read.
const PACKS_TOGETHER: usize = 64;
/// Most threads that decode trees.
const THREADS_MOST: usize = 8;
/// Frames below which another thread is not worth its start.
const FRAMES_PER_THREAD: usize = 8;

/// A chunk that a point needs and the pool does not have, or has only in damaged form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The chunk.
    pub chunk: ChunkId,
    /// What it would hold.
    pub kind: ChunkKind,
    /// What is wrong, for people.
    pub detail: String,
}

/// A chunk that some point needs, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its place.
    pub place: Place,
    /// Its entry in the pack's table of contents.
    pub entry: ChunkEntry,
}

/// The chunks that a growing set of points needs.
#[derive(Debug)]
pub struct Reach<'a> {
    pool: &'a Pool,
    locator: Locator<'a>,
    marks: Marks,
    points: HashSet<PointId>,
    trees: Vec<TreeId>,
    lists: Vec<ListRef>,
    data: Vec<ChunkRef>,
    holes: Vec<Hole>,
    hole_count: u64,
    node_holes: u64,
    // Chunks with several places: the marked one and another. Only for who deletes.
    doubles: Vec<(Place, Place)>,
    workers: Vec<Worker>,
}

impl<'a> Reach<'a> {
    /// Creates the reach of no point. The session keeps prune from taking away what is being walked.
    pub fn new(session: &'a Session) -> Result<Self> {
        let pool: &Pool = session.pool();
        Ok(Self {
            pool,
            locator: Locator::new(pool)?,
            marks: Marks::default(),
            points: HashSet::new(),
            trees: Vec::new(),
            lists: Vec::new(),
            data: Vec::new(),
            holes: Vec::new(),
            hole_count: 0,
            node_holes: 0,
            doubles: Vec::new(),
            workers: Vec::new(),
        })
    }

    /// Creates a reach that remembers where there are several copies of a chunk, for [`Reach::settle_doubles`].
    pub(crate) fn watching_doubles(session: &'a Session) -> Result<Self> {
        let mut reach = Self::new(session)?;
        reach.locator.watch_others();
        Ok(reach)
    }

    /// Marks what `points` need, their manifests included. Points that are marked already cost nothing.
    ///
    /// # Errors
    /// Damage and missing chunks become [`Reach::holes`]; errors are failures to look: [`Error::Io`], [`Error::Index`], [`Error::Interrupted`].
    pub fn mark_points(&mut self, points: &[PointId], monitor: &dyn Monitor) -> Result<()> {
        let mut manifests = Vec::new();
        let new: Vec<_> = points.iter().filter(|point| !self.points.contains(*point)).collect();
        for point in &new {
            let point: &PointId = point;
            match manifest_of(self.pool, &self.locator, *point) {
                Ok(manifest) => self.trees.push(manifest.root),
                Err(error) if is_hole(&error) => {
                    self.note_hole((*point).into(), ChunkKind::Manifest, error.to_string());
                    self.node_holes += 1;
                }
                Err(error) => return Err(error),
            }
            manifests.push(ChunkRef { id: (*point).into(), length: 0 });
        }
        self.mark_chunks(&mut manifests, ChunkKind::Manifest, monitor)?;
        self.walk(monitor)?;
        self.points.extend(new);
        Ok(())
    }

    /// Returns whether this point has been walked.
    pub fn has_point(&self, point: PointId) -> bool {
        self.points.contains(&point)
    }

    /// Returns the places of all chunks found so far.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Returns the places, giving up everything else that is known.
    pub fn into_marks(self) -> Marks {
        self.marks
    }

    /// Returns what is missing or damaged, the first [`HOLES_LIMIT`] of [`Reach::hole_count`].
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Returns how many chunks are missing or damaged.
    pub fn hole_count(&self) -> u64 {
        self.hole_count
    }

    /// Returns whether every tree, list and manifest was read, so that everything the points need is known.
    pub fn is_complete(&self) -> bool {
        self.node_holes == 0
    }

    /// Returns packs met on the way whose tables of contents cannot be used.
    pub fn unreadable_packs(&self) -> &HashSet<PackNo> {
        self.locator.unreadable()
    }

    /// Returns all chunks found so far in the order of packs and of chunks in them.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Reached>> + '_ {
        self.marks.packs().flat_map(move |no| {
            let (failure, pack) = match open_pack(self.pool, no) {
                Ok(pack) => (None, Some(pack)),
                Err(error) => (Some(Err(error)), None),
            };
            let found = pack.into_iter().flat_map(move |pack| {
                self.marks.ordinals(no).map(move |ordinal| {
                    let entry = pack.toc().chunks()[ordinal as usize];
                    Ok(Reached { place: Place { pack: no, ordinal }, entry })
                })
            });
            failure.into_iter().chain(found)
        })
    }

    /// Looks again for the chunks marked in `packs`, which have been copied, and moves the marks to the copies. Returns the packs that keep marks because
    /// some chunk was found nowhere else.
    pub(crate) fn move_marks(&mut self, packs: &[PackNo]) -> Result<Vec<PackNo>> {
        let mut wanted = Vec::new();
        for no in packs {
            let pack = open_pack(self.pool, *no)?;
            wanted.extend(self.marks.ordinals(*no).map(|ordinal| {
                let entry = pack.toc().chunks()[ordinal as usize];
                ChunkRef { id: entry.id, length: entry.length }
            }));
        }
        self.locator.leave(packs.iter().copied());
        // Before any mark is taken away: a failure here must leave the old packs needed.
        let places = self.locator.locate(&mut wanted)?;
        if let Some(lost) = wanted.iter().zip(&places).find(|(_, place)| place.is_none()) {
            return Err(Error::ChunkMissing { chunk: lost.0.id });
        }
        for no in packs {
            self.marks.clear(*no);
        }
        for place in places.into_iter().flatten() {
            self.marks.set(place);
        }
        let staying: Vec<_> =
            packs.iter().copied().filter(|no| self.marks.count(*no) > 0).collect();
        self.locator.stay(&staying);
        Ok(staying)
    }

    fn walk(&mut self, monitor: &dyn Monitor) -> Result<()> {
        loop {
            if monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            if self.data.len() >= DATA_BATCH {
                self.flush_data(monitor)?;
            }
            // Lists before more trees: both stacks stay short.
            if !self.lists.is_empty() && (self.lists.len() >= NODE_BATCH || self.trees.is_empty()) {
                let from = self.lists.len().saturating_sub(NODE_BATCH);
                let batch = self.lists.split_off(from);
                let nodes = batch.iter().map(|list| (list.id, list.span)).collect();
                self.read_nodes(nodes, ChunkKind::List, monitor)?;
            } else if !self.trees.is_empty() {
                let from = self.trees.len().saturating_sub(NODE_BATCH);
                let nodes = self.trees.split_off(from).into_iter().map(|id| (id, 0)).collect();
                self.read_nodes(nodes, ChunkKind::Tree, monitor)?;
            } else {
                return self.flush_data(monitor);
            }
        }
    }

    fn flush_data(&mut self, monitor: &dyn Monitor) -> Result<()> {
        let mut data = std::mem::take(&mut self.data);
        self.mark_chunks(&mut data, ChunkKind::Data, monitor)?;
        data.clear();
        self.data = data;
        Ok(())
    }

    fn mark_chunks(
        &mut self,
        wanted: &mut Vec<ChunkRef>,
        kind: ChunkKind,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let places = self.locator.locate(wanted)?;
        self.doubles.extend(self.locator.take_others());
        let mut fresh = 0;
        let mut bytes = 0;
        for (chunk, place) in wanted.iter().zip(places) {
            match place {
                Some(place) if self.marks.set(place) => {
                    fresh += 1;
                    bytes += u64::from(chunk.length);
                }
                Some(_) => {}
                None => self.note_hole(chunk.id, kind, missing(chunk.id)),
            }
        }
        monitor.event(Event::Done { items: fresh, bytes });
        Ok(())
    }

    fn note_hole(&mut self, chunk: ChunkId, kind: ChunkKind, detail: String) {
        self.hole_count += 1;
        if self.holes.len() < HOLES_LIMIT {
            self.holes.push(Hole { chunk, kind, detail });
        }
    }

    // Locates nodes of one kind, reads those that were not marked before, and puts what they refer to on the stacks.
    fn read_nodes(
        &mut self,
        mut nodes: Vec<(ChunkId, u64)>,
        kind: ChunkKind,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut wanted: Vec<_> =
            nodes.iter().map(|(id, _)| ChunkRef { id: *id, length: 0 }).collect();
        let places = self.locator.locate(&mut wanted)?;
        nodes.sort_unstable_by_key(|(id, _)| (id.prefix(), *id));
        nodes.dedup_by_key(|(id, _)| *id);
        let mut located = Vec::with_capacity(nodes.len());
        for ((id, span), place) in nodes.into_iter().zip(places) {
            match place {
                Some(place) if self.marks.set(place) => located.push((place, id, span)),
                Some(_) => {}
                None => {
                    self.node_holes += 1;
                    self.note_hole(id, kind, missing(id));
                }
            }
        }
        monitor.event(Event::Done { items: located.len() as u64, bytes: 0 });
        located.sort_unstable();
        let mut failed = Vec::new();
        let mut rest = located.as_slice();
        while !rest.is_empty() {
            let jobs = self.take_jobs(&mut rest, &mut failed)?;
            let mut jobs = jobs.as_slice();
            while !jobs.is_empty() {
                let (some, others) = jobs.split_at(readable_together(jobs));
                jobs = others;
                for harvest in self.harvest(some, kind)? {
                    failed.extend(self.take_harvest(harvest));
                }
                // Lists name far more than they weigh.
                if self.data.len() >= DATA_BATCH {
                    self.flush_data(monitor)?;
                }
            }
        }
        for (want, detail) in failed {
            self.rescue(want, kind, detail)?;
        }
        Ok(())
    }

    fn take_harvest(&mut self, harvest: Harvest) -> Vec<(Want, String)> {
        self.trees.extend(harvest.trees);
        self.lists.extend(harvest.lists);
        self.data.extend(harvest.data);
        harvest.failed
    }

    // Takes the nodes of the first packs off `rest`, grouped by frame.
    fn take_jobs(
        &self,
        rest: &mut &[(Place, ChunkId, u64)],
        failed: &mut Vec<(Want, String)>,
    ) -> Result<Vec<FrameJob>> {
        let mut jobs: Vec<FrameJob> = Vec::new();
        for _ in 0..PACKS_TOGETHER {
            let Some((first, ..)) = rest.first() else { break };
            let end = rest.partition_point(|(place, ..)| place.pack == first.pack);
            let (group, after) = rest.split_at(end);
            *rest = after;
            let want = |place: &Place, id: &ChunkId, span: &u64, slot| Want {
                place: *place,
                slot,
                id: *id,
                span: *span,
            };
            let pack = match open_pack(self.pool, first.pack) {
                Ok(pack) => pack,
                Err(error) if error.is_damage() => {
                    let nowhere = Slot { frame: 0, offset: 0, length: 0 };
                    let wants =
                        group.iter().map(|(place, id, span)| want(place, id, span, nowhere));
                    failed.extend(wants.map(|want| (want, error.to_string())));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let from = jobs.len();
            for (place, id, span) in group {
                let slot = pack.toc().slot(place.ordinal).expect("the place was confirmed");
                let want = want(place, id, span, slot);
                match jobs[from..].last_mut() {
                    Some(job) if job.frame == slot.frame => job.wants.push(want),
                    _ => {
                        let pack = pack.clone();
                        jobs.push(FrameJob { pack, frame: slot.frame, wants: vec![want] });
                    }
                }
            }
        }
        Ok(jobs)
    }

    fn harvest(&mut self, jobs: &[FrameJob], kind: ChunkKind) -> Result<Vec<Harvest>> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = simulated::threads(threads);
        let threads = threads.min(THREADS_MOST).min(jobs.len() / FRAMES_PER_THREAD).max(1);
        while self.workers.len() < threads {
            self.workers.push(Worker::new(self.pool.options().compression_level)?);
        }
        let next = AtomicUsize::new(0);
        let workers = &mut self.workers[..threads];
        if let [worker] = workers {
            return Ok(vec![worker.run(jobs, &next, kind)]);
        }
        std::thread::scope(|scope| {
            let next = &next;
            let running: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(move || worker.run(jobs, next, kind)))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread.join().map_err(|_| Error::WorkerPanicked { stage: "reading trees" })
                })
                .collect()
        })
    }

    // A node whose chosen copy cannot be read: any other copy will do, and is marked too.
    fn rescue(&mut self, want: Want, kind: ChunkKind, detail: String) -> Result<()> {
        let mut tried = vec![want.place.pack];
        let lookup = self.pool.index().lookup()?;
        while let Some(found) =
            self.pool.find_needed(&lookup, &want.id, |row| !tried.contains(&row.no))?
        {
            tried.push(found.place.pack);
            let job = FrameJob {
                pack: found.pack,
                frame: found.slot.frame,
                wants: vec![Want { place: found.place, slot: found.slot, ..want }],
            };
            let harvest = self.harvest(&[job], kind)?.pop().expect("one worker, one harvest");
            if self.take_harvest(harvest).is_empty() {
                self.marks.set(found.place);
                return Ok(());
            }
        }
        self.node_holes += 1;
        self.note_hole(want.id, kind, detail);
        Ok(())
    }
}

// How many of the first jobs may be read before what they name is worked off.
fn readable_together(jobs: &[FrameJob]) -> usize {
    let mut bytes = 0;
    let fits = |job: &&FrameJob| {
        bytes += job.wants.iter().map(|want| u64::from(want.slot.length)).sum::<u64>();
        bytes <= NODE_BYTES
    };
    jobs.iter().take_while(fits).count().max(1)
}

/// Returns the manifest of a point from its file or, if that is gone or damaged, from the packs.
fn manifest_of(pool: &Pool, locator: &Locator<'_>, point: PointId) -> Result<Manifest> {
    match pool.manifest(point) {
        Ok(manifest) => Ok(manifest),
        Err(error) => match locator.read(point.into(), ChunkKind::Manifest) {
            Ok(bytes) => Manifest::decode(&bytes)
                .map_err(|wire| Error::damaged(format!("manifest {}", point.short()), wire.0)),
            // The point file is where people can do something about it.
            Err(chunk) if is_hole(&chunk) => Err(error),
            Err(chunk) => Err(chunk),
        },
    }
}

// A file that cannot be read is as good as damaged: the point cannot be walked.
fn is_hole(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Io { .. } | Error::PointNotFound { .. })
}

fn missing(chunk: ChunkId) -> String {
    Error::ChunkMissing { chunk }.to_string()
}

fn open_pack(pool: &Pool, no: PackNo) -> Result<Arc<PackReader>> {
    let row = pool.pack_row(no)?;
    let row =
        row.ok_or_else(|| Error::damaged(format!("pack number {}", no.0), "is not in the index"))?;
    pool.open_pack(&row)
}
