//! The chunks of points of the vault, found by the tables of the packs that the points need, and read by ranges.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use storepool::chunks::{ChunkReader, ChunkSource, Expectation, Frame, Placement};
use storepool::id::{ChunkId, ChunkKind, PackId};
use storepool::pack::Toc;
use storepool::pack::frame::FrameCodec;
use storepool::tree::ChunkFetch;
use tokio::runtime::Handle;

use crate::crypto::ring::VaultChunkId;
use crate::error::{Error, Result};
use crate::layout::ObjectKind;
use crate::recovery::ahead::{ROOM_BYTES, ReadAhead};
use crate::recovery::tables::read_tables;
use crate::recovery::windows::Windows;
use crate::vault::Ordinals;
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::{OpenedSegments, PackReader};
use crate::vault::snapshot::Snapshot;

/// Frames that are read one by one before a reader is taken for one that wants much.
const FRAMES_ALONE: u32 = 16;
/// Files from which on it is worth while to read their trees in windows at once.
const MANY_FILES: u64 = 2000;
/// Decoded frames kept by one reader; trees of neighbouring directories share frames.
const FRAMES_CACHED: usize = 16;

/// The chunks of some points, in the vault. Takes about 60 bytes of memory for each chunk in the packs they need.
pub struct VaultChunks {
    realm: Realm,
    runtime: Handle,
    packs: BTreeMap<u64, Arc<PackReader>>,
    // Sorted by the beginning of the vault chunk id.
    places: Vec<ChunkPlace>,
    ahead: Arc<ReadAhead>,
    // What nobody announced.
    frames_read: AtomicU32,
    windows: Mutex<Windows>,
    // Most of the trees will be read.
    many_trees: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ChunkPlace {
    prefix: u64,
    pack: u32,
    ordinal: u32,
}

impl std::fmt::Debug for VaultChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultChunks").field("packs", &self.packs.len()).finish_non_exhaustive()
    }
}

impl VaultChunks {
    /// Opens the chunks of the packs among these objects; objects that are gone are passed over.
    ///
    /// `runtime` drives the store when chunks are read later, by threads that are not its own.
    pub async fn open(
        realm: &Realm,
        snapshot: &Snapshot,
        needs: &Ordinals,
        runtime: Handle,
    ) -> Result<Self> {
        let tables = read_tables(realm, snapshot, needs).await?;
        let mut chunks = Self {
            realm: realm.clone(),
            ahead: ReadAhead::new(realm.store().clone(), runtime.clone(), ROOM_BYTES),
            runtime,
            packs: BTreeMap::new(),
            places: Vec::new(),
            frames_read: AtomicU32::new(0),
            windows: Mutex::default(),
            many_trees: AtomicBool::new(false),
        };
        for (ordinal, record, toc) in tables {
            chunks.add(ordinal, &record, toc).await?;
        }
        chunks.places.sort_unstable();
        Ok(chunks)
    }

    async fn add(&mut self, ordinal: u64, record: &ObjectRecord, toc: Toc) -> Result<()> {
        let pack = u32::try_from(ordinal).map_err(|_| Error::TooLarge { what: "the vault" })?;
        self.places.extend((0u32..).zip(toc.chunks()).map(|(ordinal, chunk)| ChunkPlace {
            prefix: prefix(&VaultChunkId(chunk.id)),
            pack,
            ordinal,
        }));
        let keys = self.realm.keys();
        let reader = match PackReader::with_table(keys, record, toc)? {
            Some(reader) => reader,
            None => {
                let name = record.name(self.realm.id());
                let store = self.realm.store().as_ref();
                PackReader::open(store, keys, record.kind, name, Some(&record.salt)).await?
            }
        };
        self.packs.insert(ordinal, Arc::new(reader));
        Ok(())
    }

