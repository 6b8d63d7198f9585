//! What this installation remembers of its contact with a vault: when it last proved that it can be reached, and the
//! newest state that its owner signed. A small file; without it the vault counts as reached and active, and the next
//! contact tells better.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use storepool::clock::Timestamp;

use crate::error::{Error, Result};
use crate::layout::VaultId;
use crate::standing::{Connectivity, Policy, Standing, Subscription, standing};
use crate::vault::Vault;
use crate::vault::file::{read_small_file, write_private_file};
use crate::vault::owner::OwnerId;
use crate::vault::plain::{from_rfc3339, rfc3339};
use crate::vault::state::SignedState;
use crate::vault::time::minus;

const FORMAT: &str = "keepwell contact";
const VERSION: u32 = 1;
const FILE_LIMIT: u64 = 64 << 10;
/// For so long a state that was read is taken as it is: a sync every few minutes need not ask each time.
pub const STATE_FRESH: Duration = Duration::from_secs(15 * 60);

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    path: PathBuf,
    vault: VaultId,
    owner: Option<OwnerId>,
    proved: Option<Timestamp>,
    failed: Option<Timestamp>,
    asked: Option<Timestamp>,
    state: Option<SignedState>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: String,
    version: u32,
    vault: String,
    owner: Option<String>,
    proved: Option<String>,
    failed: Option<String>,
    asked: Option<String>,
    state: Option<Box<RawValue>>,
}

impl Contact {
    /// Reads the file. One that is missing, damaged or of another vault tells nothing.
    pub fn load(path: &Path, vault: VaultId) -> Self {
        let nothing = Self {
            path: path.to_path_buf(),
            vault,
            owner: None,
            proved: None,
            failed: None,
            asked: None,
            state: None,
        };
        let Ok(bytes) = read_small_file(path, FILE_LIMIT) else { return nothing };
        let Ok(document) = serde_json::from_slice::<Document>(&bytes) else { return nothing };
        let own = document.format == FORMAT && document.version == VERSION;
        if !own || document.vault != vault.to_string() {
            return nothing;
        }
        let time = |text: &Option<String>| from_rfc3339(text.as_deref()?).ok();
        let owner = document.owner.as_deref().and_then(OwnerId::parse);
        // Signed, so a file that was tampered with tells no false state.
        let owner = owner.filter(|owner| owner.vault() == vault);
        let state = document.state.as_ref().zip(owner);
        let state =
            state.and_then(|(raw, owner)| SignedState::decode(raw.get().as_bytes(), &owner).ok());
        Self {
            owner,
            proved: time(&document.proved),
            failed: time(&document.failed),
            asked: time(&document.asked),
            state,
            ..nothing
        }
    }

