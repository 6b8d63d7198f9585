//! Salvage: reading what can still be read of a pack whose bytes are not those that its name promises.
//!
//! Nothing in such a file is believed: its table of contents is only a hint where frames and chunks may lie, and a chunk counts when its bytes match the id that
//! the table gives it. Any single damaged byte costs at most the frame it is in, wherever it is:
//!
//! - in a frame: its chunks before (or, stored uncompressed, also those behind) the damage are tried one by one;
//! - in the trailer: the table is searched for, by its own consistency;
//! - in the table: frames and chunks are counted from its beginning and from its end, and both countings are tried.
//!
//! A file that lost its table (cut off at the end) holds bytes that nobody can tell apart; then only another copy helps.

use crate::disk::DiskRead;
use crate::id::{ChunkId, ChunkKind};
use crate::pack::frame::FrameCodec;
use crate::pack::{
    CHUNK_ENTRY_LENGTH, CHUNK_LIMIT, CHUNKS_LIMIT, Codec, FRAME_ENTRY_LENGTH, FRAME_LIMIT,
    FRAMES_LIMIT, FrameEntry, HEADER_LENGTH, LENGTH_BITS, PACK_LIMIT, TRAILER_LENGTH, Trailer,
};

/// A damaged pack, in memory.
#[derive(Debug)]
pub struct Salvage {
    bytes: Vec<u8>,
    frames: Vec<Hint>,
    chunks: Vec<ChunkHint>,
    toc_offset: usize,
}

// What the table says of a frame; any of it may be wrong.
#[derive(Clone, Copy, Debug)]
struct Hint {
    stored_length: usize,
    raw_length: usize,
    chunks: usize,
    codec: u8,
}

#[derive(Clone, Copy, Debug)]
struct ChunkHint {
    id: ChunkId,
    length: usize,
    kind: Option<ChunkKind>,
}

/// How much of a damaged pack was readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Chunks whose bytes match their ids.
    pub sound: u64,
    /// Chunks that the table lists and that could not be read.
    pub lost: u64,
}

impl Salvage {
    /// Reads the file and looks for its table of contents; without one, nothing of it can be told apart.
    pub fn read(file: &dyn DiskRead) -> std::io::Result<Self> {
        let most = PACK_LIMIT + (CHUNKS_LIMIT * CHUNK_ENTRY_LENGTH) as u64;
        let length = file.length()?.min(most);
        let mut bytes = vec![0; length as usize];
        // Piece by piece: a bad sector takes its neighbourhood with it, not the file.
        for (piece, offset) in bytes.chunks_mut(PIECE_LENGTH).zip((0u64..).step_by(PIECE_LENGTH)) {
            if file.read_exact_at(piece, offset).is_err() {
                piece.fill(0);
            }
        }
        let mut salvage =
            Self { bytes, frames: Vec::new(), chunks: Vec::new(), toc_offset: HEADER_LENGTH };
        // A table that fits its own entries is better than one that only the trailer speaks for.
        let by_trailer = salvage.table_by_trailer();
        let end = salvage.bytes.len().saturating_sub(TRAILER_LENGTH);
        let consistent = by_trailer.filter(|(start, ..)| salvage.table_at(*start, end).is_some());
        if let Some((start, frames, chunks)) =
            consistent.or_else(|| salvage.search_table(end)).or(by_trailer)
        {
            salvage.take_table(start, frames, chunks);
        }
        Ok(salvage)
    }

