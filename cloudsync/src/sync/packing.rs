//! The reading side of a sync: what a point needs and the vault lacks, verified and gathered into packs. Blocks,
//! so it runs on a thread of its own and hands its parcels over a channel.
//!
//! A frame of the pool of which everything is needed is copied as it is, compressed; of others the needed chunks
//! are gathered into new frames. Every chunk is compared with its name before it leaves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use storepool::catalog::Point;
use storepool::chunks::{PoolChunks, PoolReader};
use storepool::id::{ChunkId, ChunkKind};
use storepool::monitor::{Event, Monitor};
use storepool::pack::frame::{FrameBuilder, FrameCodec};
use storepool::pack::{ChunkEntry, PackKind, Toc};
use storepool::pool::Session;
use storepool::reach::{Reach, Reached};
use storepool::simulated;
use storepool::tree::ChunkFetch;
use tokio::sync::mpsc::Sender;

use crate::crypto::ring::RealmKeys;
use crate::layout::ObjectKind;
use crate::ledger::{ChunkName, Ledger, LedgerPack};
use crate::sync::gate::{Gate, GatePlace};
use crate::sync::{Skipped, SyncOptions};

/// Chunks after which a pack is closed whatever its length, so that its table of contents stays a small part of an index.
const CHUNKS_MOST: usize = 1 << 17;
/// New frames of chunks whose pool frames are needed only in part; the pool's own lengths.
const DATA_FRAME_LENGTH: usize = storepool::writer::DATA_FRAME_LENGTH;
const METADATA_FRAME_LENGTH: usize = storepool::writer::METADATA_FRAME_LENGTH;
/// Bytes after which what was gathered is committed, so that an early end of a long sync keeps its points.
const COMMIT_BYTES: u64 = 1 << 30;
/// Points after which the same is done.
const COMMIT_POINTS: usize = 64;

/// What the reading side hands over.
#[derive(Debug)]
pub(super) enum Parcel {
    /// A pack to be sealed and put.
    Pack(BuiltPack),
    /// A point of which every chunk is in the vault or in a pack handed over before.
    Point(Box<PackedPoint>),
    /// A point that cannot be copied.
    Skipped(Skipped),
    /// A good moment to commit.
    Commit,
}

/// A pack before it is sealed.
#[derive(Debug)]
pub(super) struct BuiltPack {
    pub(super) no: LedgerPack,
    pub(super) kind: ObjectKind,
    /// With vault ids.
    pub(super) toc: Toc,
    pub(super) frames: Vec<u8>,
    pub(super) place: GatePlace,
}

/// A point with everything it needs.
#[derive(Debug)]
pub(super) struct PackedPoint {
    pub(super) point: Point,
    /// The bytes of its manifest.
    pub(super) manifest: Vec<u8>,
    pub(super) packs: BTreeSet<LedgerPack>,
    /// Bytes of frames that were added for it.
    pub(super) bytes_stored: u64,
}

/// Why the reading side ended early.
#[derive(Debug)]
pub(super) enum Halt {
    /// Something failed.
    Failed(crate::Error),
    /// Nobody takes the parcels any more.
    Unwanted,
}

impl<E: Into<crate::Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Walks points and builds packs.
pub(super) struct Packer {
    session: Arc<Session>,
    ledger: Arc<Ledger>,
    keys: Arc<RealmKeys>,
    options: SyncOptions,
    monitor: Arc<dyn Monitor>,
    gate: Arc<Gate>,
    parcels: Sender<Parcel>,
    codec: FrameCodec,
    stored: Vec<u8>,
    // The packs being built, and which of their chunks the ledger does not have yet.
    data: Option<PackBuilder>,
    metadata: Option<PackBuilder>,
    open: HashMap<ChunkName, LedgerPack>,
    bytes_added: u64,
}

/// A monitor for the walk of the trees, whose counts would be taken for progress of the copy.
struct OnlyCancellation<'a> {
    monitor: &'a dyn Monitor,
    gate: &'a Gate,
}

impl Monitor for OnlyCancellation<'_> {
    fn event(&self, _event: Event) {}

    fn cancelled(&self) -> bool {
        self.monitor.cancelled() || self.gate.is_closed()
    }
}

impl Packer {
    pub(super) fn new(
        session: Arc<Session>,
        ledger: Arc<Ledger>,
        keys: Arc<RealmKeys>,
        options: SyncOptions,
        monitor: Arc<dyn Monitor>,
        gate: Arc<Gate>,
        parcels: Sender<Parcel>,
    ) -> crate::Result<Self> {
        let level = session.pool().options().compression_level;
        Ok(Self {
            session,
            ledger,
            keys,
            options,
            monitor,
            gate,
            parcels,
            codec: FrameCodec::new(level)?,
            stored: Vec::new(),
            data: None,
            metadata: None,
            open: HashMap::new(),
            bytes_added: 0,
        })
    }

