//! The state of a realm after one generation, and the rules by which a commit leads to the next
//! (`docs/format-vault.md`, sections 7 and 8). Pure.

mod checkpoint;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use storepool::id::PointId;

use crate::crypto::container::Link;
use crate::crypto::ring::{RealmKeys, Witness};
use crate::layout::{Generation, InstanceId, Label, ObjectHash, VaultId};
use crate::vault::commit::{
    CommitKind, ObjectRecord, PointRecord, ServerConfiguration, SlotSet, StateDigest,
};
use crate::vault::fields::Ordinals;

/// An object that has not gone yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// What it is and how it is named.
    pub record: ObjectRecord,
    /// The commit that condemned it, if one did.
    pub condemned: Option<Generation>,
}

/// Everything that a realm's chain says, up to one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    generation: Generation,
    epoch: u32,
    head: ObjectHash,
    owner: InstanceId,
    claim: Option<(VaultId, Label)>,
    configuration: Option<ServerConfiguration>,
    slots: SlotSet,
    next_ordinal: u64,
    objects: BTreeMap<u64, ObjectState>,
    points: BTreeMap<PointId, PointRecord>,
    forgotten: BTreeMap<PointId, (Generation, PointRecord)>,
    burials: BTreeMap<ObjectHash, u32>,
    checkpoint: Generation,
    // Derived: the live objects by hash, and the ordinals of those that were condemned or have gone.
    live: HashMap<ObjectHash, u64>,
    dead: Ordinals,
}

impl Snapshot {
    /// Returns the state before the first commit.
    pub(in crate::vault) fn genesis() -> Self {
        Self {
            generation: Generation(0),
            epoch: 0,
            head: ObjectHash([0; 32]),
            owner: InstanceId([0; 16]),
            claim: None,
            configuration: None,
            slots: SlotSet::default(),
            next_ordinal: 0,
            objects: BTreeMap::new(),
            points: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            burials: BTreeMap::new(),
            checkpoint: Generation(0),
            live: HashMap::new(),
            dead: Ordinals::default(),
        }
    }

    /// Returns the generation of the newest commit.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the hash of the newest commit object.
    pub fn head(&self) -> ObjectHash {
        self.head
    }

    /// Returns how often the realm was claimed.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the installation that may write.
    pub fn owner(&self) -> InstanceId {
        self.owner
    }

    /// Returns the vault that the realm was registered with.
    pub fn vault(&self) -> Option<VaultId> {
        self.claim.as_ref().map(|(vault, _)| *vault)
    }

    /// Returns the label that the realm was registered with.
    pub fn label(&self) -> Option<&Label> {
        self.claim.as_ref().map(|(_, label)| label)
    }

    /// Returns the server's configuration, if it was stored.
    pub fn configuration(&self) -> Option<&ServerConfiguration> {
        self.configuration.as_ref()
    }

    /// Returns the passphrase slots that are valid.
    pub fn slots(&self) -> &SlotSet {
        &self.slots
    }

    /// Returns the ordinal that the next added object gets.
    pub fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// Returns all objects that have not gone, by ordinal.
    pub fn objects(&self) -> &BTreeMap<u64, ObjectState> {
        &self.objects
    }

    /// Returns the object with this ordinal, unless it has gone.
    pub fn object(&self, ordinal: u64) -> Option<&ObjectState> {
        self.objects.get(&ordinal)
    }

    /// Returns the live objects, by ordinal.
    pub fn live_objects(&self) -> impl Iterator<Item = (u64, ObjectRecord)> + '_ {
        let live = self.objects.iter().filter(|(_, object)| object.condemned.is_none());
        live.map(|(ordinal, object)| (*ordinal, object.record))
    }

    /// Returns the ordinal of the live object with these bytes.
    pub fn live_object(&self, hash: ObjectHash) -> Option<u64> {
        self.live.get(&hash).copied()
    }

    /// Returns the copy number under which an object with these bytes must be put now.
    pub fn next_copy(&self, hash: ObjectHash) -> u32 {
        self.burials.get(&hash).copied().unwrap_or(0)
    }

    /// Returns the recovery points.
    pub fn points(&self) -> &BTreeMap<PointId, PointRecord> {
        &self.points
    }

    /// Returns the forgotten points that may still be restored, with the commit that forgot them.
    pub fn forgotten(&self) -> &BTreeMap<PointId, (Generation, PointRecord)> {
        &self.forgotten
    }

    /// Returns the recovery points, and after them the forgotten ones that may still be restored.
    pub fn points_and_forgotten(&self) -> impl Iterator<Item = &PointRecord> {
        self.points.values().chain(self.forgotten.values().map(|(_, point)| point))
    }

    /// Returns the generation of the newest checkpoint that was seen.
    pub fn checkpoint(&self) -> Generation {
        self.checkpoint
    }

    pub(crate) fn set_checkpoint(&mut self, generation: Generation) {
        self.checkpoint = generation;
    }

    /// Returns the witness of the history that led here.
    pub fn witness(&self, keys: &RealmKeys) -> Witness {
        keys.witness(self.generation, self.head)
    }

    /// Returns how many points and objects are live, and which.
    pub fn digest(&self) -> StateDigest {
        let mut points = blake3::Hasher::new();
        for id in self.points.keys() {
            points.update(id.as_bytes());
        }
        let mut objects = blake3::Hasher::new();
        let live = self.objects.values().filter(|object| object.condemned.is_none());
        for object in live {
            objects
                .update(object.record.hash.as_bytes())
                .update(&u64::from(object.record.copy).to_le_bytes());
        }
        StateDigest {
            points: self.points.len() as u64,
            points_digest: *points.finalize().as_bytes(),
            objects: self.live.len() as u64,
            objects_digest: *objects.finalize().as_bytes(),
        }
    }

    /// Returns the place in the chain that the next commit has.
    pub(in crate::vault) fn next_link(&self, kind: CommitKind) -> Link {
        let claimed = u32::from(kind == CommitKind::Claim);
        Link {
            generation: self.generation.next(),
            epoch: self.epoch + claimed,
            previous: self.head,
        }
    }
}
