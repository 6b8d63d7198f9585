//! Copying what is needed of poor packs into new ones. From the pool where it has the chunks, so that it costs no
//! download; else from the vault. Every chunk is compared with its name before the copy counts.
//!
//! Blocks: runs on a thread of its own and drives the store by a handle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use storepool::chunks::{PoolChunks, PoolReader};
use storepool::id::{ChunkId, ChunkKind};
use storepool::monitor::{Event, Monitor};
use storepool::pack::frame::{FrameBuilder, FrameCodec};
use storepool::pack::{ChunkEntry, Toc};
use storepool::pool::Session;
use storepool::tree::ChunkFetch;
use storepool::writer::{DATA_FRAME_LENGTH, METADATA_FRAME_LENGTH};
use tokio::runtime::Handle;

use crate::crypto::container::object_limit;
use crate::crypto::ring::{RealmKeys, VaultChunkId};
use crate::error::{Error, Result};
use crate::layout::{ObjectHash, ObjectKind};
use crate::marks::LiveChunks;
use crate::prune::usage::live_ordinals;
use crate::store::proof::{PutOutcome, put_proved};
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::{OpenedPack, PackReader, seal_pack};
use crate::vault::snapshot::Snapshot;
use crate::vault::tables::IndexBuilder;

/// Chunks after which a pack is closed whatever its length, as in a sync.
const CHUNKS_MOST: usize = 1 << 17;
/// Frames that are fetched one by one; if more are needed, the whole pack is.
const FRAMES_ALONE: usize = 8;
/// Level of compression where there is no pool that says one.
const LEVEL: i32 = 3;

/// What a batch has copied, not yet named by a commit.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// New packs, in the order in which they are to get their ordinals, and after them their index.
    pub(super) added: Vec<ObjectRecord>,
    /// For each old pack, by its ordinal, which of `added` hold what was needed of it.
    pub(super) moved: BTreeMap<u64, BTreeSet<ObjectHash>>,
    /// Old packs that cannot be copied.
    pub(super) unreadable: u64,
    pub(super) packs_written: u64,
    pub(super) bytes_written: u64,
    pub(super) chunks_from_pool: u64,
    pub(super) chunks_from_vault: u64,
}

/// Copies packs of one realm.
pub(super) struct Copier<'a> {
    pub(super) realm: &'a Realm,
    pub(super) runtime: Handle,
    pub(super) state: &'a Snapshot,
    pub(super) pool: Option<&'a Session>,
    /// Packs of the state that were found lost or damaged.
    pub(super) doubted: &'a BTreeSet<u64>,
    pub(super) marks: &'a LiveChunks,
    pub(super) pack_length: usize,
    pub(super) monitor: &'a dyn Monitor,
}

struct Builder {
    number: usize,
    kind: ObjectKind,
    toc: Toc,
    frames: Vec<u8>,
    // Chunks that wait to become a frame; named as in the pool.
    loose: FrameBuilder,
}

struct Work<'a> {
    copier: &'a Copier<'a>,
    keys: Arc<RealmKeys>,
    codec: FrameCodec,
    reader: Option<PoolReader<'a>>,
    in_pool: HashMap<VaultChunkId, ChunkId>,
    builders: BTreeMap<ObjectKind, Builder>,
    begun: usize,
    // By number of the new pack.
    closed: BTreeMap<usize, (ObjectRecord, Toc)>,
    // Where a chunk went: the number of the new pack.
    placed: HashMap<VaultChunkId, usize>,
    // For each old pack the numbers of new ones.
    targets: BTreeMap<u64, BTreeSet<usize>>,
    copied: Copied,
}

