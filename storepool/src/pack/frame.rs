//! Frames: chunks gathered, compressed together, and proved by decoding before anybody may rely on them.

use twox_hash::XxHash3_64;
use zstd::zstd_safe::CParameter;

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::pack::{ChunkEntry, Codec, FRAME_LIMIT, FrameEntry};
use crate::simulated::{self, Mistake};

/// A quick sum of a chunk's bytes (XXH3, 64 bits), taken before its name is computed from them. Bytes that have the same sum after compression and decoding
/// are the bytes that were named, as far as faults of memory, processor and compressor go; against people it proves nothing, and it is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentSum(u64);

impl ContentSum {
    /// Computes the sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(bytes))
    }
}

/// A frame in the making: chunks joined end to end.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    raw: Vec<u8>,
    chunks: Vec<ChunkEntry>,
    sums: Vec<Option<ContentSum>>,
}

impl FrameBuilder {
    /// Adds a chunk; sealing proves it by its name, or by the sum that was taken before it was named, which is quicker.
    pub fn push(
        &mut self,
        id: ChunkId,
        kind: ChunkKind,
        plaintext: &[u8],
        sum: Option<ContentSum>,
    ) {
        self.raw.extend_from_slice(plaintext);
        self.chunks.push(ChunkEntry { id, kind, length: plaintext.len() as u32 });
        self.sums.push(sum);
    }

    /// Returns the bytes gathered so far.
    pub fn raw_length(&self) -> usize {
        self.raw.len()
    }

    /// Returns whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the chunks gathered so far.
    pub fn chunks(&self) -> &[ChunkEntry] {
        &self.chunks
    }

    /// Forgets the chunks; keeps the memory for the next frame.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.chunks.clear();
        self.sums.clear();
    }

    // Names the first chunk that is not in `decoded` as it came.
    fn verify(&self, decoded: &[u8]) -> std::result::Result<(), ChunkId> {
        let mut rest = decoded;
        for (chunk, sum) in self.chunks.iter().zip(&self.sums) {
            let (own, after) = rest.split_at_checked(chunk.length as usize).ok_or(chunk.id)?;
            let is_same = match sum {
                Some(sum) => ContentSum::of(own) == *sum,
                None => ChunkId::of(chunk.kind, own) == chunk.id,
            };
            if !is_same {
                return Err(chunk.id);
            }
            rest = after;
        }
        Ok(())
    }
}

/// Compresses and decodes frames. One for each thread: it owns reusable buffers.
pub struct FrameCodec {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
    decoded: Vec<u8>,
}

impl std::fmt::Debug for FrameCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameCodec").finish_non_exhaustive()
    }
}

/// A frame ready to be written: its table entry and its bytes.
#[derive(Debug)]
pub struct SealedFrame<'a> {
    /// The entry for the table of contents.
    pub entry: FrameEntry,
    /// The bytes to store.
    pub stored: &'a [u8],
}

impl FrameCodec {
    /// Creates a codec that compresses with this zstd level (-7 to 19).
    pub fn new(level: i32) -> Result<Self> {
        let failed = |cause| Error::damaged("zstd", format!("cannot be set up: {cause}"));
        let mut decompressor = zstd::bulk::Decompressor::new().map_err(failed)?;
        // A hostile frame may not make the decoder reserve more than the format allows.
        decompressor.window_log_max(24).map_err(failed)?;
        let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
        if (1..=2).contains(&level) {
            // These levels look back half a frame at most, and remember too little of it: measured in docs/decisions/0001.
            for parameter in [CParameter::WindowLog(20), CParameter::HashLog(16)] {
                compressor.set_parameter(parameter).map_err(failed)?;
            }
        }
        Ok(Self { compressor, decompressor, compressed: Vec::new(), decoded: Vec::new() })
    }

