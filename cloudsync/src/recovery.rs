//! Recovery: a point of the vault as a source of chunks, so that the restore is the same engine whichever copy
//! feeds it. Needs nothing but the vault and the realm's keys.
//!
//! Manifest and tables of contents come from small objects; of packs only the segments are read that hold what is
//! asked for: in large pieces and ahead of the reader if it says before what it is going to ask for, as a restore
//! does, else in windows once much is asked for. Every byte is proved three times: by the seal, by the vault chunk
//! id, and by the name that the tree above gives it.

mod ahead;
mod chunks;
mod pieces;
mod tables;
#[cfg(test)]
mod tests;
mod windows;

use storepool::chunks::ChunkSource;
use storepool::id::{ChunkId, ChunkKind, PointId};
use storepool::manifest::Manifest;
use tokio::runtime::Handle;

use crate::crypto::container::{self, object_limit};
use crate::error::{Error, Result, SealError};
use crate::layout::{ObjectHash, ObjectKind};
use crate::vault::chain::Realm;
use crate::vault::commit::PointRecord;
use crate::vault::snapshot::Snapshot;

pub use chunks::VaultChunks;

/// A point of the vault, ready to be restored.
#[derive(Debug)]
pub struct VaultPoint {
    /// What the vault's state says of it.
    pub record: PointRecord,
    /// Its description.
    pub manifest: Manifest,
    /// Its chunks.
    pub chunks: VaultChunks,
}

impl VaultPoint {
    /// Opens a point: its manifest, and the tables of the packs that it needs.
    ///
    /// `runtime` drives the store when chunks are read later, by threads that are not its own.
    pub async fn open(
        realm: &Realm,
        snapshot: &Snapshot,
        point: PointId,
        runtime: Handle,
    ) -> Result<Self> {
        let record = snapshot
            .points()
            .get(&point)
            .or_else(|| snapshot.forgotten().get(&point).map(|(_, record)| record))
            .ok_or_else(|| Error::NoSuchPoint { name: point.to_string() })?
            .clone();
        let chunks = VaultChunks::open(realm, snapshot, &record.needs, runtime).await?;
        match read_manifest(realm, snapshot, &record).await {
            Ok(manifest) => Ok(Self { record, manifest, chunks }),
            Err(error) if error.is_gap() => {
                let work = move || (manifest_chunk(&chunks, point), chunks);
                let (found, chunks) = tokio::task::spawn_blocking(work)
                    .await
                    .map_err(|_| Error::Interrupted { stage: "reading a manifest" })?;
                tracing::warn!(%error, "the manifest is taken from a pack");
                Ok(Self { record, manifest: found.map_err(|_| error)?, chunks })
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads the manifest of a point from its object or, if that is lost, from the packs.
pub async fn manifest_of(
    realm: &Realm,
    snapshot: &Snapshot,
    point: &PointRecord,
    runtime: Handle,
) -> Result<Manifest> {
    match read_manifest(realm, snapshot, point).await {
        Err(error) if error.is_gap() => {
            let opened = VaultPoint::open(realm, snapshot, point.id, runtime).await;
            opened.map(|point| point.manifest).map_err(|_| error)
        }
        other => other,
    }
}

// The manifest is in the packs, too. Blocks.
fn manifest_chunk(chunks: &VaultChunks, point: PointId) -> storepool::Result<Manifest> {
    let bytes = chunks.reader()?.fetch(point.into(), ChunkKind::Manifest)?;
    Manifest::decode(&bytes)
        .map_err(|error| storepool::Error::damaged(format!("manifest {}", point.short()), error.0))
}

/// Reads the manifest of a point.
pub async fn read_manifest(
    realm: &Realm,
    snapshot: &Snapshot,
    point: &PointRecord,
) -> Result<Manifest> {
    let missing = Error::NoSuchPoint { name: point.id.to_string() };
    let record = snapshot.object(point.manifest).ok_or(missing)?.record;
    let name = record.name(realm.id());
    let damaged = |reason: SealError| Error::damaged(&name, reason);
    let body = realm.store().get(&name, object_limit(ObjectKind::Manifest)).await?;
    if ObjectHash::of(&body.bytes) != record.hash {
        return Err(damaged(SealError::Name));
    }
    let opened =
        container::open(realm.keys(), ObjectKind::Manifest, &body.bytes).map_err(damaged)?;
    let bytes = container::body(ObjectKind::Manifest, &opened.plaintext).map_err(damaged)?;
    if PointId::from(ChunkId::of(ChunkKind::Manifest, bytes)) != point.id {
        return Err(damaged(SealError::Name));
    }
    Manifest::decode(bytes).map_err(|error| damaged(error.into()))
}
