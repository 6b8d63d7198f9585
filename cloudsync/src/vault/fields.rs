//! Tagged fields and runs of numbers: how commits, checkpoints and point records are written
//! (`docs/format-vault.md`, conventions).

use std::ops::Range;

use storepool::clock::Timestamp;
use storepool::wire::{WireError, WireReader, put_varint};

// From here on a reader must know a tag to understand the rest.
const MUST_KNOW: u16 = 0x8000;

/// Writes fields in ascending order of their tags.
#[derive(Debug, Default)]
pub(super) struct FieldWriter {
    out: Vec<u8>,
    last: Option<u16>,
}

impl FieldWriter {
    /// Appends a field whose value `write` appends.
    pub(super) fn field(&mut self, tag: u16, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.last < Some(tag), "fields are written in ascending order");
        self.last = Some(tag);
        self.out.extend_from_slice(&tag.to_le_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(&mut self.out);
        let length = (self.out.len() - length_at - 4) as u32;
        self.out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Appends a field of these bytes.
    pub(super) fn bytes(&mut self, tag: u16, value: &[u8]) {
        self.field(tag, |out| out.extend_from_slice(value));
    }

    /// Appends a field with a number.
    pub(super) fn varint(&mut self, tag: u16, value: u64) {
        self.field(tag, |out| put_varint(out, value));
    }

    /// Appends a field with a time.
    pub(super) fn time(&mut self, tag: u16, value: Timestamp) {
        self.bytes(tag, &value.0.to_le_bytes());
    }

    /// Appends a counted list, unless it is empty.
    pub(super) fn list<T>(
        &mut self,
        tag: u16,
        items: &[T],
        mut write: impl FnMut(&mut Vec<u8>, &T),
    ) {
        if !items.is_empty() {
            self.field(tag, |out| {
                put_varint(out, items.len() as u64);
                items.iter().for_each(|item| write(out, item));
            });
        }
    }

    /// Returns the bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads all fields; refuses disorder and unknown tags that must be known.
pub(super) fn read_fields<'a>(
    bytes: &'a [u8],
    mut field: impl FnMut(u16, &mut WireReader<'a>) -> Result<bool, WireError>,
) -> Result<(), WireError> {
    let mut reader = WireReader::new(bytes);
    let mut last = None;
    while !reader.is_empty() {
        let tag = reader.u16()?;
        if last >= Some(tag) {
            return Err(WireError("fields are out of order"));
        }
        last = Some(tag);
        let length = reader.u32()? as usize;
        let mut value = WireReader::new(reader.take(length)?);
        let known = field(tag, &mut value)?;
        if known && !value.is_empty() {
            return Err(WireError("a field is longer than its value"));
        }
        if !known && tag >= MUST_KNOW {
            return Err(WireError("an unknown field that must be known"));
        }
    }
    Ok(())
}

/// Reads a counted list of items of at least `least` bytes each.
pub(super) fn read_list<'a, T>(
    reader: &mut WireReader<'a>,
    least: usize,
    mut item: impl FnMut(&mut WireReader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = reader.count(least)?;
    (0..count).map(|_| item(reader)).collect()
}

/// Reads a time.
pub(super) fn read_time(reader: &mut WireReader<'_>) -> Result<Timestamp, WireError> {
    Ok(Timestamp(i64::from_le_bytes(reader.array()?)))
}

/// Reads all that is left as text.
pub(super) fn read_text(reader: &mut WireReader<'_>) -> Result<String, WireError> {
    let bytes = reader.take(reader.rest().len())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError("a text is not UTF-8"))
}

/// A set of ordinals, kept as ascending, separate ranges: objects are numbered as they are made, so
/// neighbours are needed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ordinals {
    ranges: Vec<Range<u64>>,
}

