//! Vault packs: chunks, compressed as the pool keeps them, sealed together (`docs/format-vault.md`, section 6).
//!
//! The table of contents comes first, so that one ranged read of the beginning tells what a pack holds.

mod stretch;

use std::ops::Range;

use bytes::Bytes;
use storepool::pack::Toc;
use storepool::wire::WireReader;

use crate::crypto::container::{
    self, ContainerReader, Content, HEADER_LENGTH, SEGMENT_LENGTH, STORED_SEGMENT_LENGTH, Sealed,
    plaintext_limit, refuse_padding_other_than_zeros,
};
use crate::crypto::ring::RealmKeys;
use crate::error::{Error, Result, SealError, StoreError, StoreFault};
use crate::layout::ObjectKind;
use crate::layout::ObjectName;
use crate::store::ObjectStore;
use crate::vault::commit::ObjectRecord;

pub use stretch::{OpenedSegments, SealedStretch};

const MAGIC: &[u8; 4] = b"KWVP";
const VERSION: u32 = 1;
const PRELUDE_LENGTH: usize = 32;
/// Segments that are read to find the table of contents: enough for some 3,500 chunks.
const SEGMENTS_AT_FIRST: u64 = 2;

/// Seals a pack: its table of contents, whose chunks carry their vault ids, and its frames in the order of the table.
///
/// The pieces of `frames` are joined; their boundaries mean nothing. `kind` is [`ObjectKind::Data`] or
/// [`ObjectKind::Metadata`].
pub fn seal_pack(
    keys: &RealmKeys,
    kind: ObjectKind,
    toc: &Toc,
    frames: &[&[u8]],
) -> Result<Sealed, SealError> {
    let length: u64 = frames.iter().map(|piece| piece.len() as u64).sum();
    if length != toc.stored_length() {
        return Err(SealError::Format("the frames are not as long as the table says"));
    }
    let table = toc.encode();
    let mut prelude = [0; PRELUDE_LENGTH];
    prelude[..4].copy_from_slice(MAGIC);
    prelude[4..8].copy_from_slice(&VERSION.to_le_bytes());
    prelude[8..12].copy_from_slice(&(toc.frames().len() as u32).to_le_bytes());
    prelude[12..16].copy_from_slice(&(toc.chunks().len() as u32).to_le_bytes());
    prelude[16..24].copy_from_slice(&length.to_le_bytes());
    let mut pieces = vec![prelude.as_slice(), &table];
    pieces.extend_from_slice(frames);
    container::seal(keys, Content::Object(kind), &pieces)
}

#[derive(Clone, Copy, Debug)]
struct Prelude {
    frames: usize,
    chunks: usize,
    frames_length: u64,
}

impl Prelude {
    fn read(plaintext: &[u8], padded: u64) -> Result<Self, SealError> {
        let mut reader = WireReader::new(plaintext);
        if &reader.array()? != MAGIC {
            return Err(SealError::Format("the plaintext does not begin like a pack"));
        }
        match reader.u32()? {
            VERSION => {}
            other => return Err(SealError::Unknown { field: "pack version", value: other.into() }),
        }
        let prelude = Self {
            frames: reader.u32()? as usize,
            chunks: reader.u32()? as usize,
            frames_length: reader.u64()?,
        };
        if reader.u64()? != 0 {
            return Err(SealError::Reserved);
        }
        let fits = prelude
            .frames_start()
            .checked_add(prelude.frames_length)
            .is_some_and(|end| end <= padded);
        if prelude.frames > storepool::pack::FRAMES_LIMIT
            || prelude.chunks > storepool::pack::CHUNKS_LIMIT
            || !fits
        {
            return Err(SealError::Format("a pack promises more than it can hold"));
        }
        Ok(prelude)
    }

    fn frames_start(&self) -> u64 {
        (PRELUDE_LENGTH + Toc::encoded_length(self.frames, self.chunks)) as u64
    }

