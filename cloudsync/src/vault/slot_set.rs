//! Which passphrase slots are valid, and what people call them (`docs/format-vault.md`, sections 4 and 7).

use storepool::clock::Timestamp;
use storepool::wire::{WireError, WireReader, put_bytes};

use crate::crypto::slot::SLOTS_LIMIT;
use crate::layout::SlotId;
use crate::vault::fields::{FieldWriter, read_list, read_time};

/// What people call a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotLabel {
    /// Which slot.
    pub slot: SlotId,
    /// When its passphrase was set, by the clock of the machine that did it.
    pub made: Timestamp,
    /// Its name.
    pub name: String,
}

/// The passphrase slots that are valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSet {
    /// Counts the changes.
    pub revision: u64,
    /// Each slot with its valid revision.
    pub slots: Vec<(SlotId, u64)>,
    /// Their names, as far as they have any.
    pub labels: Vec<SlotLabel>,
}

impl SlotSet {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.push(self.slots.len() as u8);
        for (slot, revision) in &self.slots {
            out.extend_from_slice(slot.as_bytes());
            out.extend_from_slice(&revision.to_le_bytes());
        }
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        let revision = reader.u64()?;
        let count = usize::from(reader.byte()?);
        if count == 0 || count > SLOTS_LIMIT {
            return Err(WireError("a slot set has no or too many slots"));
        }
        let slots = (0..count)
            .map(|_| Ok((SlotId(reader.array()?), reader.u64()?)))
            .collect::<Result<_, WireError>>()?;
        Ok(Self { revision, slots, labels: Vec::new() })
    }

    /// Returns what people call this slot; empty if nothing.
    pub fn name(&self, slot: SlotId) -> &str {
        let label = self.labels.iter().find(|label| label.slot == slot);
        label.map_or("", |label| label.name.as_str())
    }

    pub(super) fn put_labels(&self, fields: &mut FieldWriter) {
        fields.list(10, &self.labels, |out, label| {
            out.extend_from_slice(label.slot.as_bytes());
            out.extend_from_slice(&label.made.0.to_le_bytes());
            put_bytes(out, label.name.as_bytes());
        });
    }
}

pub(super) fn read_slot_labels(reader: &mut WireReader<'_>) -> Result<Vec<SlotLabel>, WireError> {
    read_list(reader, 25, |reader| {
        Ok(SlotLabel {
            slot: SlotId(reader.array()?),
            made: read_time(reader)?,
            name: String::from_utf8(reader.bytes()?.to_vec())
                .map_err(|_| WireError("the name of a slot is not UTF-8"))?,
        })
    })
}
