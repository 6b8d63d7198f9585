//! Copying what is needed out of packs that are to go.
//!
//! A frame that is needed whole is copied as it is; of others the needed chunks are gathered into new frames. Either way every chunk is decoded and compared
//! with its name before the copy counts. A chunk that cannot be read stays where it is, and its pack with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::index::{DirectoryNo, PackNo};
use crate::marks::Marks;
use crate::monitor::{Event, Monitor};
use crate::pack::PackKind;
use crate::pack::frame::{FrameCodec, SealedFrame, verify_chunks};
use crate::pack::reader::PackReader;
use crate::pool::Pool;
use crate::prune::collection::{Collection, drop_all_ballast};
use crate::prune::plan::PackUse;
use crate::simulated;
use crate::writer::{
    ChunkWriter, DATA_FRAME_LENGTH, METADATA_FRAME_LENGTH, PoolWriter, SpacePolicy, Stored,
};

/// Bytes that are copied before the packs they come from are given up: what a full disk must have room for.
const BATCH_BYTES: u64 = 64 << 20;
/// Chunks copied together: their ids are held in memory.
const BATCH_CHUNKS: u64 = 1 << 19;
/// Most threads that copy.
const THREADS_MOST: usize = 8;
/// A frame shorter than this part of a full one is gathered with others instead of copied as it is.
const SHORT_FRAME_SHARE: usize = 2;

/// A pack to be copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) no: PackNo,
    pub(crate) needed_bytes: u64,
    pub(crate) needed_chunks: u64,
}

impl Leaving {
    pub(crate) fn of(pack: &PackUse) -> Self {
        Self {
            no: pack.no,
            needed_bytes: pack.length.saturating_sub(pack.unused_bytes),
            needed_chunks: pack.needed_chunks,
        }
    }
}

/// What became of the packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repacked {
    /// Packs copied and condemned.
    pub(crate) packs: u64,
    /// What was written.
    pub(crate) stored: Stored,
    /// Whether the disk was too full to go on.
    pub(crate) stopped: bool,
}

struct FrameJob {
    no: PackNo,
    frame: u32,
}

