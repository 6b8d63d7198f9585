//! The pack format: frames of chunks compressed together, a table of contents, a trailer.
//!
//! Byte by byte in `docs/format.md`, section 3. The table of contents is also used by vault packs.

pub mod frame;
pub mod reader;
pub mod salvage;
pub mod writer;

use crate::id::{ChunkId, ChunkKind, PackId, PoolId};
use crate::wire::{WireError, WireReader};

/// Largest chunk in bytes.
pub const CHUNK_LIMIT: usize = 8 << 20;
/// Largest frame in bytes before compression.
pub const FRAME_LIMIT: usize = 16 << 20;
/// Largest pack file in bytes.
pub const PACK_LIMIT: u64 = 256 << 20;
/// Most frames of a pack.
pub const FRAMES_LIMIT: usize = 1 << 16;
/// Most chunks of a pack.
pub const CHUNKS_LIMIT: usize = 1 << 20;
/// Length of the header before the first frame.
pub const HEADER_LENGTH: usize = 48;
/// Length of the trailer at the end of the file.
pub const TRAILER_LENGTH: usize = 64;

const MAGIC: &[u8; 8] = b"KWPACK1\n";
const END_MAGIC: &[u8; 8] = b"KWPACKE\n";
const VERSION: u16 = 1;
const FRAME_ENTRY_LENGTH: usize = 16;
const CHUNK_ENTRY_LENGTH: usize = 36;
const LENGTH_BITS: u32 = 28;

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Content of files.
    Data = 1,
    /// Trees, lists and manifests: kept together so that looking into points reads little.
    Metadata = 2,
}

impl PackKind {
    /// Returns the kind of pack that chunks of this kind go to.
    pub fn of(chunk: ChunkKind) -> Self {
        match chunk {
            ChunkKind::Data => Self::Data,
            ChunkKind::Tree | ChunkKind::List | ChunkKind::Manifest => Self::Metadata,
        }
    }

    /// Returns the kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// How a frame's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A frame in a table of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Bytes in the pack.
    pub stored_length: u32,
    /// Bytes after decoding.
    pub raw_length: u32,
    /// How many chunks it holds.
    pub chunks: u32,
    /// How it is stored.
    pub codec: Codec,
}

/// A chunk in a table of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its name.
    pub id: ChunkId,
    /// Its kind.
    pub kind: ChunkKind,
    /// Its length in bytes.
    pub length: u32,
}

/// A table of contents: what a pack holds, in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toc {
    frames: Vec<FrameEntry>,
    chunks: Vec<ChunkEntry>,
    // Derived: offset of each frame in the sequence of stored bytes and number of its first chunk.
    starts: Vec<FrameStart>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FrameStart {
    offset: u64,
    first_chunk: u32,
}

/// Where a chunk lies within its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Ordinal of the frame.
    pub frame: u32,
    /// Offset of the chunk in the decoded frame.
    pub offset: u32,
    /// Length of the chunk.
    pub length: u32,
}

/// How much of a pack some of its chunks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Number of chunks.
    pub chunks: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Their part of the file.
    pub stored_bytes: u64,
}

impl Toc {
    /// Adds a frame and its chunks at the end.
    ///
    /// # Panics
    /// If the chunks' lengths do not add up to the frame's raw length.
    pub fn push(&mut self, frame: FrameEntry, chunks: &[ChunkEntry]) {
        let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        assert_eq!(sum, u64::from(frame.raw_length), "chunks fill their frame exactly");
        assert_eq!(chunks.len(), frame.chunks as usize, "the frame counts its chunks");
        self.starts.push(FrameStart {
            offset: self.stored_length(),
            first_chunk: self.chunks.len() as u32,
        });
        self.frames.push(frame);
        self.chunks.extend_from_slice(chunks);
    }

    /// Returns the frames in order.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// Returns the chunks in order.
    pub fn chunks(&self) -> &[ChunkEntry] {
        &self.chunks
    }

    /// Returns the sum of the frames' stored lengths in bytes.
    pub fn stored_length(&self) -> u64 {
        match (self.starts.last(), self.frames.last()) {
            (Some(start), Some(frame)) => start.offset + u64::from(frame.stored_length),
            _ => 0,
        }
    }

