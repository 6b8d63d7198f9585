//! Reading the content of a file into chunks: windows, runs of data, chunks; and seeing whether it held still meanwhile.

use crate::chunker::{CHUNK_MOST, Chunker};
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind};
use crate::manifest::ProblemKind;
use crate::pack::frame::ContentSum;
use crate::source::{SourceError, SourceFile, SourceStat};
use crate::tree::{ChunkRef, Extents};
use crate::writer::ChunkWriter;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let read_failed =
            |cause: std::io::Error| ReadError::Source(SourceError::io("read", &cause));
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
        let mut known = KnownChunks::new(known);
        let mut position = 0;
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
                let rest = &self.buffer[done..filled];
                let reference = match known.same_cut(position, rest, at_end) {
                    Some(reference) => reference,
                    None => {
                        let chunk = &rest[..self.chunker.first(rest)];
                        store_chunk(chunk, &mut known, position, writer)?
                    }
                };
                done += reference.length as usize;
                position += u64::from(reference.length);
                chunks.push(reference);
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
    known: &mut KnownChunks<'_>,
    position: u64,
    writer: &mut ChunkWriter,
) -> Result<ChunkRef> {
    let sum = ContentSum::of(bytes);
    let id = ChunkId::of(ChunkKind::Data, bytes);
    let reference = ChunkRef { id, length: bytes.len() as u32 };
    if !known.near(position, &reference) {
        writer.put_named(id, ChunkKind::Data, bytes, Some(sum))?;
    }
    Ok(reference)
}

/// The chunks of the same window in the base: most of a file that was touched, or changed in place, is still the same.
struct KnownChunks<'a> {
    chunks: &'a [ChunkRef],
    // Where each begins in the base's data.
    starts: Vec<u64>,
    // How far what was found last has moved since the base.
    moved: i64,
}

impl<'a> KnownChunks<'a> {
    fn new(chunks: &'a [ChunkRef]) -> Self {
        let starts = chunks
            .iter()
            .scan(0, |end, chunk| {
                let start = *end;
                *end += u64::from(chunk.length);
                Some(start)
            })
            .collect();
        Self { chunks, starts, moved: 0 }
    }

    fn base_position(&self, position: u64) -> u64 {
        position.saturating_add_signed(-self.moved)
    }

    /// Returns the base's chunk that begins here if `rest` begins with its bytes. Equal bytes from a chunk's beginning on are cut at the
    /// same place, so the cutting is saved; but for the base's last chunk, which ended only because the window did.
    fn same_cut(&self, position: u64, rest: &[u8], at_end: bool) -> Option<ChunkRef> {
        let ordinal = self.starts.binary_search(&self.base_position(position)).ok()?;
        let base = self.chunks[ordinal];
        let bytes = rest.get(..base.length as usize)?;
        let base_is_last = ordinal + 1 == self.chunks.len();
        let ends_here = at_end && bytes.len() == rest.len();
        if base_is_last != ends_here {
            return None;
        }
        (ChunkId::of(ChunkKind::Data, bytes) == base.id).then_some(base)
    }

    /// Returns whether the base has this chunk here or nearby, as after an insertion.
    fn near(&mut self, position: u64, reference: &ChunkRef) -> bool {
        const NEIGHBOURS: usize = 8;
        let here = self.starts.partition_point(|start| *start < self.base_position(position));
        let from = here.saturating_sub(NEIGHBOURS);
        let to = (here + NEIGHBOURS).min(self.chunks.len());
        let found = self.chunks[from..to].iter().position(|chunk| chunk == reference);
        if let Some(index) = found {
            self.moved = position as i64 - self.starts[from + index] as i64;
        }
        found.is_some()
    }
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
