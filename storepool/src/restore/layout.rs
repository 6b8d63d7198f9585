//! Where the bytes of a file's chunks lie in the file.

use crate::entry::Run;
use crate::tree::Extents;

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// Nothing is stored for it.
    Hole { offset: u64, length: u64 },
    /// It is a part of a chunk, usually all of it: a chunk goes on behind a hole.
    Data {
        /// Ordinal of the chunk in the extents.
        chunk: usize,
        /// Where in the chunk the part begins.
        chunk_offset: u32,
        /// Where in the file it lies.
        offset: u64,
        /// Its length.
        length: u32,
    },
}

/// Walks the stretches of some extents in order of their offsets; a last hole is included.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    extents: &'a Extents,
    runs: std::slice::Iter<'a, Run>,
    chunk: usize,
    chunk_offset: u32,
    offset: u64,
    end: u64,
    // What is left of the current run.
    data_left: u64,
}

impl<'a> Layout<'a> {
    /// Creates the layout of extents that cover `span` bytes from `offset` on. They fit each other: the decoder has checked it.
    pub(super) fn new(extents: &'a Extents, offset: u64, span: u64) -> Self {
        let data_left = if extents.runs.is_empty() { u64::MAX } else { 0 };
        Self {
            extents,
            runs: extents.runs.iter(),
            chunk: 0,
            chunk_offset: 0,
            offset,
            end: offset.saturating_add(span),
            data_left,
        }
    }
}

impl Iterator for Layout<'_> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        while self.data_left == 0 {
            let Some(run) = self.runs.next() else { break };
            self.data_left = run.data;
            if run.hole > 0 {
                let hole = Stretch::Hole { offset: self.offset, length: run.hole };
                self.offset += run.hole;
                return Some(hole);
            }
        }
        let chunk = self.extents.chunks.get(self.chunk).filter(|_| self.data_left > 0);
        let Some(chunk) = chunk else {
            let length = self.end.checked_sub(self.offset).filter(|length| *length > 0)?;
            let hole = Stretch::Hole { offset: self.offset, length };
            self.offset = self.end;
            return Some(hole);
        };
        let length = u64::from(chunk.length - self.chunk_offset).min(self.data_left) as u32;
        let data = Stretch::Data {
            chunk: self.chunk,
            chunk_offset: self.chunk_offset,
            offset: self.offset,
            length,
        };
        self.offset += u64::from(length);
        self.data_left -= u64::from(length);
        self.chunk_offset += length;
        if self.chunk_offset == chunk.length {
            self.chunk += 1;
            self.chunk_offset = 0;
        }
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;
    use crate::tree::ChunkRef;

    fn chunks(lengths: &[u32]) -> Vec<ChunkRef> {
        lengths.iter().map(|length| ChunkRef { id: ChunkId([0; 32]), length: *length }).collect()
    }

    #[test]
    fn a_chunk_goes_on_behind_a_hole_and_the_last_hole_is_told() {
        let runs = vec![Run { hole: 4, data: 3 }, Run { hole: 10, data: 5 }];
        let extents = Extents { runs, chunks: chunks(&[2, 6]) };

        let stretches: Vec<_> = Layout::new(&extents, 100, 30).collect();

        let data = |chunk, chunk_offset, offset, length| Stretch::Data {
            chunk,
            chunk_offset,
            offset,
            length,
        };
        assert_eq!(
            stretches,
            [
                Stretch::Hole { offset: 100, length: 4 },
                data(0, 0, 104, 2),
                data(1, 0, 106, 1),
                Stretch::Hole { offset: 107, length: 10 },
                data(1, 1, 117, 5),
                Stretch::Hole { offset: 122, length: 8 },
            ]
        );
    }

    #[test]
    fn without_runs_all_is_data_and_without_chunks_all_is_hole() {
        let extents = Extents { runs: vec![], chunks: chunks(&[2, 3]) };
        assert_eq!(Layout::new(&extents, 0, 5).count(), 2);
        assert_eq!(
            Layout::new(&Extents::default(), 7, 5).collect::<Vec<_>>(),
            [Stretch::Hole { offset: 7, length: 5 }]
        );
        assert_eq!(Layout::new(&Extents::default(), 7, 0).count(), 0);
    }
}
