//! A vault: created by its owner, registered with by servers, opened by whoever holds credentials and a
//! passphrase or a key file.
//!
//! The store is asked before it is trusted: it must create exclusively and give back what was put. A
//! registration is done only when the key was proved by a full round trip, and becomes visible last.

pub mod anchor;
pub mod chain;
pub mod commit;
pub mod credentials;
mod fields;
pub(crate) mod file;
mod history;
pub mod key_file;
mod mend;
pub mod owner;
pub mod pack;
pub mod plain;
mod point_record;
mod slot_set;
pub(crate) mod slots;
pub mod snapshot;
pub mod state;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod time;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use storepool::clock::Timestamp;
use storepool::entropy::random_bytes;
use tokio::task::JoinSet;

use crate::crypto::passphrase::Passphrase;
use crate::crypto::ring::{KeyRing, RealmKeys};
use crate::crypto::slot::{KdfCosts, KdfLimits, SLOT_LENGTH, SlotName, open_slot};
use crate::error::{Error, Result, SealError, StoreFault};
use crate::layout::{InstanceId, Label, ObjectName, RealmId, SERVERS, SlotId, VaultId};
use crate::store::probe::{ProbeReport, probe};
use crate::store::proof::put_proved;
use crate::store::{ObjectStore, VaultAddress};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Realm, Surroundings};
use crate::vault::commit::{Changes, SlotLabel, SlotSet};
use crate::vault::credentials::{Access, Credentials};
use crate::vault::key_file::UnlockedKey;
use crate::vault::owner::OwnerKey;
use crate::vault::plain::{Descriptor, Server};
use crate::vault::slots::{put_slot, slots_to_try};
use crate::vault::snapshot::Snapshot;

pub use crate::vault::fields::Ordinals;

/// How long new credentials can be used to register, unless the owner says otherwise.
pub const REGISTRATION_PERIOD: Duration = Duration::from_secs(10 * 24 * 3600);
/// What the slot of a registration is called.
const FIRST_SLOT: &str = "first";
const READS_AT_ONCE: usize = 16;

/// What an owner decides when a vault is made.
#[derive(Clone, Debug)]
pub struct NewVault {
    /// The vault's name for people.
    pub name: String,
    /// Where it will be found.
    pub address: VaultAddress,
    /// How long servers can be registered with the credentials.
    pub registration_period: Duration,
    /// Suggestions for the label of the server.
    pub labels: Vec<Label>,
    /// Options of the store that go into the credentials.
    pub access: Access,
}

/// What a server brings to its registration.
#[derive(Clone, Copy, Debug)]
pub struct NewServer<'a> {
    /// Its name, visible to everybody who can list the vault.
    pub label: &'a Label,
    /// Its passphrase.
    pub passphrase: &'a Passphrase,
    /// What a guess of the passphrase is to cost.
    pub costs: KdfCosts,
    /// Where it will remember what it has seen of the vault.
    pub anchor: &'a Path,
}

/// A registration that is done and proved.
#[derive(Debug)]
pub struct Registration {
    /// The server's realm, unlocked.
    pub realm: Realm,
    /// What to keep for unattended work.
    pub key: UnlockedKey,
    /// The state after the first commit.
    pub snapshot: Snapshot,
    /// The anchor, already written.
    pub anchor: Anchor,
    /// What the test of the store found out.
    pub probe: ProbeReport,
    /// By how many seconds this machine's clock is ahead of the vault's, where that is known.
    pub clock_ahead_seconds: Option<i64>,
}

/// A realm that a passphrase opened.
#[derive(Debug)]
pub struct Unlocked {
    /// The realm.
    pub realm: Realm,
    /// The slot that opened. If the newest slot set does not have it, the passphrase was replaced or removed
    /// meanwhile.
    pub slot: SlotName,
}

impl Unlocked {
    /// Returns whether the passphrase that opened was replaced or removed: an old copy of its slot is still,
    /// or again, in the vault.
    pub fn is_retired(&self, snapshot: &Snapshot) -> bool {
        !snapshot.slots().slots.contains(&(self.slot.slot, self.slot.revision))
    }
}

/// The servers of a vault.
#[derive(Debug, Default)]
pub struct Servers {
    /// Those that can be read, by label.
    pub found: Vec<Server>,
    /// What went wrong with the others.
    pub damaged: Vec<Error>,
}

/// A vault whose identity was checked.
#[derive(Clone, Debug)]
pub struct Vault {
    store: Arc<dyn ObjectStore>,
    descriptor: Descriptor,
}

impl Vault {
    /// Makes a vault whose state nobody can set: as [`Vault::create_owned`] with a key that is thrown away.
    pub async fn create(
        store: Arc<dyn ObjectStore>,
        request: &NewVault,
        around: &Surroundings<'_>,
    ) -> Result<(Self, Credentials)> {
        let owner = OwnerKey::generate(around.entropy);
        Self::create_owned(store, request, &owner, around).await
    }

