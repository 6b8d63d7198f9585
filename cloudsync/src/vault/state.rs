//! The subscription state of a vault: set by its owner, signed, and read by every server (`docs/format-vault.md`,
//! section 2). A server can neither forge one nor be harmed by one that was forged or brought back.

use serde::{Deserialize, Serialize};
use storepool::clock::Timestamp;

use crate::error::{Error, Result, SealError, StoreFault};
use crate::layout::{ObjectName, STATES, VaultId};
use crate::standing::Subscription;
use crate::store::ObjectStore;
use crate::store::proof::put_proved;
use crate::vault::Vault;
use crate::vault::owner::{OwnerId, OwnerKey, unhex};
use crate::vault::plain::{self, PLAIN_LIMIT, VERSION, check, from_rfc3339, rfc3339};

const FORMAT: &str = "keepwell vault state";
const CONTEXT: &[u8] = b"keepwell 2026 v1 vault state";
/// Most bytes of a note.
pub const NOTE_LIMIT: usize = 1024;
/// How many of the highest revisions a reader looks at.
const LOOKS_MOST: usize = 32;

/// A state as its owner signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedState {
    /// Counts the changes.
    pub revision: u64,
    /// The state.
    pub subscription: Subscription,
    /// Since when, to the second, by the clock of whoever set it.
    pub since: Timestamp,
    /// Why, for people.
    pub note: String,
    signature: [u8; 64],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    vault: String,
    revision: u64,
    state: String,
    since: String,
    note: String,
    signature: String,
}

impl SignedState {
    fn sign(
        owner: &OwnerKey,
        revision: u64,
        subscription: Subscription,
        since: Timestamp,
        note: &str,
    ) -> Self {
        // As the document will tell it.
        let since = Timestamp(since.seconds() * 1_000_000_000);
        let mut state =
            Self { revision, subscription, since, note: note.to_owned(), signature: [0; 64] };
        state.signature = owner.sign(&state.message(owner.id().vault()));
        state
    }

    fn message(&self, vault: VaultId) -> Vec<u8> {
        let mut message = CONTEXT.to_vec();
        message.extend_from_slice(vault.as_bytes());
        message.extend_from_slice(&self.revision.to_le_bytes());
        message.push(self.subscription as u8);
        message.extend_from_slice(&self.since.0.to_le_bytes());
        message.extend_from_slice(&(self.note.len() as u32).to_le_bytes());
        message.extend_from_slice(self.note.as_bytes());
        message
    }

    /// Returns the bytes of the object.
    pub fn encode(&self, vault: VaultId) -> Vec<u8> {
        plain::encode(&Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            vault: vault.to_string(),
            revision: self.revision,
            state: self.subscription.word().to_owned(),
            since: rfc3339(self.since),
            note: self.note.clone(),
            signature: storepool::id::hex(&self.signature),
        })
    }

    /// Reads an object and proves that this owner signed it for its vault.
    pub fn decode(bytes: &[u8], owner: &OwnerId) -> Result<Self, SealError> {
        let document: Document = plain::decode(bytes)?;
        check(&document.format, FORMAT, document.version)?;
        let vault = owner.vault();
        if document.vault != vault.to_string() {
            return Err(SealError::Format("it is for another vault"));
        }
        if document.note.len() > NOTE_LIMIT {
            return Err(SealError::Format("its note is too long"));
        }
        let state = Self {
            revision: document.revision,
            subscription: document
                .state
                .parse()
                .map_err(|_| SealError::Format("the state is not one"))?,
            since: from_rfc3339(&document.since)?,
            note: document.note,
            signature: unhex(&document.signature)
                .ok_or(SealError::Format("the signature is not one"))?,
        };
        match owner.signed(&state.message(vault), &state.signature) {
            true => Ok(state),
            false => Err(SealError::Content),
        }
    }
}

