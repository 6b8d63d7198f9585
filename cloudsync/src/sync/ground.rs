//! What a sync may rely on: the live objects of a state, but not those that a look at the vault found lost or damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::error::{Error, Result, StoreFault};
use crate::layout::{ObjectHash, ObjectKind, ObjectName, content_prefixes};
use crate::ledger::Ledger;
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::snapshot::Snapshot;

/// Lists and small requests that are made side by side.
const READS_AT_ONCE: usize = 4;

/// A state, and the ordinals of its packs that are doubted.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    state: Arc<Snapshot>,
    doubted: Arc<BTreeSet<u64>>,
}

impl Ground {
    /// Creates the ground of a state.
    pub(super) fn new(state: Arc<Snapshot>, doubted: Arc<BTreeSet<u64>>) -> Self {
        Self { state, doubted }
    }

    /// Returns the whole state.
    pub(super) fn state(&self) -> &Arc<Snapshot> {
        &self.state
    }

    /// Returns the same doubts about a newer state.
    pub(super) fn moved_on(&self, state: Arc<Snapshot>) -> Self {
        Self { state, doubted: self.doubted.clone() }
    }

    /// Returns whether this object is doubted.
    pub(super) fn is_doubted(&self, ordinal: u64) -> bool {
        self.doubted.contains(&ordinal)
    }

    /// Returns the ordinal of the live object with these bytes that can be relied on.
    pub(super) fn live_object(&self, hash: ObjectHash) -> Option<u64> {
        self.state.live_object(hash).filter(|ordinal| !self.is_doubted(*ordinal))
    }

    /// Returns the doubted object that one with these bytes would replace.
    pub(super) fn replaced_by(&self, hash: ObjectHash) -> Option<u64> {
        self.state.live_object(hash).filter(|ordinal| self.is_doubted(*ordinal))
    }

    /// Returns the copy number under which an object with these bytes must be put now.
    pub(super) fn next_copy(&self, hash: ObjectHash) -> u32 {
        let replaced = self.replaced_by(hash).and_then(|ordinal| self.state.object(ordinal));
        match replaced {
            Some(object) => object.record.copy + 1,
            None => self.state.next_copy(hash),
        }
    }
}

/// The packs that a list of the vault shows, with their sizes.
pub(super) type Listed = BTreeMap<ObjectName, (ObjectKind, u64)>;

/// Lists all packs of a realm.
pub(super) async fn list_packs(realm: &Realm) -> Result<Listed> {
    let prefixes = [ObjectKind::Data, ObjectKind::Metadata]
        .into_iter()
        .flat_map(|kind| content_prefixes(realm.id(), kind).map(move |prefix| (kind, prefix)));
    let mut prefixes = prefixes.collect::<Vec<_>>().into_iter();
    let (mut lists, mut found) = (JoinSet::new(), Listed::new());
    loop {
        while lists.len() < READS_AT_ONCE
            && let Some((kind, prefix)) = prefixes.next()
        {
            let store = realm.store().clone();
            lists.spawn(async move { (kind, store.list(&prefix).await) });
        }
        let Some(list) = lists.join_next().await else { return Ok(found) };
        let (kind, list) = list.map_err(|_| Error::Interrupted { stage: "listing packs" })?;
        found.extend(list?.into_iter().map(|meta| (meta.name, (kind, meta.size))));
    }
}

/// Doubts live packs that are not there, or not as long as they should be: a ledger that was lost or is old does not know what a
/// look at the vault has found before.
pub(super) async fn doubt_missing(
    realm: &Realm,
    ledger: &Ledger,
    state: &Snapshot,
    listed: &Listed,
) -> Result<()> {
    let mut missing = Vec::new();
    for (_, record) in state.live_objects().filter(|(_, record)| record.kind.is_pack()) {
        let name = record.name(realm.id());
        let is_there = match listed.get(&name) {
            Some((_, size)) => *size == record.size,
            // A list may be old.
            None => is_whole(realm, &name, &record).await?,
        };
        if !is_there {
            tracing::warn!(pack = %name, "a pack of the vault is missing or cut off; what it held is copied again if it is needed");
            missing.push(record);
        }
    }
    ledger.doubt(&missing)
}

async fn is_whole(realm: &Realm, name: &ObjectName, record: &ObjectRecord) -> Result<bool> {
    match realm.store().head(name).await {
        Ok(meta) => Ok(meta.size == record.size),
        Err(error) if error.fault == StoreFault::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}