    /// Hands over everything that these points need, in their order.
    pub(super) fn run(mut self, points: Vec<Point>) -> Result<(), Halt> {
        let (mut since_commit, mut points_since) = (0, 0);
        for point in points {
            let before = self.bytes_added;
            let parcel = self.pack_point(point)?;
            self.send(parcel)?;
            since_commit += self.bytes_added - before;
            points_since += 1;
            if since_commit >= COMMIT_BYTES || points_since >= COMMIT_POINTS {
                self.close_packs()?;
                self.send(Parcel::Commit)?;
                (since_commit, points_since) = (0, 0);
            }
        }
        self.close_packs()?;
        self.send(Parcel::Commit)
    }

    fn send(&self, parcel: Parcel) -> Result<(), Halt> {
        self.parcels.blocking_send(parcel).map_err(|_| Halt::Unwanted)
    }

    fn check(&self) -> Result<(), Halt> {
        if self.gate.is_closed() {
            return Err(Halt::Unwanted);
        }
        match self.monitor.cancelled() {
            true => Err(storepool::Error::Interrupted.into()),
            false => Ok(()),
        }
    }

    fn pack_point(&mut self, point: Point) -> Result<Parcel, Halt> {
        let skipped = |reason: String| Ok(Parcel::Skipped(Skipped { point: point.id, reason }));
        let session = self.session.clone();
        let manifest = match session.pool().manifest(point.id) {
            Ok(manifest) => manifest.encode(),
            // Forgotten in the pool meanwhile, or damaged there.
            Err(error) if error.is_damage() || is_missing(&error) => {
                return skipped(error.to_string());
            }
            Err(error) => return Err(error.into()),
        };
        let mut reach = Reach::new(&session)?;
        let walking = OnlyCancellation { monitor: &*self.monitor, gate: &self.gate };
        reach.mark_points(&[point.id], &walking)?;
        if let Some(hole) = reach.holes().first() {
            return skipped(format!("its copy in the pool is not complete: {}", hole.detail));
        }
        let reader = PoolChunks::new(&session).pool_reader()?;
        let before = self.bytes_added;
        let mut packs = BTreeSet::new();
        let mut group: Vec<Reached> = Vec::new();
        let mut chunks = reach.chunks();
        loop {
            let next = chunks.next().transpose()?;
            let ends = group
                .first()
                .is_some_and(|first| next.is_none_or(|next| next.place.pack != first.place.pack));
            if ends {
                self.check()?;
                match self.take_group(&group, &reader, &mut packs)? {
                    Ok(()) => {}
                    Err(damage) => return skipped(damage.to_string()),
                }
                let bytes = group.iter().map(|chunk| u64::from(chunk.entry.length)).sum();
                self.monitor.event(Event::Done { items: group.len() as u64, bytes });
                group.clear();
            }
            match next {
                Some(chunk) => group.push(chunk),
                None => break,
            }
        }
        let bytes_stored = self.bytes_added - before;
        Ok(Parcel::Point(Box::new(PackedPoint { point, manifest, packs, bytes_stored })))
    }

    // Needed chunks of one pool pack, in its order. The inner error: a chunk that the pool cannot give any more.
    fn take_group(
        &mut self,
        group: &[Reached],
        reader: &PoolReader<'_>,
        packs: &mut BTreeSet<LedgerPack>,
    ) -> Result<Result<(), storepool::Error>, Halt> {
        let names: Vec<_> = group.iter().map(|chunk| self.name(&chunk.entry.id)).collect();
        let known = self.ledger.locate(&names)?;
        let mut wanted = Vec::new();
        for (chunk, name) in group.iter().zip(names) {
            match self.open.get(&name).or_else(|| known.get(&name)) {
                Some(pack) => {
                    packs.insert(*pack);
                }
                None => wanted.push((chunk.place.ordinal, chunk.entry)),
            }
        }
        let Some(first) = group.first().filter(|_| !wanted.is_empty()) else { return Ok(Ok(())) };
        let pool = self.session.pool().clone();
        let row = pool.pack_row(first.place.pack)?;
        let pack = match row.as_ref().map(|row| pool.open_pack(row)).transpose() {
            Ok(Some(pack)) => pack,
            Err(error) if !error.is_damage() => return Err(error.into()),
            // Each chunk may still be elsewhere.
            _ => return self.take_one_by_one(wanted.iter(), reader, packs),
        };
        let toc = pack.toc().clone();
        let mut rest = wanted.as_slice();
        let mut first_chunk = 0;
        for (frame, entry) in (0u32..).zip(toc.frames()) {
            let end = first_chunk + entry.chunks;
            let (own, after) = rest.split_at(rest.partition_point(|(ordinal, _)| *ordinal < end));
            rest = after;
            let chunks = &toc.chunks()[first_chunk as usize..end as usize];
            let whole = own.len() == chunks.len();
            let start = first_chunk;
            first_chunk = end;
            if own.is_empty() {
                continue;
            }
            self.check()?;
            let mut stored = std::mem::take(&mut self.stored);
            let sound = pack.read_stored(frame, &mut stored).is_ok()
                && self.codec.decode(entry, &stored).is_ok_and(|decoded| {
                    is_sound(chunks, decoded, own.iter().map(|(ordinal, _)| ordinal - start))
                });
            let taken = if !sound {
                self.take_one_by_one(own.iter(), reader, packs)?
            } else if whole {
                self.take_frame(entry, &stored, chunks, packs)?;
                Ok(())
            } else {
                self.take_parts(entry, &stored, chunks, own, start, packs)?;
                Ok(())
            };
            self.stored = stored;
            if taken.is_err() {
                return Ok(taken);
            }
        }
        Ok(Ok(()))
    }

