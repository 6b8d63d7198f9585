//! The passphrases of a realm: more of them, other ones, fewer. Seconds, and nothing that was copied is touched,
//! because a passphrase only wraps the keys.
//!
//! A new slot is put and opened again before the commit that makes it valid; an old one is deleted after the commit
//! that makes it retired. Wherever that breaks off, one passphrase at least opens, and the next change tidies up.

use crate::crypto::passphrase::Passphrase;
use crate::crypto::slot::{KdfCosts, SLOTS_LIMIT, SlotName};
use crate::error::{Error, Result, StoreFault};
use crate::layout::{LABEL_LIMIT, ObjectName, SlotId};
use crate::vault::commit::{Changes, CommitKind, SlotLabel, SlotSet};
use crate::vault::slots::{listed_slots, object_name, prove_slot, put_slot};
use crate::vault::snapshot::Snapshot;
use crate::writing::Writing;
use storepool::clock::Timestamp;
use storepool::entropy::random_bytes;

/// A passphrase that opens, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its identity.
    pub id: SlotId,
    /// How often it was changed, and once more.
    pub revision: u64,
    /// What people call it; empty if nothing.
    pub name: String,
    /// When it was set, by the clock of the machine that did it.
    pub made: Option<Timestamp>,
}

/// What a change left in the vault that it could not delete: an old slot opens with its old passphrase as long as it
/// is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// The objects.
    pub objects: Vec<ObjectName>,
}

/// Returns the passphrases of a state, in the order in which they were added.
pub fn slots(snapshot: &Snapshot) -> Vec<Slot> {
    let set = snapshot.slots();
    set.slots
        .iter()
        .map(|(id, revision)| Slot {
            id: *id,
            revision: *revision,
            name: set.name(*id).to_owned(),
            made: set.labels.iter().find(|label| label.slot == *id).map(|label| label.made),
        })
        .collect()
}

/// Finds a passphrase by its name, or by the beginning of its identity.
pub fn find(snapshot: &Snapshot, name: &str) -> Result<Slot> {
    let slots = slots(snapshot);
    if let Some(slot) = slots.iter().find(|slot| slot.name == name) {
        return Ok(slot.clone());
    }
    let mut meant = slots.into_iter().filter(|slot| slot.id.to_string().starts_with(name));
    match (meant.next(), meant.next()) {
        (Some(slot), None) if name.len() >= 4 => Ok(slot),
        _ => Err(Error::NoSuchSlot { name: name.to_owned() }),
    }
}

/// Adds a passphrase under a name of its own.
///
/// # Errors
/// [`Error::SlotExists`], [`Error::TooManySlots`]; those of [`Writing`].
pub async fn add(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    name: &str,
    passphrase: &Passphrase,
    costs: KdfCosts,
) -> Result<LeftBehind> {
    check_name(name)?;
    if slots(snapshot).iter().any(|slot| slot.name == name) {
        return Err(Error::SlotExists { name: name.to_owned() });
    }
    let left = tidy(writing, snapshot).await?;
    if snapshot.slots().slots.len() + left.objects.len() >= SLOTS_LIMIT {
        return Err(Error::TooManySlots { most: SLOTS_LIMIT });
    }
    let slot = SlotName {
        realm: writing.realm.id(),
        slot: SlotId(random_bytes(writing.around.entropy)),
        revision: 1,
    };
    set(writing, snapshot, slot, name, passphrase, costs).await?;
    Ok(left)
}