    fn toc(&self, plaintext: &[u8]) -> Result<Toc, SealError> {
        let table =
            plaintext.get(PRELUDE_LENGTH..self.frames_start() as usize).ok_or(SealError::Length)?;
        let toc = Toc::decode(table, self.frames, self.chunks)?;
        match toc.stored_length() == self.frames_length {
            true => Ok(toc),
            false => Err(SealError::Format("the frames are not as long as the table says")),
        }
    }
}

/// A pack that was opened as a whole.
#[derive(Clone, Debug)]
pub struct OpenedPack {
    toc: Toc,
    plaintext: Vec<u8>,
    frames_start: usize,
}

impl OpenedPack {
    /// Opens a whole pack object; every byte of it is proved when this returns.
    pub fn open(keys: &RealmKeys, kind: ObjectKind, object: &[u8]) -> Result<Self, SealError> {
        let plaintext = container::open(keys, kind, object)?.plaintext;
        let prelude = Prelude::read(&plaintext, plaintext.len() as u64)?;
        let toc = prelude.toc(&plaintext)?;
        let frames_start = prelude.frames_start() as usize;
        refuse_padding_other_than_zeros(
            &plaintext[frames_start + prelude.frames_length as usize..],
        )?;
        Ok(Self { toc, plaintext, frames_start })
    }

    /// Returns the table of contents, with vault ids.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Returns the stored bytes of a frame.
    pub fn frame(&self, frame: u32) -> Option<&[u8]> {
        let start = self.frames_start + usize::try_from(self.toc.frame_offset(frame)?).ok()?;
        let length = self.toc.frames().get(frame as usize)?.stored_length as usize;
        self.plaintext.get(start..start + length)
    }
}

/// A pack in the vault of which the table of contents was read, and of which any frame can be.
#[derive(Debug)]
pub struct PackReader {
    name: ObjectName,
    container: ContainerReader,
    toc: Toc,
    frames_start: u64,
    // What was read beside the table; small packs are wholly in it.
    beginning: Vec<u8>,
}

impl PackReader {
    /// Reads the table of contents of a pack: one ranged read, a second one if the table is very long.
    ///
    /// `salt` is the one of the pack's object record: it proves that this is that object and not another one
    /// of the realm under its name. Without it (a pack that no commit names yet) only the realm and the kind
    /// are proved.
    pub async fn open(
        store: &dyn ObjectStore,
        keys: &RealmKeys,
        kind: ObjectKind,
        name: ObjectName,
        salt: Option<&[u8; 32]>,
    ) -> Result<Self> {
        let damaged = |reason: SealError| Error::damaged(&name, reason);
        let first = HEADER_LENGTH as u64 + SEGMENTS_AT_FIRST * STORED_SEGMENT_LENGTH as u64;
        let body = store.get_range(&name, 0..first).await?;
        let container = ContainerReader::new(keys, kind, &body.bytes).map_err(damaged)?;
        if salt.is_some_and(|salt| *salt != container.header().salt()) {
            return Err(damaged(SealError::Name));
        }
        if body.object_size != container.header().object_length() {
            return Err(damaged(SealError::Length));
        }
        let read = SEGMENTS_AT_FIRST.min(container.segments());
        let stored = container.stored_range(0..read);
        let stored = body
            .bytes
            .get(stored.start as usize..stored.end as usize)
            .ok_or_else(|| damaged(SealError::Length))?;
        let mut beginning = Vec::new();
        container.open_segments(0, stored, &mut beginning).map_err(damaged)?;

        let padded = container.header().padded_length();
        let prelude =
            Prelude::read(&beginning, padded.min(plaintext_limit(kind))).map_err(damaged)?;
        let missing = container.segments_of(0..prelude.frames_start());
        if missing.end > read {
            read_segments(store, &container, &name, read..missing.end, &mut beginning).await?;
        }
        let toc = prelude.toc(&beginning).map_err(damaged)?;
        Ok(Self { frames_start: prelude.frames_start(), name, container, toc, beginning })
    }