    // Everywhere that a chunk is said to be; usually one place.
    fn places(&self, id: ChunkId) -> impl Iterator<Item = Placement> + '_ {
        let vault_id = self.realm.keys().chunk_id(&id);
        let prefix = prefix(&vault_id);
        let from = self.places.partition_point(|place| place.prefix < prefix);
        let alike = self.places[from..].iter().take_while(move |place| place.prefix == prefix);
        alike.filter_map(move |place| {
            let toc = self.packs[&u64::from(place.pack)].toc();
            let same =
                toc.chunks().get(place.ordinal as usize).is_some_and(|it| it.id == vault_id.0);
            let slot = toc.slot(place.ordinal).filter(|_| same)?;
            Some(Placement {
                pack: place.pack.into(),
                frame: slot.frame,
                offset: slot.offset,
                length: slot.length,
            })
        })
    }

    /// Returns whether a chunk is in one of the packs.
    pub fn has(&self, id: ChunkId) -> bool {
        self.places(id).next().is_some()
    }

    fn find(&self, id: ChunkId) -> storepool::Result<Placement> {
        self.places(id).next().ok_or(storepool::Error::ChunkMissing { chunk: id })
    }

    fn pack(&self, pack: u64) -> storepool::Result<&PackReader> {
        self.packs.get(&pack).map(Arc::as_ref).ok_or_else(|| {
            storepool::Error::damaged(format!("object {pack} of the vault"), "is not known")
        })
    }

    // Reads the stored bytes of a frame that nobody expected.
    fn stored_frame(&self, number: u64, frame: u32, out: &mut Vec<u8>) -> storepool::Result<()> {
        let pack = self.pack(number)?;
        out.clear();
        let is_tree = pack.kind() == ObjectKind::Metadata;
        let much = is_tree && self.many_trees.load(Ordering::Relaxed);
        let alone = self.frames_read.fetch_add(1, Ordering::Relaxed) < FRAMES_ALONE && !much;
        let found = match alone {
            true => None,
            false => {
                let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
                windows.find(number, pack.toc(), frame)
            }
        };
        let Some((window, kept)) = found else {
            out.extend_from_slice(&self.fetch_frames(pack, frame..frame + 1)?);
            return Ok(());
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &*kept {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = Arc::new(self.fetch_frames(pack, window.clone())?);
                *kept = Some(bytes.clone());
                bytes
            }
        };
        drop(kept);
        let offset = |frame| pack.toc().frame_offset(frame).unwrap_or(0);
        let start = (offset(frame) - offset(window.start)) as usize;
        let length = pack.toc().frames()[frame as usize].stored_length as usize;
        out.extend_from_slice(&bytes[start..start + length]);
        Ok(())
    }

    fn fetch_frames(&self, pack: &PackReader, frames: Range<u32>) -> storepool::Result<Vec<u8>> {
        let store = self.realm.store().as_ref();
        self.runtime.block_on(pack.read_frames(store, frames)).map_err(|error| to_pool(error, pack))
    }
}

fn prefix(id: &VaultChunkId) -> u64 {
    id.0.prefix() as u64
}

fn to_pool(error: Error, pack: &PackReader) -> storepool::Error {
    match error {
        Error::Pool(error) => error,
        error if error.is_gap() => storepool::Error::damaged(
            format!("\"{}\" in the vault", pack.name()),
            error.to_string(),
        ),
        error => {
            let cause = std::io::Error::other(error);
            storepool::Error::Io { action: "read", path: pack.name().as_str().into(), cause }
        }
    }
}

impl ChunkSource for VaultChunks {
    fn reader(&self) -> storepool::Result<Box<dyn ChunkReader + '_>> {
        Ok(Box::new(VaultReader {
            chunks: self,
            state: RefCell::new(ReaderState {
                // Only decodes; the level does not matter.
                codec: FrameCodec::new(1)?,
                opened: OpenedSegments::default(),
                stored: Vec::new(),
                frames: Vec::new(),
            }),
        }))
    }

    fn expect(&self, frames: &[(u64, u32)], readers: usize) -> Option<Expectation> {
        Some(self.ahead.expect(&self.packs, frames, readers))
    }

    fn expect_trees(&self, files: u64) {
        if files >= MANY_FILES {
            self.many_trees.store(true, Ordering::Relaxed);
        }
    }
}

/// Reads chunks of a point of the vault; belongs to one thread.
#[derive(Debug)]
struct VaultReader<'a> {
    chunks: &'a VaultChunks,
    state: RefCell<ReaderState>,
}

/// A pack's ordinal and a frame in it.
type FrameKey = (u64, u32);

#[derive(Debug)]
struct ReaderState {
    codec: FrameCodec,
    opened: OpenedSegments,
    stored: Vec<u8>,
    // Decoded frames, the most recently used last.
    frames: Vec<(FrameKey, Arc<[u8]>)>,
}