    /// Returns whether a table of contents was found.
    pub fn has_table(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Hands every chunk whose bytes match its id to `take`.
    pub fn chunks<E>(
        &self,
        codec: &mut FrameCodec,
        mut take: impl FnMut(ChunkId, ChunkKind, &[u8]) -> Result<(), E>,
    ) -> Result<Salvaged, E> {
        let mut sound = 0;
        let from_front = self.count_from_front();
        let from_back = self.count_from_back();
        for (index, hint) in self.frames.iter().enumerate() {
            for (offset, first) in [from_front[index], from_back[index]] {
                let Some(first) = first else { continue };
                let end = first.saturating_add(hint.chunks).min(self.chunks.len());
                let chunks = self.chunks.get(first..end).unwrap_or_default();
                let found = self.frame(offset, hint, chunks, codec, &mut take)?;
                sound += found;
                if found > 0 {
                    break;
                }
            }
        }
        Ok(Salvaged { sound, lost: (self.chunks.len() as u64).saturating_sub(sound) })
    }

    fn table_by_trailer(&self) -> Option<(usize, usize, usize)> {
        let end = self.bytes.len().checked_sub(TRAILER_LENGTH)?;
        let trailer = self.bytes[end..].try_into().expect("the rest is one trailer long");
        let trailer = Trailer::decode(&trailer).ok()?;
        let (frames, chunks) = (trailer.frames as usize, trailer.chunks as usize);
        if frames == 0 || frames > FRAMES_LIMIT || chunks > CHUNKS_LIMIT {
            return None;
        }
        let length = frames * FRAME_ENTRY_LENGTH + chunks * CHUNK_ENTRY_LENGTH;
        // The table ends at the trailer, whatever offset the trailer gives.
        Some((end.checked_sub(length)?, frames, chunks))
    }

    // The table lies where its own frames end and its own counts fill the rest of the file.
    fn search_table(&self, end: usize) -> Option<(usize, usize, usize)> {
        let at = |start| self.table_at(start, end).map(|(frames, chunks)| (start, frames, chunks));
        (HEADER_LENGTH..end).rev().find_map(at)
    }

    fn table_at(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let (mut stored, mut chunks) = (HEADER_LENGTH, 0);
        for (entry, frames) in self.bytes[start..end].chunks_exact(FRAME_ENTRY_LENGTH).zip(1..) {
            let hint = Hint::read(entry);
            if hint.codec > 1 || entry[13..] != [0; 3] || hint.chunks == 0 {
                return None;
            }
            stored += hint.stored_length;
            chunks += hint.chunks;
            if stored > start || chunks > CHUNKS_LIMIT || frames > FRAMES_LIMIT {
                return None;
            }
            if stored == start {
                let length = frames * FRAME_ENTRY_LENGTH + chunks * CHUNK_ENTRY_LENGTH;
                return (start + length == end).then_some((frames, chunks));
            }
        }
        None
    }

    fn take_table(&mut self, start: usize, frames: usize, chunks: usize) {
        self.toc_offset = start;
        let (first, rest) = self.bytes[start..].split_at(frames * FRAME_ENTRY_LENGTH);
        self.frames = first.chunks_exact(FRAME_ENTRY_LENGTH).map(Hint::read).collect();
        let entries = rest.chunks_exact(CHUNK_ENTRY_LENGTH).take(chunks);
        self.chunks = entries.map(ChunkHint::read).collect();
    }

    // Offset and first chunk of each frame, if all entries before it are right.
    fn count_from_front(&self) -> Vec<(usize, Option<usize>)> {
        let (mut offset, mut first) = (HEADER_LENGTH, 0usize);
        let mut all = Vec::with_capacity(self.frames.len());
        for hint in &self.frames {
            all.push((offset, Some(first)));
            offset = offset.saturating_add(hint.stored_length);
            first = first.saturating_add(hint.chunks);
        }
        all
    }

    // The same, if its own entry and all behind it are right.
    fn count_from_back(&self) -> Vec<(usize, Option<usize>)> {
        let (mut offset, mut first) = (self.toc_offset, Some(self.chunks.len()));
        let mut all = Vec::with_capacity(self.frames.len());
        for hint in self.frames.iter().rev() {
            offset = offset.saturating_sub(hint.stored_length);
            first = first.and_then(|first| first.checked_sub(hint.chunks));
            all.push((offset, first));
        }
        all.reverse();
        all
    }

    fn frame<E>(
        &self,
        offset: usize,
        hint: &Hint,
        chunks: &[ChunkHint],
        codec: &mut FrameCodec,
        take: &mut impl FnMut(ChunkId, ChunkKind, &[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let stored = self.bytes.get(offset..).unwrap_or_default();
        let stored = &stored[..hint.stored_length.min(stored.len())];
        // The length that the table gives may be the damaged byte: the chunks know it too.
        let sum = chunks.iter().map(|chunk| chunk.length).sum();
        for raw_length in [hint.raw_length, sum] {
            let Some(decoded) = decode(codec, hint, raw_length, stored) else { continue };
            let found = split(decoded, chunks, take)?;
            if found > 0 {
                return Ok(found);
            }
        }
        Ok(0)
    }
}

/// A file is read in pieces of this length.
const PIECE_LENGTH: usize = 64 << 10;

impl Hint {
    fn read(entry: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = entry[at..at + 4].try_into().expect("an entry has 16 bytes");
            u32::from_le_bytes(bytes) as usize
        };
        Self {
            stored_length: number(0),
            raw_length: number(4),
            chunks: number(8),
            codec: entry[12],
        }
    }
}

impl ChunkHint {
    fn read(entry: &[u8]) -> Self {
        let id = ChunkId::from_slice(&entry[..32]).expect("an entry has 36 bytes");
        let word = u32::from_le_bytes(entry[32..].try_into().expect("an entry has 36 bytes"));
        let length = (word & ((1 << LENGTH_BITS) - 1)) as usize;
        Self { id, length, kind: ChunkKind::from_number((word >> LENGTH_BITS) as u8) }
    }
}

fn decode<'a>(
    codec: &'a mut FrameCodec,
    hint: &Hint,
    raw_length: usize,
    stored: &'a [u8],
) -> Option<&'a [u8]> {
    if raw_length > FRAME_LIMIT {
        return None;
    }
    if stored.starts_with(&ZSTD_MAGIC) || hint.codec == Codec::Zstd as u8 {
        let entry = FrameEntry {
            stored_length: stored.len() as u32,
            raw_length: raw_length as u32,
            chunks: 0,
            codec: Codec::Zstd,
        };
        codec.decode(&entry, stored).ok()
    } else {
        Some(stored)
    }
}

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

