//! Index objects: tables of contents of packs, kept together, so that a recovery learns from kilobytes where
//! every chunk lies (`docs/format-vault.md`, section 6).
//!
//! Whatever one says can be read again from the packs, so a lost index costs time and nothing else.

use storepool::pack::Toc;
use storepool::wire::{WireError, WireReader, put_varint};

use crate::crypto::container::{self, Content, Sealed};
use crate::crypto::ring::RealmKeys;
use crate::error::SealError;
use crate::layout::{ObjectHash, ObjectKind};

// Hash, copy, type, two counts.
const ENTRY_LEAST: usize = 36;

/// The table of contents of one pack, as an index tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackTable {
    /// The hash of the pack's bytes.
    pub hash: ObjectHash,
    /// How often a pack of these bytes was condemned before.
    pub copy: u32,
    /// Data or metadata.
    pub kind: ObjectKind,
    /// The table, with vault ids.
    pub toc: Toc,
}

/// An index in the making.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    tables: Vec<u8>,
    count: u64,
}

impl IndexBuilder {
    /// Adds the table of a pack.
    pub fn push(&mut self, hash: ObjectHash, copy: u32, kind: ObjectKind, toc: &Toc) {
        self.tables.extend_from_slice(hash.as_bytes());
        put_varint(&mut self.tables, copy.into());
        self.tables.push(kind as u8);
        put_varint(&mut self.tables, toc.frames().len() as u64);
        put_varint(&mut self.tables, toc.chunks().len() as u64);
        self.tables.extend_from_slice(&toc.encode());
        self.count += 1;
    }

    /// Returns whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Seals what was gathered and begins anew.
    pub fn seal(&mut self, keys: &RealmKeys) -> Result<Sealed, SealError> {
        let built = std::mem::take(self);
        let mut body = Vec::with_capacity(built.tables.len() + 10);
        put_varint(&mut body, built.count);
        body.extend_from_slice(&built.tables);
        container::seal_body(keys, Content::Object(ObjectKind::Index), &body)
    }
}

/// Opens an index object.
pub fn open_index(keys: &RealmKeys, object: &[u8]) -> Result<Vec<PackTable>, SealError> {
    let opened = container::open(keys, ObjectKind::Index, object)?;
    let body = container::body(ObjectKind::Index, &opened.plaintext)?;
    let mut reader = WireReader::new(body);
    let count = reader.count(ENTRY_LEAST)?;
    let tables = (0..count).map(|_| read_table(&mut reader)).collect::<Result<_, _>>()?;
    match reader.is_empty() {
        true => Ok(tables),
        false => Err(SealError::Format("an index has bytes after its end")),
    }
}

fn read_table(reader: &mut WireReader<'_>) -> Result<PackTable, WireError> {
    let hash = ObjectHash(reader.array()?);
    let copy = reader.varint32()?;
    let kind = ObjectKind::from_number(reader.byte()?)
        .filter(|kind| matches!(kind, ObjectKind::Data | ObjectKind::Metadata))
        .ok_or(WireError("an index tells of something that is not a pack"))?;
    let frames = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    let chunks = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    // Checked before the lengths are multiplied.
    if frames > storepool::pack::FRAMES_LIMIT || chunks > storepool::pack::CHUNKS_LIMIT {
        return Err(WireError("a pack has too many frames or chunks"));
    }
    let toc = Toc::decode(reader.take(Toc::encoded_length(frames, chunks))?, frames, chunks)?;
    Ok(PackTable { hash, copy, kind, toc })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ring::KeyRing;
    use crate::layout::RealmId;
    use crate::testing::SeededEntropy;
    use storepool::clock::Timestamp;
    use storepool::id::{ChunkId, ChunkKind};
    use storepool::pack::{ChunkEntry, Codec, FrameEntry};

    #[test]
    fn tables_come_back_and_bytes_after_them_are_refused() {
        let ring = KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), "");
        let keys = RealmKeys::new(RealmId([1; 16]), ring);
        let mut toc = Toc::default();
        let chunk = ChunkEntry { id: ChunkId([7; 32]), kind: ChunkKind::Data, length: 9 };
        let frame = FrameEntry { stored_length: 9, raw_length: 9, chunks: 1, codec: Codec::Stored };
        toc.push(frame, &[chunk]);
        let mut builder = IndexBuilder::default();
        builder.push(ObjectHash([1; 32]), 3, ObjectKind::Data, &toc);
        builder.push(ObjectHash([2; 32]), 0, ObjectKind::Metadata, &Toc::default());

        let sealed = builder.seal(&keys).expect("sealed");

        let tables = open_index(&keys, &sealed.object).expect("opened");
        assert!(builder.is_empty());
        assert_eq!(tables.len(), 2);
        assert_eq!((tables[0].copy, &tables[0].toc), (3, &toc));
        assert_eq!(tables[1].kind, ObjectKind::Metadata);
        let long = container::seal_body(&keys, Content::Object(ObjectKind::Index), &[0, 0]);
        assert!(open_index(&keys, &long.expect("sealed").object).is_err());
    }
}
