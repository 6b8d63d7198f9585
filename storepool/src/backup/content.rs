//! Reading the content of a file into chunks: windows, runs of data, chunks; and seeing whether it held still meanwhile.

use crate::chunker::{CHUNK_MOST, Chunker};
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind};
use crate::manifest::ProblemKind;
use crate::source::{SourceError, SourceFile, SourceStat};
use crate::tree::{ChunkRef, Extents};
use crate::writer::{ChunkWriter, Put};

/// Room for content in one worker: a whole number of the largest chunks.
const BUFFER_LENGTH: usize = 2 << 20;

/// Why a window has no extents.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The source failed: a problem of the point.
    Source(SourceError),
    /// The pool failed: the end of the run.
    Pool(crate::error::Error),
}

impl From<crate::error::Error> for ReadError {
    fn from(error: crate::error::Error) -> Self {
        Self::Pool(error)
    }
}

/// Reads and cuts content; belongs to one worker and keeps its buffer.
#[derive(Debug)]
pub(crate) struct ContentReader {
    buffer: Vec<u8>,
    chunker: Chunker,
}

/// What was read of a window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WindowRead {
    pub(crate) extents: Extents,
    pub(crate) data_bytes: u64,
}

impl ContentReader {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_LENGTH], chunker: Chunker::new() }
    }

    /// Reads the bytes of `file` from `start` to `end` and stores their chunks. `known` are chunks that the base has and that need no looking up.
    pub(crate) fn read_window(
        &mut self,
        file: &dyn SourceFile,
        stat: &SourceStat,
        start: u64,
        end: u64,
        known: &[ChunkRef],
        writer: &mut ChunkWriter,
    ) -> std::result::Result<WindowRead, ReadError> {
        let read_failed = |cause: std::io::Error| ReadError::Source(SourceError::io("read", &cause));
        let mut extents = Extents::default();
        let may_have_holes = stat.allocated < stat.size;
        if may_have_holes {
            let runs = file.runs(start, end).map_err(read_failed)?;
            let whole = runs.len() == 1 && runs[0].hole == 0 && runs[0].data == end - start;
            if !whole {
                extents.runs = runs;
            }
            // One hole from end to end.
            if extents.runs.is_empty() && !whole {
                return Ok(WindowRead { extents, data_bytes: 0 });
            }
        }
        let mut pieces = Pieces::new(&extents.runs, start, end);
        let mut data_bytes = 0;
        let mut filled = 0;
        let mut chunks = Vec::new();
        loop {
            while filled < self.buffer.len()
                && let Some((offset, length)) = pieces.next_piece(self.buffer.len() - filled)
            {
                let room = &mut self.buffer[filled..filled + length];
                let read = file.read_at(room, offset).map_err(read_failed)?;
                if read == 0 {
                    return Err(ReadError::Source(SourceError {
                        kind: ProblemKind::Changed,
                        message: "became shorter while it was read".to_string(),
                    }));
                }
                pieces.advance(read);
                filled += read;
                data_bytes += read as u64;
            }
            let at_end = pieces.is_done();
            let mut done = 0;
            while done < filled && (at_end || filled - done >= CHUNK_MOST) {
                let length = self.chunker.first(&self.buffer[done..filled]);
                let chunk = &self.buffer[done..done + length];
                chunks.push(store_chunk(chunk, chunks.len(), known, writer)?);
                done += length;
            }
            if at_end {
                extents.chunks = chunks;
                return Ok(WindowRead { extents, data_bytes });
            }
            self.buffer.copy_within(done..filled, 0);
            filled -= done;
        }
    }
}

fn store_chunk(
    bytes: &[u8],
    ordinal: usize,
    known: &[ChunkRef],
    writer: &mut ChunkWriter,
) -> Result<ChunkRef> {
    let id = ChunkId::of(ChunkKind::Data, bytes);
    let reference = ChunkRef { id, length: bytes.len() as u32 };
    // Most chunks of a file that was touched, or changed in place, are still the same.
    if !known_at(known, ordinal, &reference) {
        let _: Put = writer.put_named(id, ChunkKind::Data, bytes)?;
    }
    Ok(reference)
}

// In place, or moved by a few chunks after an insertion.
fn known_at(known: &[ChunkRef], ordinal: usize, reference: &ChunkRef) -> bool {
    const NEIGHBOURS: usize = 8;
    let from = ordinal.saturating_sub(NEIGHBOURS).min(known.len());
    let to = (ordinal + NEIGHBOURS).min(known.len());
    known.get(ordinal) == Some(reference) || known[from..to].contains(reference)
}

// The places of the file that hold data, in order.
struct Pieces<'a> {
    runs: std::slice::Iter<'a, crate::entry::Run>,
    offset: u64,
    left: u64,
}

impl<'a> Pieces<'a> {
    fn new(runs: &'a [crate::entry::Run], start: u64, end: u64) -> Self {
        if runs.is_empty() {
            return Self { runs: [].iter(), offset: start, left: end - start };
        }
        let mut pieces = Self { runs: runs.iter(), offset: start, left: 0 };
        pieces.enter_run();
        pieces
    }

    fn enter_run(&mut self) {
        while self.left == 0
            && let Some(run) = self.runs.next()
        {
            self.offset += run.hole;
            self.left = run.data;
        }
    }

    fn next_piece(&self, room: usize) -> Option<(u64, usize)> {
        (self.left > 0).then(|| (self.offset, self.left.min(room as u64) as usize))
    }

    fn advance(&mut self, read: usize) {
        self.offset += read as u64;
        self.left -= read as u64;
        self.enter_run();
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }
}

/// Returns whether a file is as it was when it was last looked at.
pub(crate) fn held_still(before: &SourceStat, after: &SourceStat) -> bool {
    before.size == after.size
        && before.mtime == after.mtime
        && before.ctime == after.ctime
        && before.inode == after.inode
        && before.kind == after.kind
}