    /// Creates the reader of a pack whose table of contents is known from an index. Asks for nothing: what is
    /// read later is proved with the key that the object record determines.
    ///
    /// `None` if the realm has several master keys, so that only the pack itself tells its own.
    pub fn with_table(keys: &RealmKeys, record: &ObjectRecord, toc: Toc) -> Result<Option<Self>> {
        let name = record.name(keys.realm());
        let damaged = |reason: SealError| Error::damaged(&name, reason);
        let container = ContainerReader::of_record(keys, record.kind, record.salt, record.size)
            .map_err(damaged)?;
        let Some(container) = container else { return Ok(None) };
        let table = Toc::encoded_length(toc.frames().len(), toc.chunks().len());
        let frames_start = (PRELUDE_LENGTH + table) as u64;
        let ends = frames_start.checked_add(toc.stored_length());
        if ends.is_none_or(|end| end > container.header().padded_length()) {
            return Err(damaged(SealError::Format("its table in the index does not fit it")));
        }
        Ok(Some(Self { frames_start, name, container, toc, beginning: Vec::new() }))
    }

    /// Returns the pack's name.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Returns the table of contents, with vault ids.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Returns whether it holds content or metadata.
    pub fn kind(&self) -> ObjectKind {
        self.container.header().kind()
    }

    /// Returns the length of the object in bytes.
    pub fn stored_length(&self) -> u64 {
        self.container.header().object_length()
    }

    /// Returns the synthetic salt of the object.
    pub fn salt(&self) -> [u8; 32] {
        self.container.header().salt()
    }

    /// Returns the table of contents and forgets the rest.
    pub fn into_toc(self) -> Toc {
        self.toc
    }

    /// Reads consecutive frames, by one ranged read at most; returns their stored bytes, joined.
    ///
    /// # Panics
    /// If the pack does not have these frames.
    pub async fn read_frames(
        &self,
        store: &dyn ObjectStore,
        frames: Range<u32>,
    ) -> Result<Vec<u8>> {
        let wanted = self.plaintext_of(frames);
        if wanted.end <= self.beginning.len() as u64 {
            return Ok(self.beginning[wanted.start as usize..wanted.end as usize].to_vec());
        }
        let segments = self.container.segments_of(wanted.clone());
        let mut plaintext = Vec::new();
        read_segments(store, &self.container, &self.name, segments.clone(), &mut plaintext).await?;
        let skipped = segments.start * SEGMENT_LENGTH as u64;
        plaintext.truncate((wanted.end - skipped) as usize);
        plaintext.drain(..(wanted.start - skipped) as usize);
        Ok(plaintext)
    }

    // Where consecutive frames lie in the plaintext.
    fn plaintext_of(&self, frames: Range<u32>) -> Range<u64> {
        let offset = |frame: u32| match self.toc.frame_offset(frame) {
            Some(offset) => offset,
            None if frame as usize == self.toc.frames().len() => self.toc.stored_length(),
            None => panic!("a pack of {} frames has no frame {frame}", self.toc.frames().len()),
        };
        self.frames_start + offset(frames.start)..self.frames_start + offset(frames.end)
    }
}

async fn read_segments(
    store: &dyn ObjectStore,
    container: &ContainerReader,
    name: &ObjectName,
    segments: Range<u64>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let first = segments.start;
    let sealed = fetch_segments(store, container, name, segments).await?;
    container.open_segments(first, &sealed, out).map_err(|reason| Error::damaged(name, reason))
}