impl Vault {
    /// Reads the newest state that the owner signed; nothing if there is none, so that the vault is active. Two
    /// requests, and one for each object in the way that the owner did not sign.
    pub async fn subscription(&self) -> Result<Option<SignedState>> {
        let Some(owner) = self.descriptor().owner else { return Ok(None) };
        let listed = self.store().list(STATES).await?;
        let mut revisions: Vec<u64> =
            listed.iter().filter_map(|meta| meta.name.state_revision()).collect();
        revisions.sort_unstable();
        for revision in revisions.into_iter().rev().take(LOOKS_MOST) {
            let name = ObjectName::state(revision);
            match read(self.store().as_ref(), &name, &owner).await {
                Ok(state) if state.revision == revision => return Ok(Some(state)),
                Ok(_) => tracing::warn!(object = %name, "passed over a state under a wrong name"),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "passed over a state that the owner did not sign");
                }
                Err(Error::Store(error))
                    if matches!(error.fault, StoreFault::NotFound | StoreFault::Corrupt) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sets the state; returns it as it is in the vault.
    ///
    /// # Errors
    /// [`Error::NoOwner`] for a vault without an owner, [`Error::OtherOwner`] for another vault's owner.
    pub async fn set_subscription(
        &self,
        owner: &OwnerKey,
        subscription: Subscription,
        note: &str,
        now: Timestamp,
    ) -> Result<SignedState> {
        let known = self.descriptor().owner.ok_or(Error::NoOwner)?;
        if known != owner.id() {
            return Err(Error::OtherOwner { expected: self.id(), found: owner.id().vault() });
        }
        if note.len() > NOTE_LIMIT {
            return Err(Error::TooLarge { what: "the note" });
        }
        let mut revision = self.subscription().await?.map_or(0, |state| state.revision);
        let mut tries = 0;
        loop {
            revision += 1;
            let state = SignedState::sign(owner, revision, subscription, now, note);
            let name = ObjectName::state(revision);
            let put = put_proved(self.store().as_ref(), &name, state.encode(self.id()).into());
            match put.await {
                Ok(_) => return Ok(state),
                // Something that the owner did not sign is in the way, or the owner is at it twice.
                Err(error) if error.fault == StoreFault::AlreadyExists && tries < LOOKS_MOST => {
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn read(store: &dyn ObjectStore, name: &ObjectName, owner: &OwnerId) -> Result<SignedState> {
    let body = store.get(name, PLAIN_LIMIT).await?;
    SignedState::decode(&body.bytes, owner).map_err(|reason| Error::damaged(name, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryStore, SeededEntropy};
    use crate::vault::chain::Surroundings;
    use crate::vault::{NewVault, REGISTRATION_PERIOD};
    use std::sync::Arc;
    use storepool::clock::SystemClock;

    async fn vault(memory: &Arc<MemoryStore>, owner: &OwnerKey) -> Vault {
        let (clock, entropy) = (SystemClock::new(), SeededEntropy::new(3));
        let request = NewVault {
            name: "main".into(),
            address: "file:///srv/vault".parse().expect("an address"),
            registration_period: REGISTRATION_PERIOD,
            labels: Vec::new(),
            access: Default::default(),
        };
        let around = Surroundings { clock: &clock, entropy: &entropy };
        let (vault, credentials) =
            Vault::create_owned(memory.clone(), &request, owner, &around).await.expect("created");
        assert_eq!(credentials.vault, owner.id().vault());
        vault
    }

    const NOW: Timestamp = Timestamp(1_790_000_000_500_000_000);

    #[tokio::test]
    async fn the_owner_sets_states_and_the_newest_counts() {
        let memory = Arc::new(MemoryStore::new());
        let owner = OwnerKey::generate(&SeededEntropy::new(1));
        let vault = vault(&memory, &owner).await;
        assert_eq!(vault.subscription().await.expect("read"), None);

        for (subscription, note) in [
            (Subscription::Expired, "unpaid"),
            (Subscription::Active, ""),
            (Subscription::Deprovisioned, "ö"),
        ] {
            let set = vault.set_subscription(&owner, subscription, note, NOW).await.expect("set");
            let read = vault.subscription().await.expect("read").expect("a state");
            assert_eq!((&read, read.subscription, read.note.as_str()), (&set, subscription, note));
        }

        assert_eq!(vault.subscription().await.expect("read").expect("a state").revision, 3);
        let other = OwnerKey::generate(&SeededEntropy::new(2));
        let refused = vault.set_subscription(&other, Subscription::Active, "", NOW).await;
        assert!(matches!(refused, Err(Error::OtherOwner { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn what_the_owner_did_not_sign_is_passed_over_and_cannot_block() {
        let memory = Arc::new(MemoryStore::new());
        let owner = OwnerKey::generate(&SeededEntropy::new(1));
        let vault = vault(&memory, &owner).await;
        vault.set_subscription(&owner, Subscription::Expired, "", NOW).await.expect("set");
        let genuine = memory.peek("state/1.json").expect("there");
        let text = String::from_utf8(genuine.to_vec()).expect("text");
        let stranger = OwnerKey::generate(&SeededEntropy::new(9));
        let forged = SignedState::sign(&stranger, 5, Subscription::Deprovisioned, NOW, "");

        for (name, bytes) in [
            ("state/2.json", text.replace("expired", "deprovisioned")),
            ("state/3.json", text.clone()),
            ("state/4.json", text.replace("\"revision\":1", "\"revision\":4")),
            ("state/5.json", String::from_utf8(forged.encode(vault.id())).expect("text")),
            ("state/6.json", "{}".to_owned()),
            ("state/18446744073709551615.json", "x".repeat(20_000)),
        ] {
            memory.tamper(name, bytes);
            let state = vault.subscription().await.expect("read").expect("a state");
            assert_eq!((state.revision, state.subscription), (1, Subscription::Expired), "{name}");
        }

        let set = vault.set_subscription(&owner, Subscription::Active, "", NOW).await.expect("set");
        assert_eq!(set.revision, 7);
        assert_eq!(vault.subscription().await.expect("read"), Some(set));
    }

    #[test]
    fn no_byte_of_a_state_can_be_changed() {
        let owner = OwnerKey::generate(&SeededEntropy::new(1));
        let state = SignedState::sign(&owner, 3, Subscription::Expired, NOW, "why");
        let bytes = state.encode(owner.id().vault());

        assert_eq!(SignedState::decode(&bytes, &owner.id()).as_ref(), Ok(&state));
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            assert!(SignedState::decode(&changed, &owner.id()).is_err(), "{position}");
        }
    }
}
