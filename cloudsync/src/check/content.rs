//! Reading packs and manifests whole: seal, name, and every chunk compared with its vault chunk id.

use std::collections::HashSet;
use std::sync::Arc;

use storepool::id::{ChunkId, ChunkKind};
use storepool::manifest::Manifest;
use storepool::monitor::{Event, Monitor};
use storepool::pack::frame::FrameCodec;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{CheckReport, fetch, word};
use crate::crypto::container;
use crate::crypto::ring::RealmKeys;
use crate::error::{Error, Result, SealError};
use crate::layout::ObjectKind;
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::OpenedPack;

/// Objects that are fetched side by side; a pack has up to some 25 MiB, and one more copy while it is opened.
const FETCHES: usize = 3;

/// Fetches and verifies objects; adds the ordinals of those that are not what they should be to `wrong`.
pub(super) async fn read(
    realm: &Realm,
    share: Vec<(u64, ObjectRecord)>,
    wrong: &mut HashSet<u64>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    let bytes = share.iter().map(|(_, record)| record.size).sum();
    monitor.event(Event::Expected { items: share.len() as u64, bytes });
    // One at a time is opened: then it is in memory twice.
    let opening = Arc::new(Semaphore::new(1));
    let mut tasks = JoinSet::new();
    let mut waiting = share.into_iter();
    loop {
        while tasks.len() < FETCHES
            && let Some((ordinal, record)) = waiting.next()
        {
            let (realm, opening) = (realm.clone(), opening.clone());
            tasks.spawn(async move { (ordinal, record, verify(&realm, record, &opening).await) });
        }
        let Some(done) = tasks.join_next().await else { return Ok(()) };
        if monitor.cancelled() {
            return Err(storepool::Error::Interrupted.into());
        }
        let (ordinal, record, outcome) =
            done.map_err(|_| Error::Interrupted { stage: "reading objects" })?;
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_gap() => {
                report.add(word(record.kind), record.name(realm.id()), Some(ordinal), error);
                wrong.insert(ordinal);
            }
            Err(error) => return Err(error),
        }
        report.packs_read += u64::from(record.kind.is_pack());
        report.manifests_read += u64::from(record.kind == ObjectKind::Manifest);
        report.bytes_read += record.size;
        monitor.event(Event::Done { items: 1, bytes: record.size });
    }
}

async fn verify(realm: &Realm, record: ObjectRecord, opening: &Semaphore) -> Result<()> {
    let body = fetch(realm, &record).await?;
    let name = record.name(realm.id());
    let _turn = opening.acquire().await.map_err(|_| Error::Interrupted { stage: "opening" })?;
    let keys = realm.keys().clone();
    let work = move || match record.kind.is_pack() {
        true => verify_pack(&keys, record.kind, &body),
        false => verify_manifest(&keys, &body),
    };
    let verified = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { stage: "opening an object" })?;
    verified.map_err(|reason| Error::damaged(&name, reason))
}

fn verify_manifest(keys: &RealmKeys, object: &[u8]) -> Result<(), SealError> {
    let opened = container::open(keys, ObjectKind::Manifest, object)?;
    let body = container::body(ObjectKind::Manifest, &opened.plaintext)?;
    Manifest::decode(body)?;
    Ok(())
}

fn verify_pack(keys: &RealmKeys, kind: ObjectKind, object: &[u8]) -> Result<(), SealError> {
    let pack = OpenedPack::open(keys, kind, object)?;
    // Only decodes; the level does not matter.
    let mut codec =
        FrameCodec::new(1).map_err(|_| SealError::Format("a frame cannot be decoded here"))?;
    for (number, frame) in (0u32..).zip(pack.toc().frames()) {
        let undecodable = SealError::Format("a frame of it cannot be decoded");
        let stored = pack.frame(number).ok_or(undecodable)?;
        let decoded = codec.decode(frame, stored).map_err(|_| undecodable)?;
        let (_, chunks) = pack.toc().chunks_of(number).ok_or(undecodable)?;
        let mut rest = decoded;
        for chunk in chunks {
            let own;
            (own, rest) = rest.split_at_checked(chunk.length as usize).ok_or(undecodable)?;
            if !is_chunk(keys, chunk.kind, own, &chunk.id) {
                return Err(SealError::Format("a chunk of it does not match its name"));
            }
        }
    }
    Ok(())
}

/// Returns whether these bytes are the chunk with this vault chunk id.
pub(crate) fn is_chunk(
    keys: &RealmKeys,
    kind: ChunkKind,
    bytes: &[u8],
    vault_id: &ChunkId,
) -> bool {
    keys.chunk_id(&ChunkId::of(kind, bytes)).0 == *vault_id
}