// Chunks are taken from the front, and where one does not match, the rest from the back: a wrong length harms only its own chunk.
fn split<E>(
    decoded: &[u8],
    chunks: &[ChunkHint],
    take: &mut impl FnMut(ChunkId, ChunkKind, &[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut sound = 0;
    let mut taken = vec![false; chunks.len()];
    let mut start = 0usize;
    for (chunk, taken) in chunks.iter().zip(&mut taken) {
        let end = start.saturating_add(chunk.length);
        if let Some(bytes) = decoded.get(start..end)
            && chunk.matches(bytes)
        {
            *taken = true;
            sound += chunk.hand_over(bytes, take)?;
        }
        start = end;
    }
    let mut end = decoded.len();
    for (chunk, taken) in chunks.iter().zip(&taken).rev() {
        let start = end.saturating_sub(chunk.length);
        let bytes = &decoded[start..end];
        if !taken && chunk.matches(bytes) {
            sound += chunk.hand_over(bytes, take)?;
        }
        end = start;
    }
    Ok(sound)
}

impl ChunkHint {
    fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() <= CHUNK_LIMIT
            && self.kind.is_some_and(|kind| ChunkId::of(kind, bytes) == self.id)
    }

    fn hand_over<E>(
        &self,
        bytes: &[u8],
        take: &mut impl FnMut(ChunkId, ChunkKind, &[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        take(self.id, self.kind.expect("it matched"), bytes)?;
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SystemDisk};
    use crate::pack::frame::FrameBuilder;
    use crate::pack::writer::PackWriter;
    use crate::pack::{Header, PackKind};
    use std::sync::Arc;

    const CHUNKS_PER_FRAME: usize = 5;

    // Three frames, the middle one of noise and so stored uncompressed.
    fn pack(home: &std::path::Path) -> (std::path::PathBuf, usize) {
        let header =
            Header { kind: PackKind::Data, pool: crate::id::PoolId([1; 16]), nonce: [2; 16] };
        let disk = Arc::new(SystemDisk);
        std::fs::create_dir_all(home.join("packs")).unwrap();
        let mut writer = PackWriter::create(disk, home.join("new"), header).unwrap();
        let mut codec = FrameCodec::new(1).unwrap();
        for frame in 0..3 {
            let mut builder = FrameBuilder::default();
            for chunk in 0..CHUNKS_PER_FRAME {
                let text = format!("frame {frame} chunk {chunk} ").repeat(9 + chunk);
                let noise = crate::testing::fixture::noise(&text, 90 + chunk);
                let bytes = if frame == 1 { noise } else { text.into_bytes() };
                builder.push(ChunkId::of(ChunkKind::Data, &bytes), ChunkKind::Data, &bytes, None);
            }
            let sealed = codec.seal(&builder).unwrap();
            writer.append(&sealed, builder.chunks()).unwrap();
        }
        let group = home.join("packs");
        for byte in 0..=255u8 {
            std::fs::create_dir_all(group.join(crate::id::hex(&[byte]))).unwrap();
        }
        let sealed = writer.seal(&group).unwrap();
        (crate::pack::writer::pack_path(&group, sealed.id), 3 * CHUNKS_PER_FRAME)
    }

    fn salvage(path: &std::path::Path) -> Salvaged {
        let file = SystemDisk.open(path).unwrap();
        let salvage = Salvage::read(&*file).unwrap();
        let mut codec = FrameCodec::new(1).unwrap();
        let mut seen = std::collections::HashSet::new();
        let taken = salvage.chunks(&mut codec, |id, kind, bytes| {
            assert_eq!(ChunkId::of(kind, bytes), id);
            assert!(seen.insert(id), "each chunk comes once");
            Ok::<_, std::io::Error>(())
        });
        taken.unwrap()
    }

    #[test]
    fn any_single_damaged_byte_costs_at_most_one_frame() {
        let home = tempfile::tempdir().unwrap();
        let (path, chunks) = pack(home.path());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(salvage(&path), Salvaged { sound: chunks as u64, lost: 0 });

        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();

            let salvaged = salvage(&path);

            let most = CHUNKS_PER_FRAME as u64;
            assert!(salvaged.sound + most >= chunks as u64, "byte {index}: {salvaged:?}");
        }
    }

    #[test]
    fn a_pack_without_its_table_gives_nothing_and_does_no_harm() {
        let home = tempfile::tempdir().unwrap();
        let (path, _) = pack(home.path());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            salvage(&path);
        }
    }
}
