//! The state of a realm after one generation, and the rules by which a commit leads to the next
//! (`docs/format-vault.md`, sections 7 and 8). Pure.

use std::collections::{BTreeMap, HashMap};

use storepool::id::PointId;
use storepool::wire::{WireError, WireReader, put_bytes, put_varint};

use crate::crypto::container::{self, Content, Link};
use crate::crypto::ring::{RealmKeys, Witness};
use crate::error::SealError;
use crate::layout::{Generation, InstanceId, Label, ObjectHash, ObjectKind, VaultId};
use crate::vault::commit::{
    Changes, Commit, CommitKind, ObjectRecord, PointRecord, ServerConfiguration, SlotSet,
    StateDigest, read_claim,
};
use crate::vault::fields::{FieldWriter, Ordinals, read_fields, read_list};
use crate::vault::slot_set::read_slot_labels;

/// An object that has not gone yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// What it is and how it is named.
    pub record: ObjectRecord,
    /// The commit that condemned it, if one did.
    pub condemned: Option<Generation>,
}

/// Why a commit does not lead from a state to another.
pub(super) type Reason = &'static str;

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
    pub(super) fn genesis() -> Self {
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
    pub(super) fn next_link(&self, kind: CommitKind) -> Link {
        let claimed = u32::from(kind == CommitKind::Claim);
        Link {
            generation: self.generation.next(),
            epoch: self.epoch + claimed,
            previous: self.head,
        }
    }

    /// Goes on to the state after a commit. After an error the snapshot is in between and worthless.
    ///
    /// Compares the counts of live points and objects; the digests only if `compare_digests`, because the
    /// last commit's digests prove all those before.
    pub(super) fn apply(
        &mut self,
        link: Link,
        hash: ObjectHash,
        commit: &Commit,
        compare_digests: bool,
    ) -> Result<(), Reason> {
        self.check_place(link, commit)?;
        if commit.kind == CommitKind::Claim {
            let (vault, label) = commit.claim.as_ref().ok_or("a claim names no vault and label")?;
            if self.claim.as_ref().is_some_and(|(claimed, _)| claimed != vault) {
                return Err("a claim names another vault than the first one");
            }
            self.claim = Some((*vault, label.clone()));
            self.owner = commit.instance;
        } else if commit.claim.is_some() {
            return Err("only a claim names vault and label");
        }
        self.change(link.generation, &commit.changes)?;
        self.generation = link.generation;
        self.epoch = link.epoch;
        self.head = hash;
        let counts = (self.points.len() as u64, self.live.len() as u64);
        if counts != (commit.state.points, commit.state.objects) {
            return Err("it counts other points or objects than there are");
        }
        if compare_digests && self.digest() != commit.state {
            return Err("it knows other points or objects than there are");
        }
        Ok(())
    }

    /// Goes on behind a commit object of the next generation that nobody can read: it changes nothing.
    pub(super) fn pass_over(&mut self, hash: ObjectHash) {
        self.generation = self.generation.next();
        self.head = hash;
    }

    fn check_place(&self, link: Link, commit: &Commit) -> Result<(), Reason> {
        if link.generation != self.generation.next() {
            return Err("it has another generation than its name");
        }
        if link.previous != self.head {
            return Err("it does not follow the commit before");
        }
        if commit.kind != CommitKind::Claim && self.generation == Generation(0) {
            return Err("the first commit is not a claim");
        }
        if link.epoch != self.next_link(commit.kind).epoch {
            return Err("it has the wrong epoch");
        }
        if commit.kind != CommitKind::Claim && commit.instance != self.owner {
            return Err("it was not made by the owner");
        }
        Ok(())
    }

    /// Makes the changes of a commit of this generation, or finds out why it must not be.
    pub(super) fn change(
        &mut self,
        generation: Generation,
        changes: &Changes,
    ) -> Result<(), Reason> {
        if let Some(slots) = &changes.slots {
            if slots.revision <= self.slots.revision {
                return Err("its slot set is not newer");
            }
            self.slots = slots.clone();
        }
        if let Some(configuration) = &changes.configuration {
            self.configuration = Some(configuration.clone());
        }
        for record in &changes.objects_added {
            self.add_object(record, &changes.objects_condemned)?;
        }
        for moved in &changes.moved {
            self.move_needs(moved.from, &moved.to)?;
        }
        for point in &changes.points_added {
            self.add_point(point.clone())?;
        }
        for id in &changes.points_forgotten {
            let point = self.points.remove(id).ok_or("it forgets a point that is not there")?;
            self.forgotten.insert(*id, (generation, point));
        }
        for id in &changes.points_restored {
            let (_, point) =
                self.forgotten.remove(id).ok_or("it restores a point that was not forgotten")?;
            self.add_point(point)?;
        }
        for id in &changes.points_gone {
            self.forgotten.remove(id).ok_or("a point is gone that was not forgotten")?;
        }
        for notes in &changes.notes {
            let forgotten = self.forgotten.get_mut(&notes.point).map(|(_, point)| point);
            let point = self.points.get_mut(&notes.point).or(forgotten);
            let point = point.ok_or("it annotates a point that is not there")?;
            point.keep_until = notes.keep_until;
            point.on_demand = notes.on_demand;
            point.tags = notes.tags.clone();
        }
        self.condemn(generation, &changes.objects_condemned)?;
        for ordinal in changes.objects_gone.iter() {
            match self.objects.remove(&ordinal) {
                Some(ObjectState { condemned: Some(_), .. }) => {}
                _ => return Err("an object is gone that was not condemned"),
            }
        }
        Ok(())
    }

    fn add_object(&mut self, record: &ObjectRecord, condemned: &Ordinals) -> Result<(), Reason> {
        let copy = match self.live.get(&record.hash) {
            // Its replacement: the same bytes under the next name.
            Some(ordinal) if condemned.contains(*ordinal) => {
                let replaced = self.objects.get(ordinal);
                replaced.map_or(0, |object| object.record.copy.saturating_add(1))
            }
            Some(_) => return Err("it adds an object that is there already"),
            None => self.next_copy(record.hash),
        };
        if record.copy != copy {
            return Err("it uses the name of a condemned object again");
        }
        self.live.insert(record.hash, self.next_ordinal);
        self.objects.insert(self.next_ordinal, ObjectState { record: *record, condemned: None });
        self.next_ordinal += 1;
        Ok(())
    }

    fn add_point(&mut self, point: PointRecord) -> Result<(), Reason> {
        if self.points.contains_key(&point.id) || self.forgotten.contains_key(&point.id) {
            return Err("it adds a point that is there already");
        }
        let within = point.needs.last().is_none_or(|last| last < self.next_ordinal);
        if !within || point.needs.intersects(&self.dead) {
            return Err("a point needs an object that is not there");
        }
        let manifest = self.objects.get(&point.manifest).map(|object| object.record.kind);
        if manifest != Some(ObjectKind::Manifest) {
            return Err("a point's manifest is not a manifest");
        }
        self.points.insert(point.id, point);
        Ok(())
    }

    fn move_needs(&mut self, from: u64, to: &[u64]) -> Result<(), Reason> {
        if !self.objects.contains_key(&from) || !to.iter().all(|ordinal| self.is_live(*ordinal)) {
            return Err("it moves an object that is not there");
        }
        let forgotten = self.forgotten.values_mut().map(|(_, point)| point);
        for point in self.points.values_mut().chain(forgotten) {
            if point.needs.remove(from) {
                for ordinal in to {
                    point.needs.insert(*ordinal);
                }
                // The manifest of a point is one object, so it can only become one.
                if point.manifest == from {
                    point.manifest = match to {
                        [one] => *one,
                        _ => return Err("it divides a manifest"),
                    };
                }
            }
        }
        Ok(())
    }

    fn condemn(&mut self, generation: Generation, ordinals: &Ordinals) -> Result<(), Reason> {
        if ordinals.last().is_some_and(|last| last >= self.next_ordinal) {
            return Err("it condemns an object that is not there");
        }
        if self.points.values().any(|point| point.needs.intersects(ordinals)) {
            return Err("it condemns an object that a point needs");
        }
        for ordinal in ordinals.iter() {
            let object =
                self.objects.get_mut(&ordinal).ok_or("it condemns an object that is not there")?;
            if object.condemned.replace(generation).is_some() {
                return Err("it condemns an object twice");
            }
            // A replacement of the same bytes may be live already.
            if self.live.get(&object.record.hash) == Some(&ordinal) {
                self.live.remove(&object.record.hash);
            }
            self.dead.insert(ordinal);
            self.burials.insert(object.record.hash, object.record.copy + 1);
        }
        Ok(())
    }

    fn is_live(&self, ordinal: u64) -> bool {
        ordinal < self.next_ordinal && !self.dead.contains(ordinal)
    }

    /// Returns this state as a checkpoint object.
    pub fn seal(&self, keys: &RealmKeys) -> Result<container::Sealed, SealError> {
        let link = Link { generation: self.generation, epoch: self.epoch, previous: self.head };
        container::seal_body(keys, Content::Checkpoint(link), &self.encode())
    }

    /// Reads a checkpoint object.
    pub fn open(keys: &RealmKeys, object: &[u8]) -> Result<Self, SealError> {
        let opened = container::open(keys, ObjectKind::Checkpoint, object)?;
        let link = opened.header.link().expect("a checkpoint has a place in the chain");
        let body = container::body(ObjectKind::Checkpoint, &opened.plaintext)?;
        Ok(Self::decode(link, body)?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::default();
        fields.bytes(2, self.owner.as_bytes());
        if let Some(configuration) = &self.configuration {
            fields.field(7, |out| configuration.put(out));
        }
        self.slots.put_labels(&mut fields);
        if let Some((vault, label)) = &self.claim {
            fields.field(0x8001, |out| {
                out.extend_from_slice(vault.as_bytes());
                out.extend_from_slice(label.as_str().as_bytes());
            });
        }
        fields.field(0x8002, |out| self.slots.put(out));
        fields.field(0x800b, |out| self.digest().put(out));
        fields.varint(0x8010, self.next_ordinal);
        fields.field(0x8011, |out| {
            put_varint(out, self.objects.len() as u64);
            let mut next = 0;
            for (ordinal, object) in &self.objects {
                put_varint(out, ordinal - next);
                out.push(u8::from(object.condemned.is_some()));
                if let Some(generation) = object.condemned {
                    put_varint(out, generation.0);
                }
                object.record.put(out);
                next = ordinal + 1;
            }
        });
        fields.field(0x8012, |out| {
            put_varint(out, self.points.len() as u64);
            self.points.values().for_each(|point| put_bytes(out, &point.encode()));
        });
        fields.field(0x8013, |out| {
            put_varint(out, self.forgotten.len() as u64);
            for (generation, point) in self.forgotten.values() {
                put_varint(out, generation.0);
                put_bytes(out, &point.encode());
            }
        });
        fields.field(0x8014, |out| {
            put_varint(out, self.burials.len() as u64);
            for (hash, next) in &self.burials {
                out.extend_from_slice(hash.as_bytes());
                put_varint(out, (*next).into());
            }
        });
        fields.finish()
    }

    fn decode(link: Link, body: &[u8]) -> Result<Self, WireError> {
        let mut state = Self::genesis();
        (state.generation, state.epoch, state.head) = (link.generation, link.epoch, link.previous);
        state.checkpoint = link.generation;
        let (mut digest, mut points, mut forgotten) = (None, Vec::new(), Vec::new());
        let mut labels = Vec::new();
        read_fields(body, |tag, value| {
            match tag {
                2 => state.owner = InstanceId(value.array()?),
                7 => state.configuration = Some(ServerConfiguration::read(value)?),
                10 => labels = read_slot_labels(value)?,
                0x8001 => state.claim = Some(read_claim(value)?),
                0x8002 => {
                    let labels = std::mem::take(&mut labels);
                    state.slots = SlotSet { labels, ..SlotSet::read(value)? };
                }
                0x800b => digest = Some(StateDigest::read(value)?),
                0x8010 => state.next_ordinal = value.varint()?,
                0x8011 => state.read_objects(value)?,
                0x8012 => {
                    points = read_list(value, 1, |value| PointRecord::decode(value.bytes()?))?
                }
                0x8013 => {
                    forgotten = read_list(value, 2, |value| {
                        let generation = Generation(value.varint()?);
                        Ok((generation, PointRecord::decode(value.bytes()?)?))
                    })?;
                }
                0x8014 => {
                    let burials = read_list(value, 33, |value| {
                        Ok((ObjectHash(value.array()?), value.varint32()?))
                    })?;
                    state.burials = burials.into_iter().collect();
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        for point in points {
            state.add_point(point).map_err(WireError)?;
        }
        for (generation, point) in forgotten {
            state.forgotten.insert(point.id, (generation, point));
        }
        match digest == Some(state.digest()) {
            true => Ok(state),
            false => Err(WireError("a checkpoint contradicts itself")),
        }
    }

    fn read_objects(&mut self, reader: &mut WireReader<'_>) -> Result<(), WireError> {
        let mut next = 0u64;
        let objects = read_list(reader, 68, |reader| {
            let ordinal =
                next.checked_add(reader.varint()?).ok_or(WireError("an ordinal is too large"))?;
            let condemned = match reader.byte()? {
                0 => None,
                1 => Some(Generation(reader.varint()?)),
                _ => return Err(WireError("unknown state of an object")),
            };
            next = ordinal.checked_add(1).ok_or(WireError("an ordinal is too large"))?;
            Ok((ordinal, ObjectState { record: ObjectRecord::read(reader)?, condemned }))
        })?;
        if next > self.next_ordinal {
            return Err(WireError("an ordinal is too large"));
        }
        for (ordinal, object) in objects {
            if object.condemned.is_none() {
                self.live.insert(object.record.hash, ordinal);
            }
            self.objects.insert(ordinal, object);
        }
        // Every ordinal was given to an object once; what is not live now is dead.
        let live: Ordinals = self.live.values().copied().collect();
        self.dead = live.complement(self.next_ordinal);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ring::KeyRing;
    use crate::layout::{RealmId, SlotId};
    use crate::testing::SeededEntropy;
    use crate::vault::commit::tests::{object, point};
    use crate::vault::commit::{Moved, PointNotes, SlotLabel};
    use storepool::clock::Timestamp;

    const G: Generation = Generation(1);

    fn manifest(number: u8) -> ObjectRecord {
        ObjectRecord { kind: ObjectKind::Manifest, ..object(number) }
    }

    // Objects 0 and 1 are packs, 2 is a manifest; point 1 needs 0 and 2.
    fn state() -> Snapshot {
        let mut state = Snapshot::genesis();
        let changes = Changes {
            slots: Some(SlotSet {
                revision: 1,
                slots: vec![(SlotId([1; 16]), 1)],
                labels: vec![SlotLabel {
                    slot: SlotId([1; 16]),
                    made: Timestamp(9),
                    name: "first".into(),
                }],
            }),
            objects_added: vec![object(0), object(1), manifest(2)],
            points_added: vec![point(1, 2, &[0])],
            ..Changes::default()
        };
        state.change(G, &changes).expect("a valid change");
        state
    }

    fn refused(changes: Changes) -> Reason {
        state().change(Generation(2), &changes).expect_err("refused")
    }

    fn ordinals(list: &[u64]) -> Ordinals {
        list.iter().copied().collect()
    }

    #[test]
    fn nothing_that_a_point_needs_can_be_condemned() {
        let condemn = |list| Changes { objects_condemned: ordinals(list), ..Changes::default() };

        assert_eq!(refused(condemn(&[0])), "it condemns an object that a point needs");
        assert_eq!(refused(condemn(&[2])), "it condemns an object that a point needs");
        assert_eq!(refused(condemn(&[3])), "it condemns an object that is not there");
        assert_eq!(state().change(G, &condemn(&[1])), Ok(()));
        let forget = Changes { points_forgotten: vec![PointId([1; 32])], ..condemn(&[0, 1, 2]) };
        assert_eq!(state().change(G, &forget), Ok(()));
    }

    #[test]
    fn a_condemned_name_never_returns() {
        let mut state = state();
        let condemn = Changes { objects_condemned: ordinals(&[1]), ..Changes::default() };
        state.change(G, &condemn).expect("condemned");
        let add = |copy| Changes {
            objects_added: vec![ObjectRecord { copy, ..object(1) }],
            ..Changes::default()
        };

        assert_eq!(state.clone().change(G, &condemn), Err("it condemns an object twice"));
        assert_eq!(
            state.clone().change(G, &add(0)),
            Err("it uses the name of a condemned object again")
        );
        assert_eq!(state.next_copy(object(1).hash), 1);
        let gone = Changes { objects_gone: ordinals(&[1]), ..Changes::default() };
        state.change(G, &gone).expect("gone");
        assert_eq!(
            state.clone().change(G, &add(0)),
            Err("it uses the name of a condemned object again")
        );
        state.change(G, &add(1)).expect("a new name");
        assert_eq!(state.live_object(object(1).hash), Some(3));
    }

    /// Sealing is a function of the content, so a lost manifest can only come back as the same bytes.
    #[test]
    fn an_object_is_replaced_by_the_same_bytes_only_while_it_is_condemned() {
        let replace = |copy, condemned: &[u64]| Changes {
            objects_added: vec![ObjectRecord { copy, ..manifest(2) }],
            moved: vec![Moved { from: 2, to: vec![3] }],
            objects_condemned: ordinals(condemned),
            ..Changes::default()
        };

        assert_eq!(refused(replace(1, &[])), "it adds an object that is there already");
        assert_eq!(refused(replace(0, &[2])), "it uses the name of a condemned object again");
        assert_eq!(refused(replace(2, &[2])), "it uses the name of a condemned object again");
        let mut state = state();
        state.change(G, &replace(1, &[2])).expect("replaced");

        let hash = manifest(2).hash;
        assert_eq!(state.live_object(hash), Some(3));
        let point = &state.points()[&PointId([1; 32])];
        assert_eq!(point.manifest, 3);
        assert_eq!(point.needs.iter().collect::<Vec<_>>(), [0, 3]);
        assert_eq!(state.digest().objects, 3);
        // And once more.
        let again = Changes {
            objects_added: vec![ObjectRecord { copy: 2, ..manifest(2) }],
            moved: vec![Moved { from: 3, to: vec![4] }],
            objects_condemned: ordinals(&[3]),
            ..Changes::default()
        };
        state.change(G, &again).expect("replaced");
        assert_eq!(state.live_object(hash), Some(4));
    }

    #[test]
    fn a_configuration_stays_until_another_one_is_stored() {
        let keys = RealmKeys::new(
            RealmId([1; 16]),
            KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), ""),
        );
        let configuration =
            |text: &str| ServerConfiguration { vault_name: "main".into(), text: text.into() };
        let store =
            |text| Changes { configuration: Some(configuration(text)), ..Changes::default() };
        let mut state = state();
        assert_eq!(state.configuration(), None);

        state.change(G, &store("one")).expect("stored");
        state.change(G, &Changes::default()).expect("nothing");
        assert_eq!(state.configuration(), Some(&configuration("one")));
        state.change(G, &store("two")).expect("stored");

        let sealed = state.seal(&keys).expect("sealed");
        let opened = Snapshot::open(&keys, &sealed.object).expect("opened");
        assert_eq!(opened.configuration(), Some(&configuration("two")));
        assert!(!format!("{opened:?}").contains("two"), "it may hold secrets");
    }

    #[test]
    fn points_need_objects_that_are_there() {
        let add = |point| Changes { points_added: vec![point], ..Changes::default() };

        assert_eq!(refused(add(point(1, 2, &[0]))), "it adds a point that is there already");
        assert_eq!(refused(add(point(2, 2, &[7]))), "a point needs an object that is not there");
        assert_eq!(refused(add(point(2, 0, &[1]))), "a point's manifest is not a manifest");
        let mut endless = point(2, 2, &[0]);
        endless.needs =
            Ordinals::read(&mut WireReader::new(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]))
                .expect("runs");
        assert_eq!(refused(add(endless)), "a point needs an object that is not there");
        assert_eq!(
            refused(Changes { objects_gone: ordinals(&[1]), ..Changes::default() }),
            "an object is gone that was not condemned"
        );
        assert_eq!(
            refused(Changes { objects_added: vec![object(0)], ..Changes::default() }),
            "it adds an object that is there already"
        );
        assert_eq!(
            refused(Changes { points_forgotten: vec![PointId([9; 32])], ..Changes::default() }),
            "it forgets a point that is not there"
        );
        assert_eq!(
            refused(Changes { points_restored: vec![PointId([1; 32])], ..Changes::default() }),
            "it restores a point that was not forgotten"
        );
    }

    #[test]
    fn a_forgotten_point_comes_back_only_with_living_objects() {
        let mut state = state();
        let id = PointId([1; 32]);
        let forget = Changes {
            points_forgotten: vec![id],
            objects_condemned: ordinals(&[0, 2]),
            ..Changes::default()
        };
        state.change(Generation(2), &forget).expect("forgotten");
        let restore = Changes { points_restored: vec![id], ..Changes::default() };
        assert_eq!(
            state.clone().change(G, &restore),
            Err("a point needs an object that is not there")
        );

        let undelete = Changes {
            objects_added: vec![
                ObjectRecord { copy: 1, ..object(0) },
                ObjectRecord { copy: 1, ..manifest(2) },
            ],
            moved: vec![Moved { from: 0, to: vec![3] }, Moved { from: 2, to: vec![4] }],
            ..restore
        };
        state.change(Generation(3), &undelete).expect("restored");

        let point = &state.points()[&id];
        assert_eq!((point.manifest, &point.needs), (4, &ordinals(&[3, 4])));
        assert!(state.forgotten().is_empty());
    }

    #[test]
    fn a_repack_moves_what_points_need() {
        let mut state = state();
        let repack = Changes {
            objects_added: vec![object(8), object(9)],
            moved: vec![Moved { from: 0, to: vec![3, 4] }],
            objects_condemned: ordinals(&[0]),
            ..Changes::default()
        };

        state.change(Generation(2), &repack).expect("repacked");

        assert_eq!(state.points()[&PointId([1; 32])].needs, ordinals(&[2, 3, 4]));
        let divide =
            Changes { moved: vec![Moved { from: 2, to: vec![3, 4] }], ..Changes::default() };
        assert_eq!(state.change(G, &divide), Err("it divides a manifest"));
    }

    #[test]
    fn notes_follow_a_point_wherever_it_is() {
        let mut state = state();
        let id = PointId([1; 32]);
        let note = |keep_until, tags: &[&str]| Changes {
            notes: vec![PointNotes {
                point: id,
                keep_until,
                on_demand: false,
                tags: tags.iter().map(ToString::to_string).collect(),
            }],
            ..Changes::default()
        };

        state.change(G, &note(Some(Timestamp(7)), &["audit"])).expect("annotated");
        assert_eq!(state.points()[&id].keep_until, Some(Timestamp(7)));
        let forget = Changes { points_forgotten: vec![id], ..note(None, &[]) };
        state.change(G, &forget).expect("forgotten");

        let (_, point) = &state.forgotten()[&id];
        assert_eq!((point.keep_until, point.tags.len(), point.files), (None, 0, 3));
        let gone = Changes { points_gone: vec![id], ..Changes::default() };
        state.change(G, &gone).expect("gone");
        assert_eq!(
            state.change(G, &note(None, &[])),
            Err("it annotates a point that is not there")
        );
    }

    #[test]
    fn a_checkpoint_holds_the_whole_state() {
        let keys = RealmKeys::new(
            RealmId([1; 16]),
            KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), "test"),
        );
        let mut state = state();
        state.claim = Some((VaultId([2; 16]), "web1".parse().expect("a label")));
        (state.generation, state.epoch, state.head) = (Generation(300), 2, ObjectHash([9; 32]));
        let changes = Changes {
            objects_added: vec![object(5), manifest(6)],
            points_added: vec![point(2, 4, &[0, 3])],
            points_forgotten: vec![PointId([1; 32])],
            objects_condemned: ordinals(&[1]),
            ..Changes::default()
        };
        state.change(Generation(299), &changes).expect("changed");
        let gone = Changes { objects_gone: ordinals(&[1]), ..Changes::default() };
        state.change(Generation(300), &gone).expect("gone");
        state.set_checkpoint(Generation(300));

        let sealed = state.seal(&keys).expect("sealed");

        assert_eq!(Snapshot::open(&keys, &sealed.object), Ok(state));
    }
}