    /// Compresses a frame, then decodes the result again and compares every chunk with its name, or with the sum that was taken before it was named.
    ///
    /// The proof runs over the very bytes that will be written, so neither a fault of the compressor nor a memory error after
    /// hashing can reach the pool unnoticed.
    pub fn seal<'a>(&'a mut self, frame: &'a FrameBuilder) -> Result<SealedFrame<'a>> {
        let raw = frame.raw.as_slice();
        let bound = zstd::zstd_safe::compress_bound(raw.len());
        if self.compressed.len() < bound {
            self.compressed.resize(bound, 0);
        }
        let length = self
            .compressor
            .compress_to_buffer(raw, self.compressed.as_mut_slice())
            .map_err(|cause| Error::damaged("frame", format!("cannot be compressed: {cause}")))?;
        let (codec, stored) = if length < raw.len() - raw.len() / 32 {
            (Codec::Zstd, &self.compressed[..length])
        } else {
            (Codec::Stored, raw)
        };
        let entry = FrameEntry {
            stored_length: stored.len() as u32,
            raw_length: raw.len() as u32,
            chunks: frame.chunks.len() as u32,
            codec,
        };
        let decoded = decode_into(&mut self.decompressor, &entry, stored, &mut self.decoded)?;
        frame.verify(decoded).map_err(|chunk| {
            Error::damaged(
                format!("chunk {}", chunk.short()),
                "its compressed form decodes to other bytes; memory or processor may be failing",
            )
        })?;
        Ok(SealedFrame { entry, stored })
    }

    /// Decodes a frame; the result is exactly `entry.raw_length` bytes, not yet compared with any name.
    pub fn decode<'a>(&'a mut self, entry: &FrameEntry, stored: &'a [u8]) -> Result<&'a [u8]> {
        decode_into(&mut self.decompressor, entry, stored, &mut self.decoded)
    }
}

/// Compares the chunks that a decoded frame should hold with what it holds; names the first that differs.
pub fn verify_chunks(chunks: &[ChunkEntry], decoded: &[u8]) -> std::result::Result<(), ChunkId> {
    if simulated::makes(Mistake::UnverifiedChunks) {
        return Ok(());
    }
    let mut rest = decoded;
    for chunk in chunks {
        let (own, after) = rest.split_at_checked(chunk.length as usize).ok_or(chunk.id)?;
        if ChunkId::of(chunk.kind, own) != chunk.id {
            return Err(chunk.id);
        }
        rest = after;
    }
    Ok(())
}

// `buffer` only ever grows: shrinking and growing it again would write zeros over every frame's room first.
fn decode_into<'a>(
    decompressor: &mut zstd::bulk::Decompressor<'_>,
    entry: &FrameEntry,
    stored: &'a [u8],
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let raw_length = entry.raw_length as usize;
    let decoded = match entry.codec {
        Codec::Stored => stored,
        Codec::Zstd => {
            if raw_length > FRAME_LIMIT {
                return Err(Error::damaged("frame", "is longer than the format allows"));
            }
            if buffer.len() < raw_length {
                buffer.resize(raw_length, 0);
            }
            let length = decompressor
                .decompress_to_buffer(stored, &mut buffer[..raw_length])
                .map_err(|cause| Error::damaged("frame", format!("cannot be decoded: {cause}")))?;
            &buffer[..length]
        }
    };
    if decoded.len() != raw_length {
        return Err(Error::damaged("frame", "decodes to the wrong length"));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(parts: &[&[u8]]) -> FrameBuilder {
        let mut frame = FrameBuilder::default();
        for part in parts {
            frame.push(ChunkId::of(ChunkKind::Data, part), ChunkKind::Data, part, None);
        }
        frame
    }

    #[test]
    fn compressible_and_random_frames_come_back() {
        let mut codec = FrameCodec::new(1).unwrap();
        let text = b"the same line again and again\n".repeat(1000);
        let random: Vec<u8> =
            (0u64..4000).flat_map(|index| *blake3::hash(&index.to_le_bytes()).as_bytes()).collect();
        for (bytes, expected) in [(text, Codec::Zstd), (random, Codec::Stored)] {
            let frame = frame_of(&[&bytes[..1000], &bytes[1000..]]);

            let sealed = codec.seal(&frame).unwrap();

            assert_eq!(sealed.entry.codec, expected);
            let (entry, stored) = (sealed.entry, sealed.stored.to_vec());
            assert_eq!(codec.decode(&entry, &stored).unwrap(), bytes);
        }
    }

    #[test]
    fn a_chunk_under_a_wrong_name_or_sum_never_leaves_the_codec() {
        let bytes = b"not what the name says";
        let (right, wrong) = (ChunkId::of(ChunkKind::Data, bytes), ChunkId([7; 32]));
        for (id, sum) in [(wrong, None), (right, Some(ContentSum::of(b"before a bit flipped")))] {
            let mut frame = FrameBuilder::default();
            frame.push(id, ChunkKind::Data, bytes, sum);

            let error = FrameCodec::new(1).unwrap().seal(&frame).unwrap_err();

            assert!(error.is_damage(), "{error}");
        }
    }
}