impl ReaderState {
    fn decoded(&mut self, chunks: &VaultChunks, key: FrameKey) -> storepool::Result<Arc<[u8]>> {
        if let Some(index) = self.frames.iter().position(|(cached, _)| *cached == key) {
            let cached = self.frames.remove(index);
            let bytes = cached.1.clone();
            self.frames.push(cached);
            return Ok(bytes);
        }
        let bytes: Arc<[u8]> = self.decode(chunks, key)?.into();
        if self.frames.len() == FRAMES_CACHED {
            self.frames.remove(0);
        }
        self.frames.push((key, bytes.clone()));
        Ok(bytes)
    }

    fn decode(&mut self, chunks: &VaultChunks, (no, frame): FrameKey) -> storepool::Result<&[u8]> {
        let pack = chunks.pack(no)?;
        let entry = pack.toc().frames().get(frame as usize).copied();
        let entry = entry.ok_or_else(|| damaged_pack(pack, "has no such frame"))?;
        let came = chunks.ahead.take(no, frame).map_err(|error| to_pool(error, pack))?;
        let stored = match came {
            Some(stretch) => pack
                .open_frame(&stretch, frame, &mut self.opened)
                .map_err(|error| to_pool(error, pack))?,
            None => {
                chunks.stored_frame(no, frame, &mut self.stored)?;
                &self.stored
            }
        };
        self.codec.decode(&entry, stored).map_err(|error| damaged_pack(pack, error))
    }
}

fn damaged_pack(pack: &PackReader, reason: impl ToString) -> storepool::Error {
    let id = pack.name().content_parts().map_or(PackId([0; 32]), |(hash, _)| PackId(hash.0));
    storepool::Error::PackDamaged { pack: id, reason: reason.to_string() }
}

impl VaultReader<'_> {
    fn fetch_at(
        &self,
        place: &Placement,
        id: ChunkId,
        kind: ChunkKind,
    ) -> storepool::Result<Vec<u8>> {
        let frame = self.state.borrow_mut().decoded(self.chunks, (place.pack, place.frame))?;
        let start = place.offset as usize;
        let chunk = frame.get(start..start + place.length as usize);
        match chunk.filter(|chunk| ChunkId::of(kind, chunk) == id) {
            Some(chunk) => Ok(chunk.to_vec()),
            None => Err(damaged_pack(
                self.chunks.pack(place.pack)?,
                format!("chunk {} does not match its name", id.short()),
            )),
        }
    }
}

impl ChunkFetch for VaultReader<'_> {
    fn fetch(&self, id: ChunkId, kind: ChunkKind) -> storepool::Result<Vec<u8>> {
        let mut failure = storepool::Error::ChunkMissing { chunk: id };
        // A pack that was healed in part leaves some chunks in two places, one of them damaged.
        for place in self.chunks.places(id) {
            match self.fetch_at(&place, id, kind) {
                Err(error) if error.is_damage() => failure = error,
                other => return other,
            }
        }
        Err(failure)
    }
}

impl ChunkReader for VaultReader<'_> {
    fn locate(&mut self, id: ChunkId) -> storepool::Result<Placement> {
        self.chunks.find(id)
    }

    fn read_frame(&mut self, pack: u64, frame: u32) -> storepool::Result<Frame<'_>> {
        let chunks = self.chunks;
        let decoded = self.state.get_mut().decode(chunks, (pack, frame))?;
        let reader = chunks.pack(pack)?;
        let (_, entries) = reader
            .toc()
            .chunks_of(frame)
            .ok_or_else(|| damaged_pack(reader, "has no such frame"))?;
        let mut rest = decoded;
        for entry in entries {
            let own;
            (own, rest) = rest
                .split_at_checked(entry.length as usize)
                .ok_or_else(|| damaged_pack(reader, "a frame is too short"))?;
            // Which pool chunk a wrong one should have been cannot be told; the caller asks for each by name.
            if chunks.realm.keys().chunk_id(&ChunkId::of(entry.kind, own)).0 != entry.id {
                return Err(damaged_pack(reader, "a chunk does not match its name"));
            }
        }
        Ok(Frame::new(decoded, &[]))
    }
}