    // A verified frame as it is.
    fn take_frame(
        &mut self,
        entry: &storepool::pack::FrameEntry,
        stored: &[u8],
        chunks: &[ChunkEntry],
        packs: &mut BTreeSet<LedgerPack>,
    ) -> Result<(), Halt> {
        let renamed: Vec<_> = chunks.iter().map(|chunk| self.renamed(chunk)).collect();
        let builder = self.builder(kind_of(chunks))?;
        builder.toc.push(*entry, &renamed);
        builder.frames.extend_from_slice(stored);
        let (no, kind) = (builder.no, builder.kind);
        self.bytes_added += stored.len() as u64;
        packs.insert(no);
        for chunk in &renamed {
            let name = ChunkName::of(&crate::crypto::ring::VaultChunkId(chunk.id));
            self.open.insert(name, no);
        }
        self.close_if_full(kind)
    }

    // Some chunks of a verified frame.
    fn take_parts(
        &mut self,
        entry: &storepool::pack::FrameEntry,
        stored: &[u8],
        chunks: &[ChunkEntry],
        own: &[(u32, ChunkEntry)],
        start: u32,
        packs: &mut BTreeSet<LedgerPack>,
    ) -> Result<(), Halt> {
        let decoded = self.codec.decode(entry, stored)?.to_vec();
        let mut offset = 0;
        let mut own = own.iter().peekable();
        for (ordinal, chunk) in (start..).zip(chunks) {
            let bytes = &decoded[offset..offset + chunk.length as usize];
            offset += chunk.length as usize;
            if own.next_if(|(wanted, _)| *wanted == ordinal).is_some() {
                self.take_chunk(chunk, bytes, packs)?;
            }
        }
        Ok(())
    }

