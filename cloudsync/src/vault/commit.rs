//! Commits: what one changes, and its bytes (`docs/format-vault.md`, section 7). What a change means is
//! decided in [`super::snapshot`].

use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::wire::{WireError, WireReader, put_bytes, put_varint};

use crate::layout::{InstanceId, Label, ObjectHash, ObjectKind, ObjectName, RealmId, VaultId};
use crate::vault::fields::{FieldWriter, Ordinals, read_fields, read_list, read_text, read_time};
use crate::vault::point_record::read_point_id;
use crate::vault::slot_set::read_slot_labels;

pub use crate::vault::point_record::{PointNotes, PointRecord};
pub use crate::vault::slot_set::{SlotLabel, SlotSet};

const OBJECT_RECORD_LEAST: usize = 67;

/// Why a commit was made; for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CommitKind {
    /// An installation takes the realm over; the first commit is one.
    Claim = 1,
    /// Points were copied to the vault.
    Sync = 2,
    /// Points were forgotten, objects condemned.
    Forget = 3,
    /// Condemned objects were deleted.
    Sweep = 4,
    /// Forgotten points were restored.
    Undelete = 5,
    /// Live chunks of poor packs were copied to new ones, or damaged objects replaced.
    Repack = 6,
    /// Passphrases changed.
    Keys = 7,
}

impl CommitKind {
    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Claim,
            Self::Sync,
            Self::Forget,
            Self::Sweep,
            Self::Undelete,
            Self::Repack,
            Self::Keys,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// An object that is named by its content, as a commit records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRecord {
    /// What it is.
    pub kind: ObjectKind,
    /// The hash of its bytes.
    pub hash: ObjectHash,
    /// How often an object of these bytes was condemned before.
    pub copy: u32,
    /// Its length in the store, in bytes.
    pub size: u64,
    /// Its synthetic salt, by which a reader of a part recognises it.
    pub salt: [u8; 32],
}

impl ObjectRecord {
    /// Returns its name in the store.
    pub fn name(&self, realm: RealmId) -> ObjectName {
        ObjectName::content(realm, self.kind, self.hash, self.copy)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend_from_slice(self.hash.as_bytes());
        put_varint(out, self.copy.into());
        put_varint(out, self.size);
        out.extend_from_slice(&self.salt);
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        let kind = ObjectKind::from_number(reader.byte()?)
            .filter(|kind| ObjectKind::RECORDED.contains(kind))
            .ok_or(WireError("unknown type of object"))?;
        Ok(Self {
            kind,
            hash: ObjectHash(reader.array()?),
            copy: reader.varint32()?,
            size: reader.varint()?,
            salt: reader.array()?,
        })
    }
}

/// Objects whose content was copied: every point that needs `from` needs all of `to` instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The ordinal of the old object.
    pub from: u64,
    /// The ordinals of the objects that hold its live content now.
    pub to: Vec<u64>,
}

/// The configuration file of a server, kept in its vault so that a blank machine can become that server again.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerConfiguration {
    /// What the file calls this vault.
    pub vault_name: String,
    /// The file.
    pub text: String,
}

impl ServerConfiguration {
    /// Most bytes of a file that is kept.
    pub const TEXT_LIMIT: usize = 1 << 20;

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.vault_name.as_bytes());
        put_bytes(out, self.text.as_bytes());
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        let mut text = || {
            let bytes = reader.bytes()?;
            if bytes.len() > Self::TEXT_LIMIT {
                return Err(WireError("a configuration is too long"));
            }
            String::from_utf8(bytes.to_vec()).map_err(|_| WireError("a text is not UTF-8"))
        };
        Ok(Self { vault_name: text()?, text: text()? })
    }
}

// The file may hold secrets.
impl std::fmt::Debug for ServerConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfiguration")
            .field("vault_name", &self.vault_name)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

