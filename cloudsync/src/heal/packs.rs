//! Replacing packs of the vault, chunk by chunk: from the pool, from what can still be read of the damaged pack, or by pointing to
//! another pack that has it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use storepool::chunks::PoolChunks;
use storepool::id::{ChunkId, ChunkKind};
use storepool::pack::frame::{FrameBuilder, FrameCodec};
use storepool::pack::{ChunkEntry, Toc};
use storepool::pool::Session;
use storepool::tree::ChunkFetch;

use super::{Fate, Healing, Replacement};
use crate::check::is_chunk;
use crate::crypto::ring::RealmKeys;
use crate::error::{Error, Result};
use crate::layout::ObjectKind;
use crate::ledger::{ChunkName, Ledger};
use crate::marks::mark;
use crate::recovery::read_manifest;
use crate::sync::{read_index, read_table};
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::{PackReader, seal_pack};
use crate::vault::snapshot::Snapshot;
use crate::vault::tables::IndexBuilder;

const DATA_FRAME_LENGTH: usize = storepool::writer::DATA_FRAME_LENGTH;
const METADATA_FRAME_LENGTH: usize = storepool::writer::METADATA_FRAME_LENGTH;

/// What the damaged packs held, and where the pool has it.
#[derive(Debug, Default)]
pub(super) struct Losses {
    // By ordinal; a pack of which nobody knows what it held is not in it.
    packs: BTreeMap<u64, Loss>,
    // The pool's names of what the damaged packs held.
    in_pool: HashMap<ChunkName, (ChunkId, ChunkKind)>,
}

#[derive(Debug)]
struct Loss {
    names: Vec<ChunkName>,
    // From an index or the pack itself; without it only the ledger knew the names.
    toc: Option<Toc>,
}

/// Finds out what the damaged packs held (an index, the pack itself or the ledger tells) and which of it the pool has.
pub(super) async fn find_losses(
    realm: &Realm,
    state: &Snapshot,
    ledger: &Ledger,
    damaged: &BTreeSet<u64>,
    session: &Arc<Session>,
) -> Result<Losses> {
    let mut wanted: HashMap<_, _> = state
        .live_objects()
        .filter(|(ordinal, record)| damaged.contains(ordinal) && record.kind.is_pack())
        .map(|(ordinal, record)| (record.hash, (ordinal, record)))
        .collect();
    let mut losses = Losses::default();
    if wanted.is_empty() {
        return Ok(losses);
    }
    for (ordinal, record) in state.live_objects() {
        if record.kind != ObjectKind::Index || damaged.contains(&ordinal) || wanted.is_empty() {
            continue;
        }
        for table in read_index(realm, &record).await? {
            if let Some((pack, _)) = wanted.remove(&table.hash) {
                losses.packs.insert(pack, Loss::of(table.toc));
            }
        }
    }
    let mut unknown = Vec::new();
    for (ordinal, record) in wanted.into_values() {
        match read_table(realm, &record).await {
            Ok(toc) => {
                losses.packs.insert(ordinal, Loss::of(toc));
            }
            Err(error) if error.is_gap() => unknown.push((ordinal, record)),
            Err(error) => return Err(error),
        }
    }
    for (ordinal, record) in unknown {
        let known = ledger.packs()?.into_iter().find(|pack| pack.record.hash == record.hash);
        if let Some(pack) = known {
            let names = ledger.names(pack.no)?;
            losses.packs.insert(ordinal, Loss { names, toc: None });
        }
    }
    let names: HashSet<ChunkName> =
        losses.packs.values().flat_map(|loss| loss.names.iter().copied()).collect();
    let (session, keys) = (session.clone(), realm.keys().clone());
    let work = move || find_in_pool(&session, &keys, &names);
    losses.in_pool = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { stage: "looking into the pool" })??;
    Ok(losses)
}

impl Loss {
    fn of(toc: Toc) -> Self {
        let name = |chunk: &ChunkEntry| ChunkName::of_vault_id(&chunk.id);
        Self { names: toc.chunks().iter().map(name).collect(), toc: Some(toc) }
    }
}

