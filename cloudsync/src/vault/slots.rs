//! The slot objects of a realm in the store: listing them within bounds, putting one, proving that it opens.

use crate::crypto::passphrase::Passphrase;
use crate::crypto::ring::KeyRing;
use crate::crypto::slot::{
    KdfCosts, KdfLimits, SLOT_LENGTH, SLOTS_LIMIT, SlotName, open_slot, seal_slot,
};
use crate::error::{Error, Result, SealError};
use crate::layout::{ObjectName, RealmId, slot_prefix};
use crate::store::ObjectStore;
use crate::store::proof::put_proved;
use crate::vault::chain::Surroundings;
use crate::vault::in_background;
use storepool::entropy::random_bytes;

/// Returns the slot objects that are there, newest revisions first, however many.
pub(crate) async fn listed_slots(store: &dyn ObjectStore, realm: RealmId) -> Result<Vec<SlotName>> {
    let listed = store.list(&slot_prefix(realm)).await?;
    let mut slots: Vec<SlotName> = listed
        .iter()
        .filter_map(|meta| meta.name.slot_parts())
        .map(|(slot, revision)| SlotName { realm, slot, revision })
        .collect();
    slots.sort_by_key(|slot| (std::cmp::Reverse(slot.revision), slot.slot));
    Ok(slots)
}

/// Returns the slot objects to try; bounded, so that a hostile vault cannot make a reader derive keys for ever.
pub(super) async fn slots_to_try(store: &dyn ObjectStore, realm: RealmId) -> Result<Vec<SlotName>> {
    let broken =
        |reason| Error::Damaged { object: slot_prefix(realm), reason: SealError::Format(reason) };
    let slots = listed_slots(store, realm).await?;
    match slots.len() {
        0 => Err(broken("there is no passphrase slot")),
        1..=SLOTS_LIMIT => Ok(slots),
        _ => Err(broken("there are more passphrase slots than allowed")),
    }
}

/// Seals a ring for a passphrase and puts the slot object. Half a second of a processor.
pub(crate) async fn put_slot(
    store: &dyn ObjectStore,
    slot: SlotName,
    ring: &KeyRing,
    passphrase: &Passphrase,
    costs: KdfCosts,
    around: &Surroundings<'_>,
) -> Result<()> {
    let name = object_name(slot);
    let (ring, passphrase) = (ring.clone(), passphrase.clone());
    // The salt is drawn here, because the entropy cannot move to another thread.
    let salt = random_bytes(around.entropy);
    let object =
        in_background("key derivation", move || seal_slot(slot, &ring, &passphrase, costs, salt))
            .await?
            .map_err(|reason| Error::damaged(&name, reason))?;
    put_proved(store, &name, object.into()).await?;
    Ok(())
}

/// Proves that a slot object, as the store gives it back, opens with the passphrase to this ring.
pub(crate) async fn prove_slot(
    store: &dyn ObjectStore,
    slot: SlotName,
    ring: &KeyRing,
    passphrase: &Passphrase,
    costs: KdfCosts,
) -> Result<()> {
    let name = object_name(slot);
    let object = store.get(&name, SLOT_LENGTH as u64).await?.bytes;
    let (passphrase, limits) = (passphrase.clone(), KdfLimits { memory_kib: costs.memory_kib });
    let opened =
        in_background("key derivation", move || open_slot(&object, slot, &passphrase, &limits))
            .await?
            .map_err(|reason| Error::damaged(&name, reason))?;
    match opened == *ring {
        true => Ok(()),
        false => Err(Error::damaged(&name, SealError::Content)),
    }
}

/// Returns the name of a slot object.
pub(crate) fn object_name(slot: SlotName) -> ObjectName {
    ObjectName::slot(slot.realm, slot.slot, slot.revision)
}