/// What a commit changes; decided by whoever makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The server's configuration, if it changed.
    pub configuration: Option<ServerConfiguration>,
    /// A new slot set.
    pub slots: Option<SlotSet>,
    /// Objects that were put; they get the next ordinals, in this order.
    pub objects_added: Vec<ObjectRecord>,
    /// Points that are complete now.
    pub points_added: Vec<PointRecord>,
    /// Points that are no longer wanted.
    pub points_forgotten: Vec<PointId>,
    /// Forgotten points that are wanted again.
    pub points_restored: Vec<PointId>,
    /// Forgotten points that can no longer be restored.
    pub points_gone: Vec<PointId>,
    /// Objects that nothing may refer to any more.
    pub objects_condemned: Ordinals,
    /// Condemned objects that were deleted.
    pub objects_gone: Ordinals,
    /// Objects whose content was copied.
    pub moved: Vec<Moved>,
    /// What people attached to points since they were copied.
    pub notes: Vec<PointNotes>,
}

impl Changes {
    /// Returns whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How many points and objects are live, and which: compared by every reader with the state it reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest {
    /// Number of live points.
    pub points: u64,
    /// Hash of their sorted ids.
    pub points_digest: [u8; 32],
    /// Number of live objects.
    pub objects: u64,
    /// Hash of their names in order of ordinals.
    pub objects_digest: [u8; 32],
}

impl StateDigest {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.points.to_le_bytes());
        out.extend_from_slice(&self.points_digest);
        out.extend_from_slice(&self.objects.to_le_bytes());
        out.extend_from_slice(&self.objects_digest);
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            points: reader.u64()?,
            points_digest: reader.array()?,
            objects: reader.u64()?,
            objects_digest: reader.array()?,
        })
    }
}

/// What another vault looked like when this commit was made, so that one vault can testify against a rewound other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignWitness {
    /// The other vault.
    pub vault: VaultId,
    /// Its generation.
    pub generation: u64,
    /// The 50 bits of its witness.
    pub bits: u64,
}

/// A commit, without its place in the chain, which is in the header of its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Why it was made.
    pub kind: CommitKind,
    /// Who made it.
    pub instance: InstanceId,
    /// Makes it unlike any other commit.
    pub nonce: [u8; 16],
    /// The clock of the machine that made it.
    pub agent_time: Timestamp,
    /// The newest time that machine had seen from the vault.
    pub vault_time: Option<Timestamp>,
    /// The version of Keepwell that made it.
    pub program: String,
    /// What other vaults looked like.
    pub witnesses: Vec<ForeignWitness>,
    /// Vault and label, in a claim.
    pub claim: Option<(VaultId, Label)>,
    /// What it changes.
    pub changes: Changes,
    /// The state after it.
    pub state: StateDigest,
}

impl Commit {
    /// Returns the bytes of the body.
    pub(super) fn encode(&self) -> Vec<u8> {
        let changes = &self.changes;
        let mut fields = FieldWriter::default();
        fields.bytes(1, &[self.kind as u8]);
        fields.bytes(2, self.instance.as_bytes());
        fields.bytes(3, &self.nonce);
        fields.time(4, self.agent_time);
        if let Some(time) = self.vault_time {
            fields.time(5, time);
        }
        fields.bytes(6, self.program.as_bytes());
        if let Some(configuration) = &changes.configuration {
            fields.field(7, |out| configuration.put(out));
        }
        fields.list(9, &self.witnesses, |out, witness| {
            out.extend_from_slice(witness.vault.as_bytes());
            put_varint(out, witness.generation);
            out.extend_from_slice(&witness.bits.to_le_bytes());
        });
        if let Some(slots) = &changes.slots {
            slots.put_labels(&mut fields);
        }
        fields.list(0x8000, &changes.notes, |out, notes| notes.put(out));
        if let Some((vault, label)) = &self.claim {
            fields.field(0x8001, |out| {
                out.extend_from_slice(vault.as_bytes());
                out.extend_from_slice(label.as_str().as_bytes());
            });
        }
        if let Some(slots) = &changes.slots {
            fields.field(0x8002, |out| slots.put(out));
        }
        fields.list(0x8003, &changes.objects_added, |out, object| object.put(out));
        fields.list(0x8004, &changes.points_added, |out, point| put_bytes(out, &point.encode()));
        let id = |out: &mut Vec<u8>, id: &PointId| out.extend_from_slice(id.as_bytes());
        fields.list(0x8005, &changes.points_forgotten, id);
        fields.list(0x8006, &changes.points_restored, id);
        fields.list(0x8007, &changes.points_gone, id);
        for (tag, ordinals) in
            [(0x8008, &changes.objects_condemned), (0x8009, &changes.objects_gone)]
        {
            if !ordinals.is_empty() {
                fields.field(tag, |out| ordinals.put(out));
            }
        }
        fields.list(0x800a, &changes.moved, |out, moved| {
            put_varint(out, moved.from);
            put_varint(out, moved.to.len() as u64);
            moved.to.iter().for_each(|to| put_varint(out, *to));
        });
        fields.field(0x800b, |out| self.state.put(out));
        fields.finish()
    }

