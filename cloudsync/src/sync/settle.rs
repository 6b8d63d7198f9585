//! Bringing the ledger in line with the vault before anything is decided by it.
//!
//! Packs that are not live are forgotten, packs that the ledger does not know are learnt from indexes or from the
//! packs themselves, and what an interrupted sync put without a commit is proved to be there and used. So a ledger
//! that is missing, old or of a restored machine costs one look, and nothing is put twice. Packs that were found lost or damaged
//! and not replaced are passed over: what they held counts as not copied.

use std::collections::{BTreeMap, HashSet};

use storepool::pack::Toc;
use storepool::simulated::{self, Mistake};

use crate::crypto::container::object_limit;
use crate::error::{Error, Result, StoreFault};
use crate::layout::{Generation, ObjectHash, ObjectKind};
use crate::ledger::Ledger;
use crate::sync::batch::{Batch, PackPlace, PutPack};
use crate::sync::ground::{Ground, Listed, doubt_missing, list_packs};
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::pack::PackReader;
use crate::vault::tables::{PackTable, open_index};

/// Makes the ledger say what the vault holds, and tells the batch.
pub(super) async fn settle(realm: &Realm, ledger: &Ledger, batch: &mut Batch) -> Result<()> {
    let state = batch.ground().state().clone();
    let mut listed = None;
    // Then it may have forgotten what was found damaged.
    if ledger.was_made_anew() || known_generation(realm, ledger)? != Some(state.generation()) {
        let packs = list_packs(realm).await?;
        doubt_missing(realm, ledger, &state, &packs).await?;
        listed = Some(packs);
    }
    batch.doubt(ledger.doubted(&state)?);
    let ground = batch.ground().clone();
    // Live packs that the ledger does not know.
    let mut unknown: BTreeMap<ObjectHash, u64> = state
        .live_objects()
        .filter(|(ordinal, record)| record.kind.is_pack() && !ground.is_doubted(*ordinal))
        .map(|(ordinal, record)| (record.hash, ordinal))
        .collect();
    let (mut gone, mut ordinals, mut unnamed) = (Vec::new(), Vec::new(), Vec::new());
    for pack in ledger.packs()? {
        match ground.live_object(pack.record.hash) {
            Some(ordinal) => {
                unknown.remove(&pack.record.hash);
                if pack.ordinal != Some(ordinal) {
                    ordinals.push((pack.no, ordinal));
                }
                batch.know_live(pack.no, ordinal);
            }
            None if pack.ordinal.is_none()
                && pack.record.copy == ground.next_copy(pack.record.hash) =>
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
            Err(error) if error.is_gap() => gone.push(pack.no),
            Err(error) => return Err(error),
        }
    }
    ledger.correct(&gone, &ordinals)?;
    learn_live(realm, ledger, batch, unknown).await?;
    if let Some(listed) = listed.filter(|_| ledger.was_made_anew()) {
        for (record, toc) in find_orphans(realm, &ground, listed).await? {
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
    let state = batch.ground().state().clone();
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
            Err(error) if error.is_gap() => {
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
async fn find_orphans(
    realm: &Realm,
    ground: &Ground,
    mut listed: Listed,
) -> Result<Vec<(ObjectRecord, Toc)>> {
    let named: HashSet<(ObjectHash, u32)> = ground
        .state()
        .objects()
        .values()
        .map(|object| (object.record.hash, object.record.copy))
        .collect();
    listed.retain(|name, _| {
        name.content_parts().is_some_and(|(hash, copy)| {
            !named.contains(&(hash, copy)) && copy == ground.next_copy(hash)
        })
    });
    let mut orphans = Vec::new();
    for (name, (kind, _)) in listed {
        let Some((hash, copy)) = name.content_parts() else { continue };
        let store = realm.store().as_ref();
        match PackReader::open(store, realm.keys(), kind, name, None).await {
            Ok(reader) => {
                let (size, salt) = (reader.stored_length(), reader.salt());
                orphans.push((ObjectRecord { kind, hash, copy, size, salt }, reader.into_toc()));
            }
            Err(error) if error.is_gap() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(orphans)
}

// The generation of the state that the ledger remembers.
fn known_generation(realm: &Realm, ledger: &Ledger) -> Result<Option<Generation>> {
    Ok(ledger.snapshot(realm.keys())?.map(|known| known.generation()))
}