impl Ordinals {
    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns how many ordinals are in the set.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns whether this ordinal is in the set.
    pub fn contains(&self, ordinal: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= ordinal);
        after > 0 && ordinal < self.ranges[after - 1].end
    }

    /// Returns the ordinals, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|range| range.clone())
    }

    /// Returns the greatest ordinal.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|range| range.end - 1)
    }

    /// Returns whether the sets share an ordinal.
    pub fn intersects(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(one), Some(two)) = (left.peek(), right.peek()) {
            if one.start < two.end && two.start < one.end {
                return true;
            }
            if one.end <= two.start {
                left.next();
            } else {
                right.next();
            }
        }
        false
    }

    /// Returns the ordinals below `end` that are not in the set.
    pub(super) fn complement(&self, end: u64) -> Self {
        let mut next = 0;
        let mut ranges = Vec::new();
        for range in self.ranges.iter().take_while(|range| range.start < end) {
            ranges.push(next..range.start);
            next = range.end;
        }
        ranges.push(next..end);
        ranges.retain(|range| range.start < range.end);
        Self { ranges }
    }

    /// Adds an ordinal; returns whether it was not there.
    pub fn insert(&mut self, ordinal: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= ordinal);
        if after > 0 && ordinal < self.ranges[after - 1].end {
            return false;
        }
        let joins_before = after > 0 && self.ranges[after - 1].end == ordinal;
        let joins_after = self.ranges.get(after).is_some_and(|range| range.start == ordinal + 1);
        match (joins_before, joins_after) {
            (true, true) => {
                self.ranges[after - 1].end = self.ranges[after].end;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].end = ordinal + 1,
            (false, true) => self.ranges[after].start = ordinal,
            (false, false) => self.ranges.insert(after, ordinal..ordinal + 1),
        }
        true
    }

    /// Removes an ordinal; returns whether it was there.
    pub fn remove(&mut self, ordinal: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= ordinal);
        if after == 0 || ordinal >= self.ranges[after - 1].end {
            return false;
        }
        let range = self.ranges[after - 1].clone();
        let pieces = [range.start..ordinal, ordinal + 1..range.end];
        self.ranges.splice(after - 1..after, pieces.into_iter().filter(|piece| !piece.is_empty()));
        true
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.ranges.len() as u64);
        let mut end = 0;
        for range in &self.ranges {
            put_varint(out, range.start - end);
            put_varint(out, range.end - range.start);
            end = range.end;
        }
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        let mut end = 0u64;
        let mut first = true;
        let ranges = read_list(reader, 2, |reader| {
            let (gap, length) = (reader.varint()?, reader.varint()?);
            if length == 0 || (gap == 0 && !first) {
                return Err(WireError("runs are not in their shortest form"));
            }
            first = false;
            let start = end.checked_add(gap).ok_or(WireError("an ordinal is too large"))?;
            end = start.checked_add(length).ok_or(WireError("an ordinal is too large"))?;
            Ok(start..end)
        })?;
        Ok(Self { ranges })
    }
}

impl FromIterator<u64> for Ordinals {
    fn from_iter<I: IntoIterator<Item = u64>>(ordinals: I) -> Self {
        let mut sorted: Vec<u64> = ordinals.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for ordinal in sorted {
            match ranges.last_mut() {
                Some(last) if ordinal < last.end => {}
                Some(last) if ordinal == last.end => last.end += 1,
                _ => ranges.push(ordinal..ordinal + 1),
            }
        }
        Self { ranges }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn encoded(set: &Ordinals) -> Vec<u8> {
        let mut out = Vec::new();
        set.put(&mut out);
        out
    }

    proptest! {
        #[test]
        fn a_set_of_ordinals_behaves_like_a_set(
            steps in prop::collection::vec((any::<bool>(), 0u64..40), 0..60),
            other in prop::collection::btree_set(0u64..40, 0..6),
        ) {
            let (mut set, mut model) = (Ordinals::default(), BTreeSet::new());
            for (add, ordinal) in steps {
                if add {
                    prop_assert_eq!(set.insert(ordinal), model.insert(ordinal));
                } else {
                    prop_assert_eq!(set.remove(ordinal), model.remove(&ordinal));
                }
            }
            let other_set: Ordinals = other.iter().copied().collect();

            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.last(), model.last().copied());
            prop_assert_eq!(&model.iter().copied().collect::<Ordinals>(), &set);
            prop_assert_eq!(set.intersects(&other_set), !model.is_disjoint(&other));
            for ordinal in 0..41 {
                prop_assert_eq!(set.contains(ordinal), model.contains(&ordinal));
            }
            let rest: Vec<u64> = (0..30).filter(|ordinal| !model.contains(ordinal)).collect();
            prop_assert_eq!(set.complement(30), rest.into_iter().collect::<Ordinals>());
            let bytes = encoded(&set);
            let mut reader = WireReader::new(&bytes);
            prop_assert_eq!(Ordinals::read(&mut reader), Ok(set));
            prop_assert!(reader.is_empty());
        }
    }

    #[test]
    fn runs_have_one_spelling() {
        for bytes in [&[1, 0, 0][..], &[2, 0, 1, 0, 1], &[1, 0], &[200, 1]] {
            assert!(Ordinals::read(&mut WireReader::new(bytes)).is_err(), "{bytes:?}");
        }
        let mut huge = vec![1];
        put_varint(&mut huge, u64::MAX);
        put_varint(&mut huge, 1);
        assert!(Ordinals::read(&mut WireReader::new(&huge)).is_err());
    }

    #[test]
    fn fields_must_be_in_order_and_understood() {
        let mut writer = FieldWriter::default();
        writer.varint(1, 5);
        writer.bytes(0x7fff, b"later");
        writer.varint(0x8001, 6);
        let bytes = writer.finish();
        let mut sum = 0;
        let read = |bytes: &[u8], sum: &mut u64| {
            read_fields(bytes, |tag, value| match tag {
                1 | 0x8001 => {
                    *sum += value.varint()?;
                    Ok(true)
                }
                _ => Ok(false),
            })
        };

        assert_eq!(read(&bytes, &mut sum), Ok(()));
        assert_eq!(sum, 11);
        assert!(read(&[&bytes[..], &bytes].concat(), &mut sum).is_err());
        assert!(read(&[0x02, 0x80, 0, 0, 0, 0], &mut sum).is_err());
        assert!(read(&[0x01, 0x00, 2, 0, 0, 0, 5, 5], &mut sum).is_err());
    }
}