impl Collection<'_> {
    /// Copies what is needed of `packs` to other packs (`avoid`: not into that directory) and condemns and removes them, in batches, each complete
    /// before the next begins. Ends early, without an error, when the disk has no room for one more.
    pub(crate) fn repack(
        &mut self,
        packs: &[Leaving],
        avoid: Option<DirectoryNo>,
    ) -> Result<Repacked> {
        let mut repacked = Repacked::default();
        let mut batch_bytes = BATCH_BYTES;
        // What needs least room goes first: it makes room for the others.
        let mut packs = packs.to_vec();
        packs.sort_by_key(|pack| pack.needed_bytes);
        let mut rest = packs.as_slice();
        while !rest.is_empty() {
            if self.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            let (batch, after) = rest.split_at(batch_length(rest, batch_bytes));
            match self.repack_batch(batch, avoid, &mut repacked) {
                Ok(()) => rest = after,
                // Fewer at a time need less room; what was dropped or removed meanwhile helps too.
                Err(Error::NoSpace { .. }) if batch.len() > 1 || drop_all_ballast(self.pool) => {
                    batch_bytes = 0;
                    self.sweep()?;
                }
                Err(Error::NoSpace { .. }) => {
                    self.sweep()?;
                    repacked.stopped = true;
                    return Ok(repacked);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(repacked)
    }

    fn repack_batch(
        &mut self,
        batch: &[Leaving],
        avoid: Option<DirectoryNo>,
        repacked: &mut Repacked,
    ) -> Result<()> {
        let writer = PoolWriter::avoiding(self.session, SpacePolicy::UseReserve, avoid)?;
        let copier = Copier { pool: self.pool, marks: self.reach.marks(), monitor: self.monitor };
        let copied = copier.copy(batch, &writer).and_then(|()| writer.flush());
        let stored = writer.stored();
        let made = writer.made();
        drop(writer);
        self.pool.refresh_packs()?;
        // Also after a failure: some packs of the batch may have been copied whole, and copies nobody needs are removed again.
        let leaving: Vec<_> = batch.iter().map(|pack| pack.no).collect();
        let staying = self.reach.move_marks(&leaving)?;
        let unneeded: Vec<_> = leaving.iter().chain(&made).copied().collect();
        self.condemn(&unneeded)?;
        self.sweep()?;
        copied?;
        repacked.packs += (leaving.len() - staying.len()) as u64;
        repacked.stored.chunks += stored.chunks;
        repacked.stored.raw_bytes += stored.raw_bytes;
        repacked.stored.stored_bytes += stored.stored_bytes;
        repacked.stored.packs += stored.packs;
        Ok(())
    }
}

/// Copies the marked chunks of packs; shared by threads.
struct Copier<'a> {
    pool: &'a Pool,
    marks: &'a Marks,
    monitor: &'a dyn Monitor,
}

impl Copier<'_> {
    fn copy(&self, batch: &[Leaving], writer: &PoolWriter) -> Result<()> {
        let mut jobs = Vec::new();
        for pack in batch {
            let toc = self.open(pack.no)?.1.toc().clone();
            let mut last = None;
            for ordinal in self.marks.ordinals(pack.no) {
                let slot = toc.slot(ordinal).expect("only confirmed places are marked");
                if last != Some(slot.frame) {
                    jobs.push(FrameJob { no: pack.no, frame: slot.frame });
                    last = Some(slot.frame);
                }
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = simulated::threads(threads);
        let threads = threads.min(THREADS_MOST).min(jobs.len()).max(1);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (jobs, next) = (&jobs, &next);
            let running: Vec<_> = (0..threads)
                .map(|_| scope.spawn(move || self.copy_frames(jobs, next, writer)))
                .collect();
            for thread in running {
                thread.join().map_err(|_| Error::WorkerPanicked { stage: "copying packs" })??;
            }
            Ok(())
        })
    }

    fn open(&self, no: PackNo) -> Result<(PackKind, Arc<PackReader>)> {
        let row = self.pool.pack_row(no)?;
        let row = row.ok_or_else(|| {
            Error::damaged(format!("pack number {}", no.0), "is not in the index")
        })?;
        Ok((row.kind, self.pool.open_pack(&row)?))
    }

    fn copy_frames(
        &self,
        jobs: &[FrameJob],
        next: &AtomicUsize,
        writer: &PoolWriter,
    ) -> Result<()> {
        let mut chunks = writer.chunk_writer()?;
        let mut codec = FrameCodec::new(self.pool.options().compression_level)?;
        let mut stored = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if self.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            match self.copy_frame(job, &mut stored, &mut codec, &mut chunks) {
                // Nothing of it counts as copied, so its pack stays.
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "a frame cannot be copied");
                }
                result => result?,
            }
        }
        chunks.finish().map(|_| ())
    }

    fn copy_frame(
        &self,
        job: &FrameJob,
        stored: &mut Vec<u8>,
        codec: &mut FrameCodec,
        writer: &mut ChunkWriter,
    ) -> Result<()> {
        let (kind, pack) = self.open(job.no)?;
        let entry = pack.toc().frames()[job.frame as usize];
        let (first, chunks) = pack.toc().chunks_of(job.frame).expect("the frame is in the table");
        let decoded = pack.read_frame(job.frame, stored, codec)?;
        let end = first + chunks.len() as u32;
        let ordinals = self.marks.ordinals_from(job.no, first);
        let needed: Vec<_> = ordinals.take_while(|ordinal| *ordinal < end).collect();
        let share = pack.toc().share(needed.iter().copied());
        self.monitor.event(Event::Done { items: share.chunks, bytes: share.stored_bytes });
        let full = match kind {
            PackKind::Data => DATA_FRAME_LENGTH,
            PackKind::Metadata => METADATA_FRAME_LENGTH,
        };
        if needed.len() == chunks.len() && decoded.len() >= full / SHORT_FRAME_SHARE {
            verify_chunks(chunks, decoded)
                .map_err(|chunk| Error::ChunkDamaged { chunk, pack: pack.id() })?;
            return writer.put_frame(kind, &SealedFrame { entry, stored }, chunks);
        }
        let mut offset = 0;
        let mut needed = needed.into_iter().peekable();
        for (chunk, ordinal) in chunks.iter().zip(first..) {
            let bytes = &decoded[offset..offset + chunk.length as usize];
            offset += chunk.length as usize;
            // The codec compares the chunk with its name when the new frame is sealed, but that failure would end the run.
            if needed.next_if_eq(&ordinal).is_some() {
                if ChunkId::of(chunk.kind, bytes) == chunk.id {
                    writer.put_again(chunk.id, chunk.kind, bytes)?;
                } else {
                    tracing::warn!(chunk = %chunk.id, pack = %pack.id(), "a damaged chunk cannot be copied");
                }
            }
        }
        Ok(())
    }
}

fn batch_length(packs: &[Leaving], most_bytes: u64) -> usize {
    let (mut bytes, mut chunks) = (0, 0);
    let fits = |pack: &&Leaving| {
        bytes += pack.needed_bytes;
        chunks += pack.needed_chunks;
        bytes <= most_bytes && chunks <= BATCH_CHUNKS
    };
    packs.iter().take_while(fits).count().max(1)
}