    /// Makes a vault in an empty store, after testing it; returns the credentials to hand to servers. Whoever has the
    /// owner's key can set the vault's state.
    pub async fn create_owned(
        store: Arc<dyn ObjectStore>,
        request: &NewVault,
        owner: &OwnerKey,
        around: &Surroundings<'_>,
    ) -> Result<(Self, Credentials)> {
        let exists = |vault| Error::VaultExists { address: store.address().to_owned(), vault };
        if let Some(found) = Descriptor::load(store.as_ref()).await? {
            return Err(exists(found.vault));
        }
        let report = probe(store.as_ref(), around.entropy).await?;
        let now = report.server_time.unwrap_or_else(|| around.clock.now());
        let descriptor = Descriptor {
            vault: owner.id().vault(),
            owner: Some(owner.id()),
            name: request.name.clone(),
            created: now,
        };
        let name = ObjectName::descriptor();
        if let Err(error) = put_proved(store.as_ref(), &name, descriptor.encode().into()).await {
            // Somebody else made one in the same moment.
            let other = Descriptor::load(store.as_ref()).await?;
            return Err(other.map_or_else(|| error.into(), |found| exists(found.vault)));
        }
        let credentials = Credentials {
            vault: descriptor.vault,
            name: request.name.clone(),
            address: request.address.clone(),
            issued: now,
            registration_expires: later(now, request.registration_period),
            labels: request.labels.clone(),
            access: request.access.clone(),
        };
        Ok((Self { store, descriptor }, credentials))
    }

    /// Opens the vault that the credentials are for.
    ///
    /// # Errors
    /// [`Error::NotAVault`] when there is none, [`Error::OtherVault`] when it is another one.
    pub async fn open(store: Arc<dyn ObjectStore>, credentials: &Credentials) -> Result<Self> {
        let address = || store.address().to_owned();
        let descriptor = Descriptor::load(store.as_ref())
            .await?
            .ok_or_else(|| Error::NotAVault { address: address() })?;
        if descriptor.vault != credentials.vault {
            return Err(Error::OtherVault {
                address: address(),
                expected: credentials.vault,
                found: descriptor.vault,
            });
        }
        Ok(Self { store, descriptor })
    }

    /// Opens the vault that a realm belongs to.
    pub async fn reopen(realm: &Realm) -> Result<Self> {
        let store = realm.store().clone();
        let descriptor = Descriptor::load(store.as_ref()).await?;
        let missing = || Error::NotAVault { address: store.address().to_owned() };
        let descriptor = descriptor.filter(|it| it.vault == realm.vault()).ok_or_else(missing)?;
        Ok(Self { store, descriptor })
    }