    /// Returns the sum of the chunks' lengths in bytes.
    pub fn raw_length(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.raw_length)).sum()
    }

    /// Returns the offset of a frame's bytes after the first frame's beginning.
    pub fn frame_offset(&self, frame: u32) -> Option<u64> {
        self.starts.get(frame as usize).map(|start| start.offset)
    }

    /// Returns the chunks of a frame and the ordinal of the first.
    pub fn chunks_of(&self, frame: u32) -> Option<(u32, &[ChunkEntry])> {
        let first = self.starts.get(frame as usize)?.first_chunk;
        let count = self.frames.get(frame as usize)?.chunks;
        Some((first, self.chunks.get(first as usize..(first + count) as usize)?))
    }

    /// Returns where the chunk with this ordinal lies.
    pub fn slot(&self, ordinal: u32) -> Option<Slot> {
        let chunk = self.chunks.get(ordinal as usize)?;
        let frame = self.starts.partition_point(|start| start.first_chunk <= ordinal) - 1;
        let first = self.starts[frame].first_chunk as usize;
        let offset = self.chunks[first..ordinal as usize].iter().map(|before| before.length).sum();
        Some(Slot { frame: frame as u32, offset, length: chunk.length })
    }

    /// Adds up the chunks with these ordinals, which ascend: their bytes before compression, and what they take up in the file when each frame's bytes are
    /// shared out among its chunks by length, their entries in the table included.
    pub fn share(&self, ordinals: impl Iterator<Item = u32>) -> Share {
        let mut ordinals = ordinals.peekable();
        let mut share = Share::default();
        let mut first = 0;
        for frame in &self.frames {
            let end = first + frame.chunks;
            let before = share;
            while let Some(ordinal) = ordinals.next_if(|ordinal| *ordinal < end) {
                share.chunks += 1;
                share.raw_bytes += u64::from(self.chunks[ordinal as usize].length);
            }
            first = end;
            if share.chunks > before.chunks {
                let raw = share.raw_bytes - before.raw_bytes;
                share.stored_bytes += u64::from(frame.stored_length) * raw
                    / u64::from(frame.raw_length.max(1))
                    + (share.chunks - before.chunks) * CHUNK_ENTRY_LENGTH as u64;
            }
        }
        share
    }

    /// Returns the bytes of the table as a pack stores them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            self.frames.len() * FRAME_ENTRY_LENGTH + self.chunks.len() * CHUNK_ENTRY_LENGTH,
        );
        for frame in &self.frames {
            out.extend_from_slice(&frame.stored_length.to_le_bytes());
            out.extend_from_slice(&frame.raw_length.to_le_bytes());
            out.extend_from_slice(&frame.chunks.to_le_bytes());
            out.extend_from_slice(&[frame.codec as u8, 0, 0, 0]);
        }
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            let kind = u32::from(chunk.kind as u8) << LENGTH_BITS;
            out.extend_from_slice(&(chunk.length | kind).to_le_bytes());
        }
        out
    }

    /// Returns the length in bytes of the encoded table of so many frames and chunks.
    pub fn encoded_length(frames: usize, chunks: usize) -> usize {
        frames * FRAME_ENTRY_LENGTH + chunks * CHUNK_ENTRY_LENGTH
    }

    /// Reads a table of so many frames and chunks, checking every limit of the format.
    pub fn decode(bytes: &[u8], frames: usize, chunks: usize) -> Result<Self, WireError> {
        if frames > FRAMES_LIMIT || chunks > CHUNKS_LIMIT {
            return Err(WireError("too many frames or chunks"));
        }
        if bytes.len() != Self::encoded_length(frames, chunks) {
            return Err(WireError("the table of contents has the wrong length"));
        }
        let (frame_bytes, chunk_bytes) = bytes.split_at(frames * FRAME_ENTRY_LENGTH);
        let chunks = chunk_bytes
            .chunks_exact(CHUNK_ENTRY_LENGTH)
            .map(decode_chunk)
            .collect::<Result<Vec<_>, _>>()?;
        let mut toc = Self::default();
        let mut rest = chunks.as_slice();
        for entry in frame_bytes.chunks_exact(FRAME_ENTRY_LENGTH) {
            let frame = decode_frame(entry)?;
            let (own, after) = rest
                .split_at_checked(frame.chunks as usize)
                .ok_or(WireError("frames claim more chunks than there are"))?;
            let sum: u64 = own.iter().map(|chunk| u64::from(chunk.length)).sum();
            if sum != u64::from(frame.raw_length) {
                return Err(WireError("chunks do not fill their frame"));
            }
            toc.push(frame, own);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(WireError("chunks belong to no frame"));
        }
        if toc.stored_length() > PACK_LIMIT {
            return Err(WireError("the frames are longer than a pack may be"));
        }
        Ok(toc)
    }
}

