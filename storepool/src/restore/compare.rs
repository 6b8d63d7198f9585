//! Comparing files of the target with the point, chunk by chunk, so that only what differs is read from the pool and written.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::Result;
use crate::id::{ChunkId, ChunkKind};
use crate::restore::batch::{Batch, Comparison, FileTask, Way};
use crate::restore::run::Run;
use crate::restore::workers::{Stage, Worker};
use crate::target::kind_of;

/// Zeros compared at a time.
const ZEROS_LENGTH: usize = 64 << 10;

/// Finds the pieces of a batch that are in the target already.
pub(super) struct CompareStage<'a> {
    run: &'a Run<'a>,
    batch: Arc<Batch>,
    next: AtomicUsize,
}

impl<'a> CompareStage<'a> {
    pub(super) fn new(run: &'a Run<'a>, batch: Arc<Batch>) -> Self {
        Self { run, batch, next: AtomicUsize::new(0) }
    }
}

impl Stage for CompareStage<'_> {
    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut buffer = Vec::new();
        let comparisons = &self.batch.comparisons;
        while let Some(comparison) = comparisons.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.run.check()?;
            let file = &self.batch.files[comparison.file as usize];
            let present = self.compare(worker, comparison, file, &mut buffer);
            // A file that is replaced is replaced as a whole.
            let usable = file.way == Way::Patched || !file.differs();
            let mut bytes = 0;
            for (number, _) in
                comparison.pieces.clone().zip(&present).filter(|(_, here)| **here && usable)
            {
                self.batch.present[number as usize].store(true, Ordering::Release);
                bytes += u64::from(self.batch.pieces[number as usize].length);
            }
            let dropped = present.iter().filter(|here| **here).count();
            if usable && dropped > 0 {
                worker.desk.count_present(bytes);
                worker.desk.release(file, dropped as u64)?;
            }
            worker.desk.report_done();
        }
        Ok(())
    }
}

impl CompareStage<'_> {
    // Tells for each piece whether its bytes are there.
    fn compare(
        &self,
        worker: &mut Worker<'_>,
        comparison: &Comparison,
        file: &Arc<FileTask>,
        buffer: &mut Vec<u8>,
    ) -> Vec<bool> {
        let mut present = vec![false; comparison.pieces.len()];
        let flags = match file.way {
            // Data in a hole is taken out at once.
            Way::Patched if !comparison.holes.is_empty() => OFlags::RDWR,
            _ => OFlags::RDONLY,
        };
        let opened = worker.desk.open(&file.spot, flags | OFlags::NONBLOCK, Mode::empty());
        let sound = opened.as_ref().is_ok_and(|handle| {
            rustix::fs::fstat(handle).is_ok_and(|stat| {
                let alone = file.way != Way::Patched || stat.st_nlink == 1;
                if stat.st_size as u64 != file.size {
                    file.differs.store(true, Ordering::Release);
                }
                kind_of(&stat) == FileType::RegularFile && alone
            })
        });
        let Some(handle) = opened.ok().filter(|_| sound) else {
            file.differs.store(true, Ordering::Release);
            return present;
        };
        let pieces =
            &self.batch.pieces[comparison.pieces.start as usize..comparison.pieces.end as usize];
        let mut start = 0;
        for group in pieces.chunk_by(|one, other| one.chunk == other.chunk) {
            let range = start..start + group.len();
            start = range.end;
            let chunk = &self.batch.chunks[group[0].chunk as usize];
            buffer.resize(chunk.length as usize, 0);
            let read = group.iter().all(|piece| {
                let room = &mut buffer[piece.chunk_offset as usize..][..piece.length as usize];
                read_exactly(handle.as_fd(), room, piece.offset)
            });
            let whole = group.iter().map(|piece| u64::from(piece.length)).sum::<u64>()
                == u64::from(chunk.length);
            if read && whole && ChunkId::of(ChunkKind::Data, buffer) == chunk.id {
                present[range].fill(true);
            } else {
                file.differs.store(true, Ordering::Release);
            }
        }
        for (offset, length) in &comparison.holes {
            if !is_empty(handle.as_fd(), *offset, *length) {
                file.differs.store(true, Ordering::Release);
                if file.way == Way::Patched
                    && let Err(errno) = empty(handle.as_fd(), *offset, *length)
                {
                    let message = format!("cannot make a hole: {}", std::io::Error::from(errno));
                    worker.desk.fail(file, message);
                }
            }
        }
        present
    }
}

fn read_exactly(file: BorrowedFd<'_>, mut room: &mut [u8], mut offset: u64) -> bool {
    while !room.is_empty() {
        match rustix::io::pread(file, &mut *room, offset) {
            Ok(0) => return false,
            Ok(length) => {
                room = &mut room[length..];
                offset += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

// Nothing but zeros is there, allocated or not; the end of the file may come before.
fn is_empty(file: BorrowedFd<'_>, offset: u64, length: u64) -> bool {
    let end = offset + length;
    let mut at = offset;
    let mut room = vec![0; ZEROS_LENGTH];
    while at < end {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return true,
            Err(_) => at,
        };
        if at >= end {
            return true;
        }
        let wanted = room.len().min((end - at) as usize);
        match rustix::io::pread(file, &mut room[..wanted], at) {
            Ok(0) => return true,
            Ok(read) if room[..read].iter().all(|byte| *byte == 0) => at += read as u64,
            _ => return false,
        }
    }
    true
}

fn empty(file: BorrowedFd<'_>, offset: u64, length: u64) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, length) {
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; ZEROS_LENGTH];
            let mut at = offset;
            while at < offset + length {
                let part = zeros.len().min((offset + length - at) as usize);
                at += rustix::io::pwrite(file, &zeros[..part], at)? as u64;
            }
            Ok(())
        }
        answer => answer,
    }
}
