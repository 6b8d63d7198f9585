//! Nodes of the search tree that a directory is.

use crate::id::{ChunkId, TreeId};
use crate::tree::{Entry, LEVELS_LIMIT, VERSION};
use crate::wire::{WireError, WireReader, put_varint};

const NODE_MAGIC: &[u8; 2] = b"KT";

/// A node of a directory's search tree, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
    /// Entries in order of their names.
    Leaf(Vec<Entry>),
    /// Children in order, one level below.
    Inner {
        /// Distance from the leaves.
        level: u8,
        /// The children.
        children: Vec<TreeChild>,
    },
}

/// A child of an inner node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChild {
    /// Name of the last entry below the child.
    pub last: Vec<u8>,
    /// The child's id.
    pub id: TreeId,
    /// Entries below the child.
    pub entries: u64,
}

impl TreeNode {
    /// Reads a node, checking order and every limit.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, WireError> {
        let mut reader = WireReader::new(bytes);
        if &reader.array::<2>()? != NODE_MAGIC || reader.byte()? != VERSION {
            return Err(WireError("not a tree node of this version"));
        }
        let level = reader.byte()?;
        if level > LEVELS_LIMIT {
            return Err(WireError("a directory is nested too deeply"));
        }
        let node = if level == 0 {
            let count = reader.count(10)?;
            let mut entries: Vec<Entry> = Vec::with_capacity(count);
            for _ in 0..count {
                let entry = Entry::decode(&mut reader, false)?;
                if entries.last().is_some_and(|last| last.name >= entry.name) {
                    return Err(WireError("entries are out of order"));
                }
                entries.push(entry);
            }
            Self::Leaf(entries)
        } else {
            let count = reader.count(34)?;
            let mut children: Vec<TreeChild> = Vec::with_capacity(count);
            for _ in 0..count {
                let child = TreeChild {
                    last: reader.bytes()?.to_vec(),
                    id: ChunkId(reader.array()?),
                    entries: reader.varint()?,
                };
                if children.last().is_some_and(|last| last.last >= child.last) {
                    return Err(WireError("children are out of order"));
                }
                children.push(child);
            }
            if children.is_empty() {
                return Err(WireError("an inner node is empty"));
            }
            Self::Inner { level, children }
        };
        if !reader.is_empty() {
            return Err(WireError("bytes follow the node"));
        }
        Ok(node)
    }
}

/// Returns the bytes of a node: `items` entries or children, encoded in `body`.
pub(super) fn node_bytes(level: u8, items: usize, body: &[u8]) -> Vec<u8> {
    let mut node = Vec::with_capacity(body.len() + 16);
    node.extend_from_slice(NODE_MAGIC);
    node.extend_from_slice(&[VERSION, level]);
    put_varint(&mut node, items as u64);
    node.extend_from_slice(body);
    node
}
