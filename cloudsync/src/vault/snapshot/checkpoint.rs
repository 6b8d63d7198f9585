//! A state as an object: what a load begins with, and what the ledger remembers.

use storepool::wire::{WireError, WireReader, put_bytes, put_varint};

use crate::crypto::container::{self, Content, Link};
use crate::crypto::ring::RealmKeys;
use crate::error::SealError;
use crate::layout::{Generation, InstanceId, ObjectHash, ObjectKind};
use crate::vault::commit::{
    ObjectRecord, PointRecord, ServerConfiguration, SlotSet, StateDigest, read_claim,
};
use crate::vault::fields::{FieldWriter, Ordinals, read_fields, read_list};
use crate::vault::slot_set::read_slot_labels;
use crate::vault::snapshot::{ObjectState, Snapshot};

impl Snapshot {
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