    /// Reads the body.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (mut kind, mut instance, mut nonce, mut agent_time, mut state) =
            (None, None, None, None, None);
        let (mut vault_time, mut program, mut witnesses, mut claim) =
            (None, String::new(), Vec::new(), None);
        let (mut changes, mut labels) = (Changes::default(), Vec::new());
        read_fields(bytes, |tag, value| {
            match tag {
                1 => {
                    kind = Some(
                        CommitKind::from_number(value.byte()?)
                            .ok_or(WireError("unknown kind of commit"))?,
                    )
                }
                2 => instance = Some(InstanceId(value.array()?)),
                3 => nonce = Some(value.array()?),
                4 => agent_time = Some(read_time(value)?),
                5 => vault_time = Some(read_time(value)?),
                6 => program = read_text(value)?,
                7 => changes.configuration = Some(ServerConfiguration::read(value)?),
                9 => {
                    witnesses = read_list(value, 25, |value| {
                        Ok(ForeignWitness {
                            vault: VaultId(value.array()?),
                            generation: value.varint()?,
                            bits: value.u64()?,
                        })
                    })?;
                }
                10 => labels = read_slot_labels(value)?,
                0x8000 => changes.notes = read_list(value, 33, PointNotes::read)?,
                0x8001 => claim = Some(read_claim(value)?),
                0x8002 => {
                    let labels = std::mem::take(&mut labels);
                    changes.slots = Some(SlotSet { labels, ..SlotSet::read(value)? });
                }
                0x8003 => {
                    changes.objects_added =
                        read_list(value, OBJECT_RECORD_LEAST, ObjectRecord::read)?
                }
                0x8004 => {
                    changes.points_added =
                        read_list(value, 1, |value| PointRecord::decode(value.bytes()?))?
                }
                0x8005 => changes.points_forgotten = read_list(value, 32, read_point_id)?,
                0x8006 => changes.points_restored = read_list(value, 32, read_point_id)?,
                0x8007 => changes.points_gone = read_list(value, 32, read_point_id)?,
                0x8008 => changes.objects_condemned = Ordinals::read(value)?,
                0x8009 => changes.objects_gone = Ordinals::read(value)?,
                0x800a => {
                    changes.moved = read_list(value, 2, |value| {
                        Ok(Moved {
                            from: value.varint()?,
                            to: read_list(value, 1, |value| value.varint())?,
                        })
                    })?;
                }
                0x800b => state = Some(StateDigest::read(value)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let missing = || WireError("a commit is not complete");
        Ok(Self {
            kind: kind.ok_or_else(missing)?,
            instance: instance.ok_or_else(missing)?,
            nonce: nonce.ok_or_else(missing)?,
            agent_time: agent_time.ok_or_else(missing)?,
            vault_time,
            program,
            witnesses,
            claim,
            changes,
            state: state.ok_or_else(missing)?,
        })
    }
}

pub(super) fn read_claim(reader: &mut WireReader<'_>) -> Result<(VaultId, Label), WireError> {
    let vault = VaultId(reader.array()?);
    let label = read_text(reader)?.parse().map_err(|_| WireError("the label is not one"))?;
    Ok((vault, label))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::layout::SlotId;
    use proptest::prelude::*;

    pub(in crate::vault) fn object(number: u8) -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::Data,
            hash: ObjectHash([number; 32]),
            copy: 0,
            size: 1000 + u64::from(number),
            salt: [number; 32],
        }
    }

    pub(in crate::vault) fn point(number: u8, manifest: u64, needs: &[u64]) -> PointRecord {
        PointRecord {
            id: PointId([number; 32]),
            started: Timestamp(10),
            finished: Timestamp(20),
            host: "host".into(),
            group: "web".into(),
            source: "files".into(),
            workload: "files".into(),
            files: 3,
            bytes: 4,
            bytes_stored: 5,
            problems: 6,
            keep_until: Some(Timestamp(30)),
            on_demand: true,
            tags: vec!["audit".into(), "weekly".into()],
            manifest,
            needs: needs.iter().copied().chain([manifest]).collect(),
        }
    }

    fn commit() -> Commit {
        Commit {
            kind: CommitKind::Sync,
            instance: InstanceId([1; 16]),
            nonce: [2; 16],
            agent_time: Timestamp(3),
            vault_time: Some(Timestamp(4)),
            program: "0.1.0".into(),
            witnesses: vec![ForeignWitness { vault: VaultId([5; 16]), generation: 6, bits: 7 }],
            claim: Some((VaultId([8; 16]), "web1".parse().expect("a label"))),
            changes: Changes {
                configuration: Some(ServerConfiguration {
                    vault_name: "main".into(),
                    text: "[pool]\n".into(),
                }),
                slots: Some(SlotSet {
                    revision: 9,
                    slots: vec![(SlotId([10; 16]), 11)],
                    labels: vec![SlotLabel {
                        slot: SlotId([10; 16]),
                        made: Timestamp(12),
                        name: "safe at home".into(),
                    }],
                }),
                objects_added: vec![object(1), object(2)],
                points_added: vec![point(3, 1, &[0, 5])],
                points_forgotten: vec![PointId([4; 32])],
                points_restored: vec![PointId([5; 32])],
                points_gone: vec![PointId([6; 32])],
                objects_condemned: [1, 2, 3, 9].into_iter().collect(),
                objects_gone: [4].into_iter().collect(),
                moved: vec![Moved { from: 3, to: vec![7, 8] }],
                notes: vec![PointNotes {
                    point: PointId([3; 32]),
                    keep_until: Some(Timestamp(i64::MAX)),
                    on_demand: false,
                    tags: vec!["kept".into()],
                }],
            },
            state: StateDigest {
                points: 1,
                points_digest: [2; 32],
                objects: 3,
                objects_digest: [4; 32],
            },
        }
    }

    #[test]
    fn a_commit_comes_back_from_its_bytes() {
        let commit = commit();
        assert_eq!(Commit::decode(&commit.encode()).as_ref(), Ok(&commit));

        let empty = Commit {
            vault_time: None,
            witnesses: Vec::new(),
            claim: None,
            changes: Changes::default(),
            ..commit
        };
        assert_eq!(Commit::decode(&empty.encode()).as_ref(), Ok(&empty));
    }

    #[test]
    fn a_commit_that_is_cut_is_refused() {
        let bytes = commit().encode();
        for length in 0..bytes.len() {
            assert!(Commit::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, position: prop::sample::Index, value: u8) {
            let _ = Commit::decode(&bytes);
            let mut changed = commit().encode();
            let position = position.index(changed.len());
            changed[position] = value;
            let _ = Commit::decode(&changed);
        }
    }
}
