//! What lies in the vault and no commit names: left by interrupted syncs and repacks, or by requests that came late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use storepool::clock::Timestamp;
use tokio::task::JoinSet;

use crate::crypto::container::{HEADER_LENGTH, Header};
use crate::error::{Error, Result, StoreFault};
use crate::layout::{ObjectHash, ObjectKind, ObjectName, content_prefix, content_prefixes};
use crate::store::ObjectMeta;
use crate::vault::chain::Realm;
use crate::vault::commit::{Changes, ObjectRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::time::minus;

/// Lists that are made side by side.
const LISTS_AT_ONCE: usize = 8;
/// Below so many objects one list of each kind is enough; from then on they are made side by side.
const OBJECTS_FEW: usize = 4_000;
/// Objects that a list did not show and that are looked at one by one.
const LOOKS_MOST: usize = 256;

/// What a look at all content objects of a realm found.
#[derive(Clone, Debug, Default)]
pub(super) struct Sighting {
    /// No commit names them; whoever put them may still be about to.
    pub(super) orphans: Vec<Orphan>,
    /// Under names that were condemned and called gone.
    pub(super) leftovers: Vec<ObjectName>,
    /// Live objects that are not there, or not as long as they should be.
    pub(super) missing: Vec<ObjectName>,
}

/// An object that no commit names.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub(super) record: ObjectRecord,
    /// When it was put, by the vault's time, if the vault tells.
    pub(super) put: Option<Timestamp>,
}

impl Orphan {
    /// Returns whether it has waited long enough for a commit.
    pub(super) fn is_old(&self, now: Option<Timestamp>, wait: Duration) -> bool {
        matches!((now, self.put), (Some(now), Some(put)) if minus(now, put) >= wait)
    }
}

/// Adds the condemnation of orphans to the changes that are made on this state; those that are named by now, or
/// whose name is used up, are left out.
pub(super) fn condemn(state: &Snapshot, orphans: &[Orphan], changes: &mut Changes) {
    for orphan in orphans {
        let record = orphan.record;
        let free =
            state.live_object(record.hash).is_none() && record.copy == state.next_copy(record.hash);
        if free {
            let ordinal = state.next_ordinal() + changes.objects_added.len() as u64;
            changes.objects_added.push(record);
            changes.objects_condemned.insert(ordinal);
        }
    }
}

/// Looks at everything in the realm that is named by content.
pub(super) async fn look(realm: &Realm, snapshot: &Snapshot) -> Result<Sighting> {
    let mut unseen: BTreeMap<(ObjectHash, u32), ObjectRecord> = snapshot
        .objects()
        .values()
        .map(|object| ((object.record.hash, object.record.copy), object.record))
        .collect();
    let live: BTreeSet<(ObjectHash, u32)> = snapshot
        .objects()
        .values()
        .filter(|object| object.condemned.is_none())
        .map(|object| (object.record.hash, object.record.copy))
        .collect();
    let mut sighting = Sighting::default();
    let few = snapshot.objects().len() < OBJECTS_FEW;
    for kind in ObjectKind::RECORDED {
        for meta in list(realm, kind, few).await? {
            let Some(key) = meta.name.content_parts() else { continue };
            let known = unseen.get(&key).filter(|record| record.kind == kind).copied();
            match known {
                Some(record) => {
                    unseen.remove(&key);
                    if live.contains(&key) && meta.size != record.size {
                        sighting.missing.push(meta.name);
                    }
                }
                None if key.1 < snapshot.next_copy(key.0) => sighting.leftovers.push(meta.name),
                None if key.1 == snapshot.next_copy(key.0) => {
                    sighting.orphans.extend(orphan(realm, kind, key, meta).await?);
                }
                // Of a state that is newer than ours; the next run knows it.
                None => {}
            }
        }
    }
    // A list may be old, so what it does not show is looked at.
    let unseen = unseen.into_iter().filter(|(key, _)| live.contains(key));
    for (_, record) in unseen.take(LOOKS_MOST) {
        let name = record.name(realm.id());
        match realm.store().head(&name).await {
            Ok(meta) if meta.size == record.size => {}
            Ok(_) => sighting.missing.push(name),
            Err(error) if error.fault == StoreFault::NotFound => sighting.missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sighting)
}

async fn list(realm: &Realm, kind: ObjectKind, few: bool) -> Result<Vec<ObjectMeta>> {
    let prefixes: Vec<_> = match few {
        true => vec![content_prefix(realm.id(), kind)],
        false => content_prefixes(realm.id(), kind).collect(),
    };
    let mut prefixes = prefixes.into_iter();
    let mut lists = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while lists.len() < LISTS_AT_ONCE
            && let Some(prefix) = prefixes.next()
        {
            let store = realm.store().clone();
            lists.spawn(async move { store.list(&prefix).await });
        }
        let Some(list) = lists.join_next().await else { break };
        found.extend(list.map_err(|_| Error::Interrupted { stage: "listing objects" })??);
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

// The record by which an orphan is condemned. What is no container at all gets an empty salt: nobody will open it.
async fn orphan(
    realm: &Realm,
    kind: ObjectKind,
    (hash, copy): (ObjectHash, u32),
    meta: ObjectMeta,
) -> Result<Option<Orphan>> {
    let salt = match realm.store().get_range(&meta.name, 0..HEADER_LENGTH as u64).await {
        Ok(body) => Header::read(&body.bytes).map_or([0; 32], |header| header.salt()),
        Err(error) if error.fault == StoreFault::NotFound => return Ok(None),
        Err(error) if error.fault == StoreFault::Corrupt => [0; 32],
        Err(error) => return Err(error.into()),
    };
    let record = ObjectRecord { kind, hash, copy, size: meta.size, salt };
    Ok(Some(Orphan { record, put: meta.modified }))
}
