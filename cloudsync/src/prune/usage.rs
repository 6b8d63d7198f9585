//! How much of each pack of the vault is needed, from the tables of contents and the marks.

use std::collections::BTreeMap;

use storepool::id::PackId;
use storepool::index::PackNo;
use storepool::pack::{PackKind, Toc};
use storepool::prune::{PackUse, Standing};

use crate::crypto::ring::VaultChunkId;
use crate::error::Result;
use crate::layout::{ObjectHash, ObjectKind};
use crate::marks::LiveChunks;
use crate::sync::{read_index, read_table};
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::snapshot::Snapshot;

/// Returns what is known of every live pack; `PackNo` holds its ordinal.
pub(super) async fn measure(
    realm: &Realm,
    snapshot: &Snapshot,
    marks: &LiveChunks,
) -> Result<Vec<PackUse>> {
    let mut unknown: BTreeMap<ObjectHash, (u64, ObjectRecord)> = BTreeMap::new();
    let mut indexes = Vec::new();
    for (ordinal, object) in snapshot.objects() {
        if object.condemned.is_some() {
            continue;
        }
        match object.record.kind {
            ObjectKind::Data | ObjectKind::Metadata => {
                unknown.insert(object.record.hash, (*ordinal, object.record));
            }
            ObjectKind::Index => indexes.push(object.record),
            _ => {}
        }
    }
    let mut uses = Vec::with_capacity(unknown.len());
    for index in indexes {
        for table in read_index(realm, &index).await? {
            if let Some((ordinal, record)) = unknown.remove(&table.hash) {
                uses.push(pack_use(ordinal, &record, &table.toc, marks));
            }
        }
    }
    for (ordinal, record) in unknown.into_values() {
        match read_table(realm, &record).await {
            Ok(toc) => uses.push(pack_use(ordinal, &record, &toc, marks)),
            Err(error) if error.is_gap() => {
                tracing::warn!(%error, "a pack of the vault cannot be read");
                let mut unreadable = pack_use(ordinal, &record, &Toc::default(), marks);
                unreadable.standing = Standing::Unreadable;
                uses.push(unreadable);
            }
            Err(error) => return Err(error),
        }
    }
    uses.sort_by_key(|pack| pack.no);
    Ok(uses)
}

fn pack_use(ordinal: u64, record: &ObjectRecord, toc: &Toc, marks: &LiveChunks) -> PackUse {
    let chunks = toc.chunks().len() as u32;
    let live: Vec<u32> = live_ordinals(toc, marks).collect();
    let (all, own) = (toc.share(0..chunks), toc.share(live.iter().copied()));
    PackUse {
        no: PackNo(ordinal as i64),
        id: PackId(record.hash.0),
        kind: match record.kind {
            ObjectKind::Metadata => PackKind::Metadata,
            _ => PackKind::Data,
        },
        length: record.size,
        // Without padding and the like: a pack of which everything is needed has no unused bytes.
        unused_bytes: all.stored_bytes.saturating_sub(own.stored_bytes),
        chunks: u64::from(chunks),
        needed_chunks: live.len() as u64,
        standing: Standing::Free,
    }
}

/// Returns the ordinals of the chunks that are needed, ascending.
pub(super) fn live_ordinals<'a>(
    toc: &'a Toc,
    marks: &'a LiveChunks,
) -> impl Iterator<Item = u32> + 'a {
    let chunks = (0u32..).zip(toc.chunks());
    chunks.filter(|(_, chunk)| marks.contains(&VaultChunkId(chunk.id))).map(|(ordinal, _)| ordinal)
}