impl Copier<'_> {
    /// Copies what is needed of these packs and puts the copies; nothing is changed for anybody by that.
    pub(super) fn copy(&self, packs: &[(u64, ObjectRecord)]) -> Result<Copied> {
        let level = self.pool.map_or(LEVEL, |it| it.pool().options().compression_level);
        let mut work = Work {
            copier: self,
            keys: self.realm.keys().clone(),
            codec: FrameCodec::new(level)?,
            reader: self.pool.map(|it| PoolChunks::new(it).pool_reader()).transpose()?,
            in_pool: HashMap::new(),
            builders: BTreeMap::new(),
            begun: 0,
            closed: BTreeMap::new(),
            placed: HashMap::new(),
            targets: BTreeMap::new(),
            copied: Copied::default(),
        };
        let mut readers = Vec::new();
        for (ordinal, record) in packs {
            match self.open(record) {
                Ok(reader) => readers.push((*ordinal, *record, reader)),
                Err(error) if error.is_gap() => work.give_up(*ordinal, &error),
                Err(error) => return Err(error),
            }
        }
        work.look_into_the_pool(readers.iter().map(|(_, _, reader)| reader.toc()))?;
        for (ordinal, record, reader) in readers {
            if self.monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            match work.copy_pack(ordinal, &record, &reader) {
                Ok(()) => {}
                Err(error) if error.is_gap() => work.give_up(ordinal, &error),
                Err(error) => return Err(error),
            }
        }
        work.finish()
    }

    fn open(&self, record: &ObjectRecord) -> Result<PackReader> {
        let name = record.name(self.realm.id());
        let (store, keys) = (self.realm.store().as_ref(), self.realm.keys());
        let open = PackReader::open(store, keys, record.kind, name, Some(&record.salt));
        self.runtime.block_on(open)
    }
}

impl<'a> Work<'a> {
    fn give_up(&mut self, ordinal: u64, error: &Error) {
        tracing::warn!(%error, "a pack of the vault stays as it is");
        self.targets.remove(&ordinal);
        self.copied.unreadable += 1;
    }