// The vault's names are keyed hashes of the pool's: every chunk of the pool is asked once.
fn find_in_pool(
    session: &Session,
    keys: &RealmKeys,
    names: &HashSet<ChunkName>,
) -> Result<HashMap<ChunkName, (ChunkId, ChunkKind)>> {
    let pool = session.pool();
    let mut found = HashMap::new();
    for row in pool.pack_rows() {
        let pack = match pool.open_pack(&row) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error.into()),
        };
        for chunk in pack.toc().chunks() {
            let name = ChunkName::of(&keys.chunk_id(&chunk.id));
            if names.contains(&name) {
                found.insert(name, (chunk.id, chunk.kind));
            }
        }
    }
    Ok(found)
}

impl Healing<'_> {
    /// Puts the chunks of a damaged pack again, as far as anybody has them.
    pub(super) async fn replace_pack(
        &mut self,
        ordinal: u64,
        record: ObjectRecord,
    ) -> Result<Replacement> {
        let mut replacement = Replacement::none();
        let Some(loss) = self.losses.packs.remove(&ordinal) else { return Ok(replacement) };
        let (session, keys) = (self.session.clone(), self.realm.keys().clone());
        let known: Vec<_> =
            loss.names.iter().map(|name| (*name, self.losses.in_pool.get(name).copied())).collect();
        let gather = move || gather(&session, keys, &known);
        let (mut pack, mut missing) = tokio::task::spawn_blocking(gather)
            .await
            .map_err(|_| Error::Interrupted { stage: "reading the pool" })??;
        if !missing.is_empty()
            && let Some(toc) = loss.toc
        {
            self.salvage(record, toc, &mut missing, &mut pack).await?;
        }
        self.take_manifests(&mut missing, &mut pack).await?;
        self.point_elsewhere(&mut missing, &mut replacement).await?;
        self.let_go(&mut missing).await?;
        let (toc, frames) = pack.finish()?;
        if !toc.chunks().is_empty() {
            let sealed = seal_pack(self.realm.keys(), record.kind, &toc, &[&frames])
                .map_err(|_| Error::TooLarge { what: "a pack" })?;
            drop(frames);
            let hash = sealed.hash;
            self.put(ordinal, record.kind, sealed, &mut replacement).await?;
            if let Some(added) = replacement.changes.objects_added.last().copied() {
                let mut tables = IndexBuilder::default();
                tables.push(hash, added.copy, record.kind, &toc);
                self.put_index(ordinal, tables, &mut replacement).await?;
            }
        }
        replacement.chunks_lost = missing.len() as u64;
        replacement.chunks = loss.names.len() as u64 - replacement.chunks_lost;
        replacement.fate = match (replacement.to.is_empty(), missing.is_empty()) {
            (_, true) => Fate::Replaced,
            (false, false) => Fate::Partly,
            (true, false) => Fate::Left,
        };
        Ok(replacement)
    }

    // Takes what can still be read of the damaged pack itself.
    async fn salvage(
        &self,
        record: ObjectRecord,
        toc: Toc,
        missing: &mut HashSet<ChunkName>,
        pack: &mut PackInTheMaking,
    ) -> Result<()> {
        let keys = self.realm.keys().clone();
        let Ok(Some(reader)) = PackReader::with_table(&keys, &record, toc) else { return Ok(()) };
        let mut codec = FrameCodec::new(1)?;
        for (number, frame) in (0u32..).zip(reader.toc().frames()) {
            let Some((_, chunks)) = reader.toc().chunks_of(number) else { continue };
            let is_missing =
                |chunk: &ChunkEntry| missing.contains(&ChunkName::of_vault_id(&chunk.id));
            if !chunks.iter().any(is_missing) {
                continue;
            }
            let store = self.realm.store().as_ref();
            let stored = match reader.read_frames(store, number..number + 1).await {
                Ok(stored) => stored,
                Err(error) if error.is_gap() => continue,
                Err(error) => return Err(error),
            };
            let Ok(decoded) = codec.decode(frame, &stored) else { continue };
            let mut rest = decoded;
            for chunk in chunks {
                let Some((own, after)) = rest.split_at_checked(chunk.length as usize) else {
                    break;
                };
                rest = after;
                let name = ChunkName::of_vault_id(&chunk.id);
                if missing.contains(&name) && is_chunk(&keys, chunk.kind, own, &chunk.id) {
                    pack.push(ChunkId::of(chunk.kind, own), chunk.kind, own)?;
                    missing.remove(&name);
                }
            }
        }
        Ok(())
    }

    // Manifests are objects of their own, too.
    async fn take_manifests(
        &self,
        missing: &mut HashSet<ChunkName>,
        pack: &mut PackInTheMaking,
    ) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        for point in self.state.points_and_forgotten() {
            let id = ChunkId::from(point.id);
            let name = ChunkName::of(&self.realm.keys().chunk_id(&id));
            if !missing.contains(&name) {
                continue;
            }
            let bytes = match read_manifest(self.realm, &self.state, point).await {
                Ok(manifest) => manifest.encode(),
                Err(error) if error.is_gap() => continue,
                Err(error) => return Err(error),
            };
            if ChunkId::of(ChunkKind::Manifest, &bytes) == id {
                pack.push(id, ChunkKind::Manifest, &bytes)?;
                missing.remove(&name);
            }
        }
        Ok(())
    }

    // What no point needs need not be had again.
    async fn let_go(&mut self, missing: &mut HashSet<ChunkName>) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        if self.needed.is_none() {
            let points = self.state.points_and_forgotten().cloned().collect();
            let (pool, monitor) = (Some(self.session.clone()), self.monitor.clone());
            self.needed = Some(mark(self.realm, &self.state, points, pool, monitor).await?);
        }
        if let Some(Some(needed)) = &self.needed {
            missing.retain(|name| needed.contains_name(name.as_bytes()));
        }
        Ok(())
    }

    // The same chunk may be in another pack, too.
    async fn point_elsewhere(
        &self,
        missing: &mut HashSet<ChunkName>,
        replacement: &mut Replacement,
    ) -> Result<()> {
        for (_, record) in self.state.live_objects() {
            if missing.is_empty() {
                return Ok(());
            }
            if record.kind != ObjectKind::Index {
                continue;
            }
            for table in read_index(self.realm, &record).await? {
                let Some(pack) = self.state.live_object(table.hash) else { continue };
                if self.damaged.contains(&pack) {
                    continue;
                }
                let before = missing.len();
                for chunk in table.toc.chunks() {
                    missing.remove(&ChunkName::of_vault_id(&chunk.id));
                }
                if missing.len() < before && !replacement.to.contains(&pack) {
                    replacement.to.push(pack);
                }
            }
        }
        Ok(())
    }
}

