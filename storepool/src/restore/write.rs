//! Writing a batch: frames in pack order, each decoded once and given to all files that need it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunks::ChunkReader;
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::restore::batch::{Batch, FileTask, Piece};
use crate::restore::desk::Desk;
use crate::restore::entries::{make_other, make_retouch};
use crate::restore::reading::{FrameQueue, Reading};
use crate::restore::run::Run;
use crate::restore::workers::{Stage, Worker};
use crate::target::parts::Part;

/// Small jobs taken at a time.
const SHARE: usize = 16;

/// Decodes frames and writes files.
pub(super) struct WriteStage<'a> {
    run: &'a Run<'a>,
    batch: Arc<Batch>,
    frames: FrameQueue,
    odd_jobs: AtomicUsize,
}

impl<'a> WriteStage<'a> {
    pub(super) fn new(
        run: &'a Run<'a>,
        batch: Arc<Batch>,
        reading: Reading,
        workers: usize,
    ) -> Self {
        let frames = FrameQueue::new(reading, workers);
        Self { run, batch, frames, odd_jobs: AtomicUsize::new(0) }
    }

    fn write_frame(&self, worker: &mut Worker<'_>, pieces: Range<usize>) -> Result<()> {
        let batch = &*self.batch;
        let order = &batch.order[pieces];
        let Worker { reader, desk, .. } = worker;
        let mut missed = Vec::new();
        match reader.read_frame(order[0].pack, order[0].frame) {
            Ok(frame) => {
                let mut parts: Vec<Part<'_>> = Vec::new();
                let file_of = |number: u32| batch.pieces[number as usize].file;
                for group in order.chunk_by(|one, other| file_of(one.piece) == file_of(other.piece))
                {
                    parts.clear();
                    for placed in group.iter().filter(|placed| !batch.is_present(placed.piece)) {
                        let piece = &batch.pieces[placed.piece as usize];
                        let chunk = &batch.chunks[piece.chunk as usize];
                        let place = batch.placements[piece.chunk as usize].as_ref();
                        match place.and_then(|place| frame.chunk(place, &chunk.id)) {
                            Some(bytes) => parts.push((piece.offset, part_of(piece, bytes))),
                            None => missed.push(placed.piece),
                        }
                    }
                    if !parts.is_empty() {
                        desk.put(&batch.files[file_of(group[0].piece) as usize], &parts)?;
                    }
                }
            }
            Err(error) if error.is_damage() => {
                missed.extend(order.iter().map(|placed| placed.piece));
            }
            Err(error) => return Err(error),
        }
        for piece in missed {
            self.write_fetched(&**reader, desk, piece)?;
        }
        desk.report_done();
        Ok(())
    }

    // A piece whose chunk is not where it should be: other copies are tried.
    fn write_fetched(
        &self,
        reader: &dyn ChunkReader,
        desk: &mut Desk<'_>,
        number: u32,
    ) -> Result<()> {
        let piece = &self.batch.pieces[number as usize];
        if self.batch.is_present(number) {
            return Ok(());
        }
        let file: &Arc<FileTask> = &self.batch.files[piece.file as usize];
        let chunk = &self.batch.chunks[piece.chunk as usize];
        let fetched = reader.fetch(chunk.id, ChunkKind::Data).and_then(|bytes| {
            if bytes.len() == chunk.length as usize {
                return Ok(bytes);
            }
            let object = format!("chunk {}", chunk.id.short());
            Err(Error::damaged(object, "has another length than its file says"))
        });
        match fetched {
            Ok(bytes) => desk.put(file, &[(piece.offset, part_of(piece, &bytes))]),
            Err(error) if error.is_damage() => {
                desk.fail(file, error.to_string());
                desk.release(file, 1)
            }
            Err(error) => Err(error),
        }
    }

    fn odd_job(&self, worker: &mut Worker<'_>, number: usize) -> Result<bool> {
        let batch = &*self.batch;
        let Worker { reader, desk, .. } = worker;
        let mut number = number;
        if let Some(piece) = batch.unplaced.get(number) {
            self.write_fetched(&**reader, desk, *piece)?;
            return Ok(true);
        }
        number -= batch.unplaced.len();
        if let Some(file) = batch.planned.get(number) {
            desk.release(file, 1)?;
            return Ok(true);
        }
        number -= batch.planned.len();
        if let Some(task) = batch.others.get(number) {
            make_other(desk, task)?;
            return Ok(true);
        }
        number -= batch.others.len();
        if let Some(task) = batch.retouches.get(number) {
            make_retouch(desk, task)?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl Stage for WriteStage<'_> {
    fn give_up(&self) {
        self.frames.give_up();
    }

    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        while let Some(pieces) = self.frames.next(worker.number) {
            self.run.check()?;
            self.write_frame(worker, pieces)?;
        }
        loop {
            self.run.check()?;
            let first = self.odd_jobs.fetch_add(SHARE, Ordering::Relaxed);
            for number in first..first + SHARE {
                if !self.odd_job(worker, number)? {
                    worker.desk.report_done();
                    return Ok(());
                }
            }
            worker.desk.report_done();
        }
    }
}

fn part_of<'b>(piece: &Piece, chunk: &'b [u8]) -> &'b [u8] {
    &chunk[piece.chunk_offset as usize..][..piece.length as usize]
}