// As the store keeps them, sealed.
async fn fetch_segments(
    store: &dyn ObjectStore,
    container: &ContainerReader,
    name: &ObjectName,
    segments: Range<u64>,
) -> Result<Bytes> {
    let range = container.stored_range(segments);
    let body = store.get_range(name, range.clone()).await?;
    // A body that was cut would be taken for shorter segments and refused as changed; say what it is.
    match body.bytes.len() as u64 == range.end - range.start {
        true => Ok(body.bytes),
        false => Err(StoreError::new("read", name.as_str(), StoreFault::Corrupt)
            .because("the store returned fewer bytes than were asked for")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ring::KeyRing;
    use crate::layout::RealmId;
    use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};
    use bytes::Bytes;
    use std::sync::Arc;
    use storepool::clock::Timestamp;
    use storepool::id::{ChunkId, ChunkKind};
    use storepool::pack::{ChunkEntry, Codec, FrameEntry};

    fn keys() -> RealmKeys {
        RealmKeys::new(
            RealmId([1; 16]),
            KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), ""),
        )
    }

    // A pack of `frames` stored frames with one chunk each.
    fn pack(keys: &RealmKeys, frames: u32, length: u32) -> (Toc, Vec<u8>, Sealed) {
        let mut toc = Toc::default();
        let mut bytes = vec![0; (frames * length) as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for chunk in bytes.chunks(length as usize) {
            let id = keys.chunk_id(&ChunkId::of(ChunkKind::Data, chunk)).0;
            let entry = ChunkEntry { id, kind: ChunkKind::Data, length };
            let frame = FrameEntry {
                stored_length: length,
                raw_length: length,
                chunks: 1,
                codec: Codec::Stored,
            };
            toc.push(frame, &[entry]);
        }
        let (left, right) = bytes.split_at(bytes.len() / 2);
        let sealed = seal_pack(keys, ObjectKind::Data, &toc, &[left, right]).expect("sealed");
        (toc, bytes, sealed)
    }

    fn name(keys: &RealmKeys, sealed: &Sealed) -> ObjectName {
        ObjectName::content(keys.realm(), ObjectKind::Data, sealed.hash, 0)
    }

    #[tokio::test]
    async fn the_table_costs_one_request_and_a_frame_another() {
        let keys = keys();
        let (toc, bytes, sealed) = pack(&keys, 300, 5000);
        let store = MemoryStore::new();
        let name = name(&keys, &sealed);
        store.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
        store.take_requests();

        let reader = PackReader::open(&store, &keys, ObjectKind::Data, name, Some(&sealed.salt))
            .await
            .expect("opened");
        assert_eq!(reader.toc(), &toc);
        let seen = store.take_requests();
        assert_eq!((seen.total(), seen.bytes_read), (1, 160 + 2 * 65_552));

        for frames in [0..1, 7..8, 10..30, 150..151, 299..300, 0..300] {
            let read = reader.read_frames(&store, frames.clone()).await.expect("read");
            assert_eq!(read, &bytes[frames.start as usize * 5000..frames.end as usize * 5000]);
            assert!(store.take_requests().total() <= 1);
        }
    }

    #[tokio::test]
    async fn frames_that_were_fetched_together_are_opened_in_any_order() {
        let keys = keys();
        let (_, bytes, sealed) = pack(&keys, 300, 5000);
        let store = MemoryStore::new();
        let name = name(&keys, &sealed);
        store.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
        let reader = PackReader::open(&store, &keys, ObjectKind::Data, name, Some(&sealed.salt))
            .await
            .expect("opened");
        store.take_requests();
        assert_eq!(reader.stretch_bytes(0..3), 0);

        let stretch = reader.read_stretch(&store, 50..200).await.expect("read");

        let seen = store.take_requests();
        assert_eq!((seen.total(), seen.bytes_read), (1, reader.stretch_bytes(50..200)));
        let mut opened = OpenedSegments::default();
        for frame in (50..200).chain([60, 61, 199, 50, 198, 120, 120]) {
            let found = reader.open_frame(&stretch, frame, &mut opened).expect("opened");
            assert_eq!(found, &bytes[frame as usize * 5000..][..5000], "{frame}");
        }
    }

    #[tokio::test]
    async fn of_a_stretch_with_a_wrong_byte_only_the_frames_around_it_are_refused() {
        let keys = keys();
        let (_, bytes, mut sealed) = pack(&keys, 100, 50_000);
        let middle = sealed.object.len() / 2;
        sealed.object[middle] ^= 1;
        let store = MemoryStore::new();
        let name = name(&keys, &sealed);
        store.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
        let reader = PackReader::open(&store, &keys, ObjectKind::Data, name.clone(), None).await;
        let reader = reader.expect("opened");
        let stretch = reader.read_stretch(&store, 0..100).await.expect("read");

        let mut opened = OpenedSegments::default();
        let mut refused = 0;
        for frame in 0..100 {
            match reader.open_frame(&stretch, frame, &mut opened) {
                Ok(found) => assert_eq!(found, &bytes[frame as usize * 50_000..][..50_000]),
                Err(error) => {
                    assert!(error.to_string().contains(name.as_str()), "{error}");
                    refused += 1;
                }
            }
        }

        // A segment of 64 KiB touches two or three of them.
        assert!((2..=3).contains(&refused), "{refused}");
    }

    #[tokio::test]
    async fn packs_from_empty_to_a_very_long_table_open_both_ways() {
        let keys = keys();
        let store = MemoryStore::new();
        for (frames, length) in [(0, 1), (1, 1), (3, 70_000), (5000, 20)] {
            let (toc, bytes, sealed) = pack(&keys, frames, length);
            let name = name(&keys, &sealed);
            let opened = OpenedPack::open(&keys, ObjectKind::Data, &sealed.object).expect("opened");
            store.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
            let reader =
                PackReader::open(&store, &keys, ObjectKind::Data, name, Some(&sealed.salt))
                    .await
                    .expect("opened");

            assert_eq!((opened.toc(), reader.toc()), (&toc, &toc));
            assert_eq!(reader.read_frames(&store, 0..frames).await.expect("read"), bytes);
            let joined: Vec<u8> = (0..frames)
                .flat_map(|frame| opened.frame(frame).expect("a frame").to_vec())
                .collect();
            assert_eq!(joined, bytes);
            assert_eq!(opened.frame(frames), None);
        }
    }

    #[tokio::test]
    async fn another_pack_under_the_name_is_refused() {
        let keys = keys();
        let (one, two) = (pack(&keys, 3, 100).2, pack(&keys, 4, 100).2);
        let store = MemoryStore::new();
        let name = name(&keys, &one);
        store.tamper(name.as_str(), two.object);

        let error =
            PackReader::open(&store, &keys, ObjectKind::Data, name.clone(), Some(&one.salt))
                .await
                .expect_err("refused");
        assert!(matches!(error, Error::Damaged { reason: SealError::Name, .. }), "{error}");
        let error = PackReader::open(&store, &keys, ObjectKind::Metadata, name, None)
            .await
            .expect_err("refused");
        assert!(matches!(error, Error::Damaged { reason: SealError::Kind { .. }, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_body_that_was_cut_is_an_error_at_any_length() {
        let keys = keys();
        let (_, _, sealed) = pack(&keys, 40, 5000);
        let memory = Arc::new(MemoryStore::new());
        let name = name(&keys, &sealed);
        memory.put_new(&name, Bytes::from(sealed.object)).await.expect("put");
        for missing in [1, 16, 17, 65_551, 65_552, 131_263, 131_264] {
            let store = FaultyStore::new(memory.clone(), [(0, Fault::CutBody(missing))]);
            let opened =
                PackReader::open(&store, &keys, ObjectKind::Data, name.clone(), None).await;
            assert!(opened.is_err(), "{missing}");
        }
        let reader = PackReader::open(memory.as_ref(), &keys, ObjectKind::Data, name, None)
            .await
            .expect("opened");
        let store = FaultyStore::new(memory, [(0, Fault::CutBody(1))]);
        let error = reader.read_frames(&store, 39..40).await.expect_err("refused");
        assert_eq!(error.store_fault(), Some(StoreFault::Corrupt));
    }

    #[test]
    fn frames_that_do_not_fit_the_table_are_refused() {
        let keys = keys();
        let (toc, bytes, _) = pack(&keys, 3, 100);
        assert!(seal_pack(&keys, ObjectKind::Data, &toc, &[&bytes[1..]]).is_err());
    }
}