    /// Returns what the vault says about itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns the vault's identity.
    pub fn id(&self) -> VaultId {
        self.descriptor.vault
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Returns all servers that are registered. Needs no passphrase: labels are visible.
    pub async fn servers(&self) -> Result<Servers> {
        let listed = self.store.list(SERVERS).await?;
        let mut labels: Vec<Label> = listed.iter().filter_map(|meta| meta.name.label()).collect();
        labels.sort();
        let mut servers = Servers::default();
        for labels in labels.chunks(READS_AT_ONCE) {
            let mut tasks = JoinSet::new();
            for label in labels {
                let (store, vault, label) = (self.store.clone(), self.id(), label.clone());
                tasks.spawn(async move { Server::load(store.as_ref(), vault, &label).await });
            }
            while let Some(task) = tasks.join_next().await {
                match task.map_err(|_| Error::Interrupted { stage: "listing servers" })? {
                    Ok(Some(server)) => servers.found.push(server),
                    Ok(None) => {}
                    Err(error) if error.is_damage() => servers.damaged.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
        servers.found.sort_by(|left, right| left.label.cmp(&right.label));
        Ok(servers)
    }

    /// Returns the server with this label.
    pub async fn server(&self, label: &Label) -> Result<Server> {
        Server::load(self.store.as_ref(), self.id(), label)
            .await?
            .ok_or_else(|| Error::NoSuchServer { label: label.to_string() })
    }

    /// Unlocks a server's realm with its passphrase: one attempt for each slot, half a second each.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`] only when every slot was sound and none opened; a slot that is not is
    /// reported as [`Error::Damaged`], because it may be the right one.
    pub async fn unlock(
        &self,
        server: &Server,
        passphrase: &Passphrase,
        limits: &KdfLimits,
    ) -> Result<Unlocked> {
        let mut damage = None;
        for name in slots_to_try(self.store.as_ref(), server.realm).await? {
            let object_name = ObjectName::slot(name.realm, name.slot, name.revision);
            let object = match self.store.get(&object_name, SLOT_LENGTH as u64).await {
                Ok(body) => body.bytes,
                // Replaced between the list and now.
                Err(error) if error.fault == StoreFault::NotFound => continue,
                Err(error) if error.fault == StoreFault::Corrupt => {
                    damage = Some(Error::damaged(&object_name, SealError::Length));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (passphrase, limits) = (passphrase.clone(), *limits);
            let opened = in_background("key derivation", move || {
                open_slot(&object, name, &passphrase, &limits)
            })
            .await?;
            match opened {
                Ok(ring) => {
                    let keys = RealmKeys::new(name.realm, ring);
                    let realm = Realm::new(self.store.clone(), self.id(), keys);
                    return Ok(Unlocked { realm, slot: name });
                }
                Err(SealError::Key) => {}
                Err(reason) => damage = Some(Error::damaged(&object_name, reason)),
            }
        }
        Err(damage.unwrap_or_else(|| Error::WrongPassphrase { label: server.label.to_string() }))
    }

    /// Unlocks a realm with what a key file holds.
    pub fn unlock_with(&self, key: &UnlockedKey) -> Result<Realm> {
        if key.vault != self.id() {
            return Err(Error::OtherVault {
                address: self.store.address().to_owned(),
                expected: key.vault,
                found: self.id(),
            });
        }
        Ok(Realm::new(self.store.clone(), self.id(), key.keys.clone()))
    }

    /// Registers a server: makes its realm, keys and first commit, proves by a full round trip that the
    /// passphrase opens them, and only then makes the server visible.
    ///
    /// An interrupted registration leaves a few kilobytes that nobody refers to; it is simply run again.
    pub async fn register(
        &self,
        credentials: &Credentials,
        server: NewServer<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Registration> {
        let taken = || Error::LabelTaken { label: server.label.clone() };
        let report = probe(self.store.as_ref(), around.entropy).await?;
        let now = around.clock.now();
        credentials.check_registration(report.server_time.unwrap_or(now))?;
        if Server::load(self.store.as_ref(), self.id(), server.label).await?.is_some() {
            return Err(taken());
        }

        let slot = SlotName {
            realm: RealmId(random_bytes(around.entropy)),
            slot: SlotId(random_bytes(around.entropy)),
            revision: 1,
        };
        let instance = InstanceId(random_bytes(around.entropy));
        let ring = KeyRing::generate(around.entropy, now, FIRST_SLOT);
        let store = self.store.as_ref();
        put_slot(store, slot, &ring, server.passphrase, server.costs, around).await?;
        let keys = RealmKeys::new(slot.realm, ring);
        let realm = Realm::new(self.store.clone(), self.id(), keys.clone());

        let genesis = Snapshot::genesis();
        let mut anchor = Anchor::begin(server.anchor, self.id(), slot.realm, instance, &genesis);
        let slots = Some(SlotSet {
            revision: 1,
            slots: vec![(slot.slot, slot.revision)],
            labels: vec![SlotLabel { slot: slot.slot, made: now, name: FIRST_SLOT.to_owned() }],
        });
        let changes = Changes { slots, ..Changes::default() };
        let snapshot = realm.claim(&genesis, server.label, changes, &mut anchor, around).await?;

        let record = Server {
            vault: self.id(),
            label: server.label.clone(),
            realm: slot.realm,
            registered: report.server_time.unwrap_or(now),
        };
        self.prove(&record, server.passphrase, server.costs, &keys, &snapshot).await?;
        let name = ObjectName::server(server.label);
        match put_proved(self.store.as_ref(), &name, record.encode().into()).await {
            Ok(_) => {}
            Err(error) if error.fault == StoreFault::AlreadyExists => return Err(taken()),
            Err(error) => return Err(error.into()),
        }
        Ok(Registration {
            key: UnlockedKey { vault: self.id(), instance, keys },
            realm,
            snapshot,
            anchor,
            probe: report,
            clock_ahead_seconds: report.server_time.map(|vault| now.seconds() - vault.seconds()),
        })
    }

    // As a stranger with the passphrase would: from what the vault gives back, not from what is in memory.
    async fn prove(
        &self,
        server: &Server,
        passphrase: &Passphrase,
        costs: KdfCosts,
        keys: &RealmKeys,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let limits = KdfLimits { memory_kib: costs.memory_kib };
        let unlocked = self.unlock(server, passphrase, &limits).await?;
        let name =
            ObjectName::slot(unlocked.slot.realm, unlocked.slot.slot, unlocked.slot.revision);
        if unlocked.realm.keys().ring() != keys.ring() {
            return Err(Error::damaged(&name, SealError::Content));
        }
        let loaded = unlocked.realm.load(None).await?;
        match loaded == *snapshot {
            true => Ok(()),
            false => Err(Error::ChainBroken {
                generation: snapshot.generation(),
                reason: "it does not read back as it was written",
            }),
        }
    }
}

fn later(moment: Timestamp, by: Duration) -> Timestamp {
    let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(moment.0.saturating_add(nanos))
}

// Key derivation takes half a second of a processor, which an asynchronous thread must not.
pub(crate) async fn in_background<T: Send + 'static>(
    stage: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted { stage })
}
