//! Bringing the ledger in line with the vault before anything is decided by it.
//!
//! Packs that are not live are forgotten, packs that the ledger does not know are learnt from indexes or from the
//! packs themselves, and what an interrupted sync put without a commit is proved to be there and used. So a ledger
//! that is missing, old or of a restored machine costs one look, and nothing is put twice.

use std::collections::{BTreeMap, HashSet};

use storepool::pack::Toc;
use storepool::simulated::{self, Mistake};
use tokio::task::JoinSet;

use crate::crypto::container::object_limit;
use crate::error::{Error, Result, StoreFault};
use crate::layout::{ObjectHash, ObjectKind, ObjectName, content_prefixes};
use crate::ledger::Ledger;
use crate::sync::batch::{Batch, PackPlace, PutPack};
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::PackReader;
use crate::vault::tables::{PackTable, open_index};

/// Objects that are read side by side.
const READS_AT_ONCE: usize = 4;

/// Makes the ledger say what the vault holds, and tells the batch.
pub(super) async fn settle(realm: &Realm, ledger: &Ledger, batch: &mut Batch) -> Result<()> {
    let state = batch.state().clone();
    // Live packs that the ledger does not know.
    let mut unknown: BTreeMap<ObjectHash, u64> = state
        .objects()
        .iter()
        .filter(|(_, object)| object.condemned.is_none() && is_pack(object.record.kind))
        .map(|(ordinal, object)| (object.record.hash, *ordinal))
        .collect();
    let (mut gone, mut ordinals, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    for pack in ledger.packs()? {
        match state.live_object(pack.record.hash) {
            Some(ordinal) => {
                unknown.remove(&pack.record.hash);
                if pack.ordinal != Some(ordinal) {
                    ordinals.push((pack.no, ordinal));
                }
                batch.know_live(pack.no, ordinal);
            }
            None if pack.ordinal.is_none()
                && pack.record.copy == state.next_copy(pack.record.hash) =>
            {
                unnamed.push(pack);
            }
            None if simulated::makes(Mistake::LedgerIsTruth) => {
                batch.know_live(pack.no, pack.ordinal.unwrap_or(0));
            }
            None => gone.push(pack.no),
        }
    }
    let mut orphans = Vec::new();
    for pack in unnamed {
        match read_table(realm, &pack.record).await {
            Ok(toc) => orphans.push((pack.no, pack.record, toc)),
            // It did not stay, or is not what was put: it will be put again.
            Err(error) if is_gap(&error) => gone.push(pack.no),
            Err(error) => return Err(error),
        }
    }
    ledger.correct(&gone, &ordinals)?;
    learn_live(realm, ledger, batch, unknown).await?;
    if ledger.was_made_anew() {
        for (record, toc) in find_orphans(realm, batch).await? {
            let no = ledger.adopt(&record, None, &toc)?;
            orphans.push((no, record, toc));
        }
    }
    for (no, record, toc) in orphans {
        let place = PackPlace::Unnamed;
        batch.take_pack(PutPack { no, record, toc, place, bytes_put: 0 }).await?;
    }
    Ok(())
}

// Reads the tables of live packs, from indexes as far as they tell.
async fn learn_live(
    realm: &Realm,
    ledger: &Ledger,
    batch: &mut Batch,
    mut unknown: BTreeMap<ObjectHash, u64>,
) -> Result<()> {
    let state = batch.state().clone();
    let first = unknown.values().min().copied().unwrap_or(u64::MAX);
    // An index comes after its packs.
    let indexes = state.objects().range(first..).filter(|(_, object)| {
        object.condemned.is_none() && object.record.kind == ObjectKind::Index
    });
    for (_, object) in indexes {
        if unknown.is_empty() {
            break;
        }
        for table in read_index(realm, &object.record).await? {
            if let Some(ordinal) = unknown.remove(&table.hash) {
                let record = state.object(ordinal).expect("it was listed above").record;
                let no = ledger.adopt(&record, Some(ordinal), &table.toc)?;
                batch.know_live(no, ordinal);
            }
        }
    }
    for ordinal in unknown.into_values() {
        let record = state.object(ordinal).expect("it was listed above").record;
        match read_table(realm, &record).await {
            Ok(toc) => {
                let no = ledger.adopt(&record, Some(ordinal), &toc)?;
                batch.know_live(no, ordinal);
            }
            // Whatever was in it is copied again if it is needed.
            Err(error) if is_gap(&error) => {
                tracing::warn!(%error, "passed over a pack of the vault");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads an index; one that is lost or damaged tells nothing.
pub(crate) async fn read_index(realm: &Realm, record: &ObjectRecord) -> Result<Vec<PackTable>> {
    let name = record.name(realm.id());
    let body = match realm.store().get(&name, object_limit(ObjectKind::Index)).await {
        Ok(body) => body.bytes,
        Err(error) if matches!(error.fault, StoreFault::NotFound | StoreFault::Corrupt) => {
            tracing::warn!(index = %name, %error, "passed over an index of the vault");
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    if ObjectHash::of(&body) != record.hash {
        tracing::warn!(index = %name, "passed over a damaged index of the vault");
        return Ok(Vec::new());
    }
    open_index(realm.keys(), &body).map_err(|reason| Error::damaged(&name, reason))
}

/// Reads the table of contents of a pack from the pack.
pub(crate) async fn read_table(realm: &Realm, record: &ObjectRecord) -> Result<Toc> {
    let name = record.name(realm.id());
    let store = realm.store().as_ref();
    Ok(PackReader::open(store, realm.keys(), record.kind, name, Some(&record.salt))
        .await?
        .into_toc())
}

// Packs that no commit names: put by a sync that was interrupted and then lost its ledger.
async fn find_orphans(realm: &Realm, batch: &Batch) -> Result<Vec<(ObjectRecord, Toc)>> {
    let state = batch.state().clone();
    let known: HashSet<ObjectHash> =
        state.objects().values().map(|object| object.record.hash).collect();
    let mut found: BTreeMap<ObjectName, ObjectKind> = BTreeMap::new();
    let mut lists = JoinSet::new();
    let prefixes = [ObjectKind::Data, ObjectKind::Metadata]
        .into_iter()
        .flat_map(|kind| content_prefixes(realm.id(), kind).map(move |prefix| (kind, prefix)));
    let mut prefixes = prefixes.collect::<Vec<_>>().into_iter();
    loop {
        while lists.len() < READS_AT_ONCE
            && let Some((kind, prefix)) = prefixes.next()
        {
            let store = realm.store().clone();
            lists.spawn(async move { (kind, store.list(&prefix).await) });
        }
        let Some(list) = lists.join_next().await else { break };
        let (kind, list) = list.map_err(|_| Error::Interrupted { stage: "listing packs" })?;
        for meta in list? {
            let parts = meta.name.content_parts();
            if parts
                .is_some_and(|(hash, copy)| !known.contains(&hash) && copy == state.next_copy(hash))
            {
                found.insert(meta.name, kind);
            }
        }
    }
    let mut orphans = Vec::new();
    for (name, kind) in found {
        let Some((hash, copy)) = name.content_parts() else { continue };
        let store = realm.store().as_ref();
        match PackReader::open(store, realm.keys(), kind, name, None).await {
            Ok(reader) => {
                let (size, salt) = (reader.stored_length(), reader.salt());
                orphans.push((ObjectRecord { kind, hash, copy, size, salt }, reader.into_toc()));
            }
            Err(error) if is_gap(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(orphans)
}

/// Returns whether an error says that bytes are wrong or gone, in the vault or in the pool, and not that they cannot
/// be had just now.
pub(crate) fn is_gap(error: &Error) -> bool {
    let fault = matches!(error.store_fault(), Some(StoreFault::NotFound | StoreFault::Corrupt));
    fault || error.is_damage() || matches!(error, Error::Pool(error) if error.is_damage())
}

fn is_pack(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Data | ObjectKind::Metadata)
}