    // Vault chunk ids cannot be turned back, so the pool's tables are gone through once for all that is wanted.
    fn look_into_the_pool<'t>(&mut self, tables: impl Iterator<Item = &'t Toc>) -> Result<()> {
        let Some(session) = self.copier.pool else { return Ok(()) };
        let mut wanted: HashMap<VaultChunkId, ChunkKind> = HashMap::new();
        for toc in tables {
            for ordinal in live_ordinals(toc, self.copier.marks) {
                let chunk = toc.chunks()[ordinal as usize];
                wanted.insert(VaultChunkId(chunk.id), chunk.kind);
            }
        }
        let pool = session.pool();
        for row in pool.pack_rows() {
            if self.in_pool.len() == wanted.len() {
                break;
            }
            let Ok(pack) = pool.open_pack(&row) else { continue };
            for chunk in pack.toc().chunks() {
                let id = self.keys.chunk_id(&chunk.id);
                if wanted.get(&id) == Some(&chunk.kind) {
                    self.in_pool.insert(id, chunk.id);
                }
            }
        }
        Ok(())
    }

    fn copy_pack(&mut self, ordinal: u64, record: &ObjectRecord, pack: &PackReader) -> Result<()> {
        self.targets.insert(ordinal, BTreeSet::new());
        let toc = pack.toc();
        let mut live = live_ordinals(toc, self.copier.marks).peekable();
        // Chunks of each frame that are not in the pool, or not sound there.
        let mut wanted: BTreeMap<u32, Vec<(u32, ChunkEntry)>> = BTreeMap::new();
        let mut first = 0;
        for (frame, entry) in (0u32..).zip(toc.frames()) {
            let end = first + entry.chunks;
            let mut offset = 0;
            for number in first..end {
                let chunk = toc.chunks()[number as usize];
                let own = offset;
                offset += chunk.length;
                if live.next_if_eq(&number).is_none() || self.is_placed(ordinal, &chunk) {
                    continue;
                }
                match self.fetch_from_pool(&chunk) {
                    Some(bytes) => {
                        self.copied.chunks_from_pool += 1;
                        self.take(ordinal, record.kind, &chunk, &bytes)?;
                    }
                    None => wanted.entry(frame).or_default().push((own, chunk)),
                }
            }
            first = end;
        }
        self.copy_frames(ordinal, record, pack, &wanted)?;
        self.copier.monitor.event(Event::Done { items: 1, bytes: record.size });
        Ok(())
    }

    fn copy_frames(
        &mut self,
        ordinal: u64,
        record: &ObjectRecord,
        pack: &PackReader,
        wanted: &BTreeMap<u32, Vec<(u32, ChunkEntry)>>,
    ) -> Result<()> {
        let whole = match wanted.len() > FRAMES_ALONE {
            true => Some(self.fetch_whole(record)?),
            false => None,
        };
        for (frame, chunks) in wanted {
            let stored = match &whole {
                Some(whole) => whole.frame(*frame).unwrap_or_default().to_vec(),
                None => {
                    let store = self.copier.realm.store().as_ref();
                    self.copier.runtime.block_on(pack.read_frames(store, *frame..frame + 1))?
                }
            };
            let entry = pack.toc().frames()[*frame as usize];
            let decoded = self.codec.decode(&entry, &stored)?.to_vec();
            for (offset, chunk) in chunks {
                let (start, length) = (*offset as usize, chunk.length as usize);
                let bytes = decoded.get(start..start + length).unwrap_or_default();
                self.copied.chunks_from_vault += 1;
                self.take(ordinal, record.kind, chunk, bytes)?;
            }
        }
        Ok(())
    }

    fn fetch_whole(&self, record: &ObjectRecord) -> Result<OpenedPack> {
        let name = record.name(self.copier.realm.id());
        let get = self.copier.realm.store().get(&name, object_limit(record.kind));
        let body = self.copier.runtime.block_on(get)?;
        if ObjectHash::of(&body.bytes) != record.hash {
            return Err(Error::damaged(&name, crate::error::SealError::Name));
        }
        OpenedPack::open(&self.keys, record.kind, &body.bytes)
            .map_err(|reason| Error::damaged(&name, reason))
    }

    fn fetch_from_pool(&self, chunk: &ChunkEntry) -> Option<Vec<u8>> {
        let id = self.in_pool.get(&VaultChunkId(chunk.id))?;
        self.reader.as_ref()?.fetch(*id, chunk.kind).ok()
    }

    // A chunk that two old packs hold is copied once.
    fn is_placed(&mut self, ordinal: u64, chunk: &ChunkEntry) -> bool {
        let Some(number) = self.placed.get(&VaultChunkId(chunk.id)) else { return false };
        self.targets.entry(ordinal).or_default().insert(*number);
        true
    }

    fn take(
        &mut self,
        ordinal: u64,
        kind: ObjectKind,
        chunk: &ChunkEntry,
        bytes: &[u8],
    ) -> Result<()> {
        let plain = ChunkId::of(chunk.kind, bytes);
        if self.keys.chunk_id(&plain).0 != chunk.id {
            let object = format!("chunk {} of the vault", chunk.id.short());
            return Err(storepool::Error::damaged(object, "does not match its name").into());
        }
        let begun = &mut self.begun;
        let builder = self.builders.entry(kind).or_insert_with(|| {
            *begun += 1;
            Builder {
                number: *begun - 1,
                kind,
                toc: Toc::default(),
                frames: Vec::new(),
                loose: FrameBuilder::default(),
            }
        });
        builder.loose.push(plain, chunk.kind, bytes, None);
        self.placed.insert(VaultChunkId(chunk.id), builder.number);
        self.targets.entry(ordinal).or_default().insert(builder.number);
        let full = match kind {
            ObjectKind::Data => DATA_FRAME_LENGTH,
            _ => METADATA_FRAME_LENGTH,
        };
        if builder.loose.raw_length() >= full {
            builder.flush(&mut self.codec, &self.keys)?;
            let large = builder.frames.len() >= self.copier.pack_length;
            if large || builder.toc.chunks().len() >= CHUNKS_MOST {
                self.close(kind)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, kind: ObjectKind) -> Result<()> {
        let Some(mut builder) = self.builders.remove(&kind) else { return Ok(()) };
        builder.flush(&mut self.codec, &self.keys)?;
        let sealed = seal_pack(&self.keys, kind, &builder.toc, &[&builder.frames])
            .map_err(|_| Error::TooLarge { what: "a pack" })?;
        let record = self.put(kind, sealed)?;
        self.closed.insert(builder.number, (record, builder.toc));
        Ok(())
    }

    fn put(
        &mut self,
        kind: ObjectKind,
        sealed: crate::crypto::container::Sealed,
    ) -> Result<ObjectRecord> {
        let (realm, state) = (self.copier.realm, self.copier.state);
        let record = ObjectRecord {
            kind,
            hash: sealed.hash,
            copy: state.next_copy(sealed.hash),
            size: sealed.object.len() as u64,
            salt: sealed.salt,
        };
        if let Some(ordinal) = state.live_object(sealed.hash) {
            return match self.copier.doubted.contains(&ordinal) {
                // The originals would be given up for what is lost.
                true => {
                    Err(Error::damaged(&record.name(realm.id()), crate::error::SealError::Name))
                }
                false => Ok(record),
            };
        }
        let name = record.name(realm.id());
        let put = put_proved(realm.store().as_ref(), &name, sealed.object.into());
        if let PutOutcome::Created(_) = self.copier.runtime.block_on(put)? {
            // A store may say yes and keep nothing, or a part; the originals are given up for this copy.
            let kept = self.copier.runtime.block_on(realm.store().head(&name))?;
            if kept.size != record.size {
                return Err(Error::damaged(&name, crate::error::SealError::Length));
            }
            self.copied.packs_written += u64::from(kind != ObjectKind::Index);
            self.copied.bytes_written += record.size;
            self.copier.monitor.event(Event::Stored { bytes: record.size });
        }
        Ok(record)
    }

    fn finish(mut self) -> Result<Copied> {
        self.close(ObjectKind::Data)?;
        self.close(ObjectKind::Metadata)?;
        let mut index = IndexBuilder::default();
        for (record, toc) in self.closed.values() {
            index.push(record.hash, record.copy, record.kind, toc);
        }
        self.copied.added = self.closed.values().map(|(record, _)| *record).collect();
        let mut tables = None;
        if !index.is_empty() {
            let sealed =
                index.seal(&self.keys).map_err(|_| Error::TooLarge { what: "an index" })?;
            let record = self.put(ObjectKind::Index, sealed)?;
            self.copied.added.push(record);
            tables = Some(record.hash);
        }
        for (ordinal, numbers) in &self.targets {
            let mut hashes: BTreeSet<ObjectHash> =
                numbers.iter().map(|number| self.closed[number].0.hash).collect();
            // Without the index a reader would have to ask each new pack for its table.
            if !hashes.is_empty() {
                hashes.extend(tables);
            }
            self.copied.moved.insert(*ordinal, hashes);
        }
        Ok(self.copied)
    }
}

impl Builder {
    fn flush(&mut self, codec: &mut FrameCodec, keys: &RealmKeys) -> Result<()> {
        if self.loose.is_empty() {
            return Ok(());
        }
        let renamed: Vec<_> = self
            .loose
            .chunks()
            .iter()
            .map(|chunk| ChunkEntry { id: keys.chunk_id(&chunk.id).0, ..*chunk })
            .collect();
        let sealed = codec.seal(&self.loose)?;
        self.toc.push(sealed.entry, &renamed);
        self.frames.extend_from_slice(sealed.stored);
        self.loose.clear();
        Ok(())
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("kind", &self.kind).finish_non_exhaustive()
    }
}