/// Replaces a passphrase. From now on the old one opens nothing, unless the vault has kept a copy of its slot.
///
/// # Errors
/// Those of [`find`] and of [`Writing`].
pub async fn change(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    name: &str,
    passphrase: &Passphrase,
    costs: KdfCosts,
) -> Result<LeftBehind> {
    let old = find(snapshot, name)?;
    tidy(writing, snapshot).await?;
    // Also above what could not be tidied away: that name is taken.
    let listed = listed_slots(writing.realm.store().as_ref(), writing.realm.id()).await?;
    let taken = listed.iter().filter(|slot| slot.slot == old.id).map(|slot| slot.revision).max();
    let revision = taken.unwrap_or(0).max(old.revision) + 1;
    let slot = SlotName { realm: writing.realm.id(), slot: old.id, revision };
    set(writing, snapshot, slot, &old.name, passphrase, costs).await?;
    tidy(writing, snapshot).await
}

/// Takes a passphrase away.
///
/// # Errors
/// [`Error::LastSlot`]; those of [`find`] and of [`Writing`].
pub async fn remove(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    name: &str,
) -> Result<LeftBehind> {
    let old = find(snapshot, name)?;
    writing
        .commit(snapshot, CommitKind::Keys, |state| {
            let mut set = state.slots().clone();
            if !set.slots.iter().any(|(slot, _)| *slot == old.id) {
                return Ok(None);
            }
            if set.slots.len() == 1 {
                return Err(Error::LastSlot { name: name.to_owned() });
            }
            set.revision += 1;
            set.slots.retain(|(slot, _)| *slot != old.id);
            set.labels.retain(|label| label.slot != old.id);
            Ok(Some(Changes { slots: Some(set), ..Changes::default() }))
        })
        .await?;
    tidy(writing, snapshot).await
}

// Puts a slot, proves it, and makes it valid.
async fn set(
    writing: &mut Writing<'_>,
    snapshot: &mut Snapshot,
    slot: SlotName,
    name: &str,
    passphrase: &Passphrase,
    costs: KdfCosts,
) -> Result<()> {
    let now = writing.around.clock.now();
    let store = writing.realm.store().clone();
    let ring = writing.realm.keys().ring().for_slot(name, snapshot.slots().revision + 1, now);
    put_slot(store.as_ref(), slot, &ring, passphrase, costs, writing.around).await?;
    prove_slot(store.as_ref(), slot, &ring, passphrase, costs).await?;
    writing
        .commit(snapshot, CommitKind::Keys, |state| {
            let mut set: SlotSet = state.slots().clone();
            if set.slots.contains(&(slot.slot, slot.revision)) {
                return Ok(None);
            }
            set.revision += 1;
            match set.slots.iter().position(|(id, _)| *id == slot.slot) {
                Some(place) => set.slots[place].1 = slot.revision,
                None if set.slots.len() < SLOTS_LIMIT => set.slots.push((slot.slot, slot.revision)),
                None => return Err(Error::TooManySlots { most: SLOTS_LIMIT }),
            }
            set.labels.retain(|label| label.slot != slot.slot);
            set.labels.push(SlotLabel { slot: slot.slot, made: now, name: name.to_owned() });
            Ok(Some(Changes { slots: Some(set), ..Changes::default() }))
        })
        .await?;
    Ok(())
}

// Deletes slot objects that are not valid: replaced, removed, or left by a change that broke off.
async fn tidy(writing: &Writing<'_>, snapshot: &Snapshot) -> Result<LeftBehind> {
    let store = writing.realm.store();
    let mut left = LeftBehind::default();
    for slot in listed_slots(store.as_ref(), writing.realm.id()).await? {
        if snapshot.slots().slots.contains(&(slot.slot, slot.revision)) {
            continue;
        }
        let name = object_name(slot);
        match store.delete(&name).await {
            Ok(()) => {}
            Err(error) if error.fault == StoreFault::PermissionDenied => left.objects.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left)
}

fn check_name(name: &str) -> Result<()> {
    let fine = (1..=LABEL_LIMIT).contains(&name.len())
        && name.trim() == name
        && !name.chars().any(char::is_control);
    match fine {
        true => Ok(()),
        false => Err(Error::TooLarge { what: "the name of the passphrase" }),
    }
}

#[cfg(test)]
mod tests;