fn decode_frame(bytes: &[u8]) -> Result<FrameEntry, WireError> {
    let mut reader = WireReader::new(bytes);
    let stored_length = reader.u32()?;
    let raw_length = reader.u32()?;
    let chunks = reader.u32()?;
    let codec = match reader.byte()? {
        0 => Codec::Stored,
        1 => Codec::Zstd,
        _ => return Err(WireError("unknown codec")),
    };
    if reader.array::<3>()? != [0; 3] {
        return Err(WireError("reserved bytes are not zero"));
    }
    if raw_length as usize > FRAME_LIMIT || chunks == 0 {
        return Err(WireError("a frame is empty or too long"));
    }
    if codec == Codec::Stored && stored_length != raw_length {
        return Err(WireError("a stored frame has two lengths"));
    }
    Ok(FrameEntry { stored_length, raw_length, chunks, codec })
}

fn decode_chunk(bytes: &[u8]) -> Result<ChunkEntry, WireError> {
    let mut reader = WireReader::new(bytes);
    let id = ChunkId(reader.array()?);
    let word = reader.u32()?;
    let length = word & ((1 << LENGTH_BITS) - 1);
    let kind = ChunkKind::from_number((word >> LENGTH_BITS) as u8)
        .ok_or(WireError("unknown chunk kind"))?;
    if length as usize > CHUNK_LIMIT {
        return Err(WireError("a chunk is too long"));
    }
    Ok(ChunkEntry { id, kind, length })
}

/// The first bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the pack holds.
    pub kind: PackKind,
    /// The pool it belongs to.
    pub pool: PoolId,
    /// Random: packs of equal content still have different names, so that a name once deleted never comes back.
    pub nonce: [u8; 16],
}

impl Header {
    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut out = [0; HEADER_LENGTH];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.kind as u8;
        out[16..32].copy_from_slice(self.pool.as_bytes());
        out[32..].copy_from_slice(&self.nonce);
        out
    }

    /// Reads a header; knows version 1 only.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, WireError> {
        let mut reader = WireReader::new(bytes);
        if &reader.array::<8>()? != MAGIC {
            return Err(WireError("does not begin like a pack"));
        }
        if reader.u16()? != VERSION {
            return Err(WireError("unknown pack version"));
        }
        let kind = PackKind::from_number(reader.byte()?).ok_or(WireError("unknown pack kind"))?;
        if reader.array::<5>()? != [0; 5] {
            return Err(WireError("reserved bytes are not zero"));
        }
        Ok(Self { kind, pool: PoolId(reader.array()?), nonce: reader.array()? })
    }
}

/// The last bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the table of contents begins.
    pub toc_offset: u64,
    /// Its length in bytes.
    pub toc_length: u32,
    /// Number of frames.
    pub frames: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// The pack's name.
    pub pack: PackId,
}

impl Trailer {
    /// Returns the trailer of a pack with this header and table, and so the pack's name.
    pub fn seal(header: &[u8; HEADER_LENGTH], toc: &Toc, toc_bytes: &[u8]) -> Self {
        let mut trailer = Self {
            toc_offset: HEADER_LENGTH as u64 + toc.stored_length(),
            toc_length: toc_bytes.len() as u32,
            frames: toc.frames().len() as u32,
            chunks: toc.chunks().len() as u32,
            pack: PackId([0; 32]),
        };
        trailer.pack = trailer.name(header, toc_bytes);
        trailer
    }

    /// Computes the name of the pack from its header, its table and this trailer.
    pub fn name(&self, header: &[u8; HEADER_LENGTH], toc_bytes: &[u8]) -> PackId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header).update(toc_bytes).update(&self.encode()[..24]);
        PackId(*hasher.finalize().as_bytes())
    }

    /// Returns the trailer's bytes.
    pub fn encode(&self) -> [u8; TRAILER_LENGTH] {
        let mut out = [0; TRAILER_LENGTH];
        out[..8].copy_from_slice(&self.toc_offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.toc_length.to_le_bytes());
        out[16..20].copy_from_slice(&self.frames.to_le_bytes());
        out[20..24].copy_from_slice(&self.chunks.to_le_bytes());
        out[24..56].copy_from_slice(self.pack.as_bytes());
        out[56..].copy_from_slice(END_MAGIC);
        out
    }

    /// Reads a trailer.
    pub fn decode(bytes: &[u8; TRAILER_LENGTH]) -> Result<Self, WireError> {
        let mut reader = WireReader::new(bytes);
        let toc_offset = reader.u64()?;
        let toc_length = reader.u32()?;
        if reader.u32()? != 0 {
            return Err(WireError("reserved bytes are not zero"));
        }
        let frames = reader.u32()?;
        let chunks = reader.u32()?;
        let pack = PackId(reader.array()?);
        if &reader.array::<8>()? != END_MAGIC {
            return Err(WireError("does not end like a pack"));
        }
        Ok(Self { toc_offset, toc_length, frames, chunks, pack })
    }
}