    /// Writes the file; durable on return.
    pub fn save(&self) -> Result<()> {
        let state = self.state.as_ref().map(|state| state.encode(self.vault));
        let raw = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("JSON is text");
            RawValue::from_string(text).expect("it was just written as JSON")
        };
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            vault: self.vault.to_string(),
            owner: self.owner.map(|owner| owner.to_string()),
            proved: self.proved.map(rfc3339),
            failed: self.failed.map(rfc3339),
            asked: self.asked.map(rfc3339),
            state: state.map(raw),
        };
        let bytes = serde_json::to_vec(&document).expect("strings can be written as JSON");
        write_private_file(&self.path, &bytes)
    }

    /// Takes notice that the vault was reached. `now` is this machine's time.
    pub fn reached(&mut self, now: Timestamp) {
        self.proved = Some(now);
        self.failed = None;
    }

    /// Takes notice that the vault could not be reached.
    pub fn not_reached(&mut self, now: Timestamp) {
        // The first failure since the last proof; without any proof it is where counting begins.
        self.failed = self.failed.or(Some(now));
    }

    /// Asks the vault for its state, unless that was done a moment ago.
    pub async fn refresh(&mut self, vault: &Vault, now: Timestamp) -> Result<()> {
        let fresh = self.asked.is_some_and(|asked| asked <= now && minus(now, asked) < STATE_FRESH);
        if fresh {
            return Ok(());
        }
        self.refresh_now(vault, now).await
    }

    /// Asks the vault for its state.
    pub async fn refresh_now(&mut self, vault: &Vault, now: Timestamp) -> Result<()> {
        if vault.id() != self.vault {
            return Err(Error::OtherVault {
                address: vault.store().address().to_owned(),
                expected: self.vault,
                found: vault.id(),
            });
        }
        let found = vault.subscription().await?;
        self.owner = vault.descriptor().owner;
        let known = self.state.as_ref().map_or(0, |state| state.revision);
        match found {
            Some(state) if state.revision >= known => self.state = Some(state),
            // Once seen it is not unseen: the vault shows an older one, or none at all.
            _ if known > 0 => {
                tracing::warn!("the vault shows an older state than was seen there before");
            }
            _ => {}
        }
        self.asked = Some(now);
        Ok(())
    }

    /// Returns the newest state that the owner signed and this installation has seen.
    pub fn state(&self) -> Option<&SignedState> {
        self.state.as_ref()
    }

    /// Returns when the vault was last reached, by this machine's time.
    pub fn proved(&self) -> Option<Timestamp> {
        self.proved
    }

    /// Returns for how long the vault has been out of reach; `None` if the last attempt succeeded.
    ///
    /// Counted from the last proof. A clock that went back counts as no time at all.
    pub fn lost_for(&self, now: Timestamp) -> Option<Duration> {
        let failed = self.failed?;
        Some(minus(now, self.proved.unwrap_or(failed)))
    }

    /// Returns what is allowed now.
    pub fn standing(&self, policy: Policy, now: Timestamp) -> Standing {
        let subscription =
            self.state.as_ref().map_or(Subscription::Active, |state| state.subscription);
        standing(Connectivity::after(self.lost_for(now)), subscription, policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::server::{DAY, Server};

    fn at(days: i64) -> Timestamp {
        Timestamp(1_790_000_000_000_000_000 + days * DAY.as_nanos() as i64)
    }

    #[test]
    fn time_is_counted_from_the_last_proof_and_only_after_a_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contact");
        let vault = VaultId([1; 16]);
        let mut contact = Contact::load(&path, vault);
        let connectivity =
            |contact: &Contact, day| contact.standing(Policy::Strict, at(day)).connectivity.word();

        contact.reached(at(0));
        assert_eq!(connectivity(&contact, 400), "connected", "nobody has tried since");
        contact.not_reached(at(3));
        contact.not_reached(at(10));
        assert_eq!(contact.lost_for(at(10)), Some(DAY * 10));
        assert_eq!((connectivity(&contact, 15), connectivity(&contact, 16)), ("waiting", "lost"));
        assert_eq!(contact.lost_for(at(-5)), Some(Duration::ZERO));
        contact.save().expect("saved");
        assert_eq!(Contact::load(&path, vault), contact);
        assert_eq!(Contact::load(&path, VaultId([2; 16])).lost_for(at(10)), None);
        contact.reached(at(20));
        assert_eq!(connectivity(&contact, 21), "connected");

        std::fs::write(&path, b"{").expect("written");
        assert_eq!(Contact::load(&path, vault).proved(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_state_is_asked_for_once_in_a_while_kept_and_never_unseen() {
        let server = Server::new().await;
        let vault = Vault::open(server.memory.clone(), &server.credentials).await.expect("opened");
        let path = server.path("contact");
        let mut contact = Contact::load(&path, vault.id());
        let now = at(0);
        let owner = &server.owner;
        vault.set_subscription(owner, Subscription::Expired, "", now).await.expect("set");
        let before = server.memory.copy();
        vault.set_subscription(owner, Subscription::Deprovisioned, "", now).await.expect("set");

        contact.refresh(&vault, now).await.expect("asked");
        server.memory.take_requests();
        contact.refresh(&vault, now).await.expect("not asked");

        assert_eq!(server.memory.take_requests().total(), 0);
        contact.save().expect("saved");
        let mut again = Contact::load(&path, vault.id());
        assert_eq!(again, contact);
        server.memory.become_like(&before);
        again.refresh(&vault, at(1)).await.expect("asked");
        let state = again.state().expect("a state");
        assert_eq!((state.revision, state.subscription), (2, Subscription::Deprovisioned));
        let strict = again.standing(Policy::Strict, at(1));
        assert!(strict.forget_vault_points);
    }
}