/// A pack that is being filled with single chunks.
pub(super) struct PackInTheMaking {
    keys: Arc<RealmKeys>,
    codec: FrameCodec,
    loose: FrameBuilder,
    toc: Toc,
    frames: Vec<u8>,
}

impl PackInTheMaking {
    fn push(&mut self, id: ChunkId, kind: ChunkKind, bytes: &[u8]) -> Result<()> {
        self.loose.push(id, kind, bytes, None);
        let full = match kind {
            ChunkKind::Data => DATA_FRAME_LENGTH,
            _ => METADATA_FRAME_LENGTH,
        };
        match self.loose.raw_length() >= full {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.loose.is_empty() {
            return Ok(());
        }
        let keys = &self.keys;
        let renamed = |chunk: &ChunkEntry| ChunkEntry { id: keys.chunk_id(&chunk.id).0, ..*chunk };
        let chunks: Vec<_> = self.loose.chunks().iter().map(renamed).collect();
        let sealed = self.codec.seal(&self.loose)?;
        self.toc.push(sealed.entry, &chunks);
        self.frames.extend_from_slice(sealed.stored);
        self.loose.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(Toc, Vec<u8>)> {
        self.flush()?;
        Ok((self.toc, self.frames))
    }
}

// Reads from the pool what it has; returns the names of what it does not have, or only damaged.
fn gather(
    session: &Session,
    keys: Arc<RealmKeys>,
    known: &[(ChunkName, Option<(ChunkId, ChunkKind)>)],
) -> Result<(PackInTheMaking, HashSet<ChunkName>)> {
    let reader = PoolChunks::new(session).pool_reader()?;
    let codec = FrameCodec::new(session.pool().options().compression_level)?;
    let (loose, toc) = (FrameBuilder::default(), Toc::default());
    let mut pack = PackInTheMaking { keys, codec, loose, toc, frames: Vec::new() };
    let mut missing = HashSet::new();
    for (name, place) in known {
        let Some((id, kind)) = place else {
            missing.insert(*name);
            continue;
        };
        match reader.fetch(*id, *kind) {
            Ok(bytes) => pack.push(*id, *kind, &bytes)?,
            Err(error) if error.is_damage() => {
                missing.insert(*name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((pack, missing))
}