    // Chunks whose frame cannot be used: other copies are looked for.
    fn take_one_by_one<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a (u32, ChunkEntry)>,
        reader: &PoolReader<'_>,
        packs: &mut BTreeSet<LedgerPack>,
    ) -> Result<Result<(), storepool::Error>, Halt> {
        for (_, chunk) in wanted {
            match reader.fetch(chunk.id, chunk.kind) {
                Ok(bytes) => self.take_chunk(chunk, &bytes, packs)?,
                Err(error) if error.is_damage() => return Ok(Err(error)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Ok(()))
    }

    fn take_chunk(
        &mut self,
        chunk: &ChunkEntry,
        bytes: &[u8],
        packs: &mut BTreeSet<LedgerPack>,
    ) -> Result<(), Halt> {
        let name = self.name(&chunk.id);
        let kind = object_kind(chunk.kind);
        let builder = self.builder(kind)?;
        builder.loose.push(chunk.id, chunk.kind, bytes, None);
        let no = builder.no;
        packs.insert(no);
        self.open.insert(name, no);
        let length = match kind {
            ObjectKind::Data => DATA_FRAME_LENGTH,
            _ => METADATA_FRAME_LENGTH,
        };
        if self.builder(kind)?.loose.raw_length() >= length {
            self.flush_loose(kind)?;
            self.close_if_full(kind)?;
        }
        Ok(())
    }

    fn flush_loose(&mut self, kind: ObjectKind) -> Result<(), Halt> {
        let keys = self.keys.clone();
        let builder = match kind {
            ObjectKind::Data => self.data.as_mut(),
            _ => self.metadata.as_mut(),
        };
        let Some(builder) = builder.filter(|builder| !builder.loose.is_empty()) else {
            return Ok(());
        };
        let renamed: Vec<_> = builder
            .loose
            .chunks()
            .iter()
            .map(|chunk| ChunkEntry { id: keys.chunk_id(&chunk.id).0, ..*chunk })
            .collect();
        let sealed = self.codec.seal(&builder.loose)?;
        builder.toc.push(sealed.entry, &renamed);
        builder.frames.extend_from_slice(sealed.stored);
        self.bytes_added += sealed.stored.len() as u64;
        builder.loose.clear();
        Ok(())
    }

    fn builder(&mut self, kind: ObjectKind) -> Result<&mut PackBuilder, Halt> {
        let builder = match kind {
            ObjectKind::Data => &mut self.data,
            _ => &mut self.metadata,
        };
        if builder.is_none() {
            let place = self.gate.enter().ok_or(Halt::Unwanted)?;
            let no = self.ledger.begin_pack(kind)?;
            *builder = Some(PackBuilder {
                no,
                kind,
                toc: Toc::default(),
                // Room that is never written to costs no memory.
                frames: Vec::with_capacity(self.options.pack_length + (1 << 20)),
                loose: FrameBuilder::default(),
                place,
            });
        }
        Ok(builder.as_mut().expect("made above if it was not there"))
    }

    fn close_if_full(&mut self, kind: ObjectKind) -> Result<(), Halt> {
        let most = self.options.pack_length;
        let builder = match kind {
            ObjectKind::Data => &self.data,
            _ => &self.metadata,
        };
        match builder {
            Some(builder)
                if builder.frames.len() >= most || builder.toc.chunks().len() >= CHUNKS_MOST =>
            {
                self.close_pack(kind)
            }
            _ => Ok(()),
        }
    }

    fn close_packs(&mut self) -> Result<(), Halt> {
        self.close_pack(ObjectKind::Data)?;
        self.close_pack(ObjectKind::Metadata)
    }

    fn close_pack(&mut self, kind: ObjectKind) -> Result<(), Halt> {
        self.flush_loose(kind)?;
        let builder = match kind {
            ObjectKind::Data => self.data.take(),
            _ => self.metadata.take(),
        };
        let Some(PackBuilder { no, kind, toc, frames, place, .. }) = builder else {
            return Ok(());
        };
        let names: Vec<_> = toc
            .chunks()
            .iter()
            .map(|chunk| ChunkName::of(&crate::crypto::ring::VaultChunkId(chunk.id)))
            .collect();
        self.ledger.enter_chunks(no, &names)?;
        self.open.retain(|_, pack| *pack != no);
        self.send(Parcel::Pack(BuiltPack { no, kind, toc, frames, place }))?;
        if simulated::is_lockstep() {
            let open = [&self.data, &self.metadata].into_iter().flatten().count();
            self.gate.await_taken(open);
        }
        Ok(())
    }

    fn name(&self, chunk: &ChunkId) -> ChunkName {
        ChunkName::of(&self.keys.chunk_id(chunk))
    }

    fn renamed(&self, chunk: &ChunkEntry) -> ChunkEntry {
        ChunkEntry { id: self.keys.chunk_id(&chunk.id).0, ..*chunk }
    }
}

struct PackBuilder {
    no: LedgerPack,
    kind: ObjectKind,
    toc: Toc,
    frames: Vec<u8>,
    // Chunks that wait to become a frame; named as in the pool.
    loose: FrameBuilder,
    place: GatePlace,
}

fn is_missing(error: &storepool::Error) -> bool {
    matches!(error, storepool::Error::PointNotFound { .. } | storepool::Error::Io { .. })
}

fn object_kind(kind: ChunkKind) -> ObjectKind {
    match PackKind::of(kind) {
        PackKind::Data => ObjectKind::Data,
        PackKind::Metadata => ObjectKind::Metadata,
    }
}

fn kind_of(chunks: &[ChunkEntry]) -> ObjectKind {
    object_kind(chunks.first().map_or(ChunkKind::Data, |chunk| chunk.kind))
}

// Compares the chunks with these ordinals with their names.
fn is_sound(chunks: &[ChunkEntry], decoded: &[u8], ordinals: impl Iterator<Item = u32>) -> bool {
    let mut ordinals = ordinals.peekable();
    let mut rest = decoded;
    for (ordinal, chunk) in (0u32..).zip(chunks) {
        let Some((own, after)) = rest.split_at_checked(chunk.length as usize) else {
            return false;
        };
        rest = after;
        if ordinals.next_if_eq(&ordinal).is_some() && ChunkId::of(chunk.kind, own) != chunk.id {
            return false;
        }
    }
    ordinals.next().is_none()
}
