//! Building a directory from its entries in order.

use crate::error::{Error, Result};
use crate::id::TreeId;
use crate::pack::CHUNK_LIMIT;
use crate::tree::Entry;
use crate::tree::node::node_bytes;
use crate::wire::{put_bytes, put_varint};

const NODE_ITEMS_LEAST: usize = 64;
const NODE_ITEMS_MOST: usize = 1024;
const LEAF_BYTES_MOST: usize = 512 << 10;

/// Takes the nodes of a tree as they are finished and returns their ids.
pub trait TreeSink {
    /// Stores a tree node and returns its id.
    fn put_tree(&mut self, node: &[u8]) -> Result<TreeId>;
}

impl<F: FnMut(&[u8]) -> Result<TreeId>> TreeSink for F {
    fn put_tree(&mut self, node: &[u8]) -> Result<TreeId> {
        self(node)
    }
}

/// Builds one directory from its entries in order; memory is bounded by one node a level.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    leaf: Vec<u8>,
    leaf_entries: usize,
    last_name: Vec<u8>,
    inner: Vec<InnerBuilder>,
}

#[derive(Debug, Default)]
struct InnerBuilder {
    bytes: Vec<u8>,
    children: usize,
    entries: u64,
    only_child: Option<TreeId>,
}

impl TreeBuilder {
    /// Adds the next entry.
    ///
    /// # Panics
    /// If names do not ascend: the caller has sorted them.
    pub fn push(&mut self, entry: &Entry, sink: &mut dyn TreeSink) -> Result<()> {
        let mut bytes = Vec::with_capacity(160);
        entry.encode(&mut bytes);
        self.push_encoded(&entry.name, &bytes, sink)
    }

    /// Adds the next entry by its canonical bytes.
    ///
    /// # Panics
    /// If names do not ascend.
    pub fn push_encoded(
        &mut self,
        name: &[u8],
        entry: &[u8],
        sink: &mut dyn TreeSink,
    ) -> Result<()> {
        assert!(
            self.last_name.is_empty() || self.last_name.as_slice() < name,
            "entries of a directory ascend"
        );
        if entry.len() > CHUNK_LIMIT - (4 << 10) {
            return Err(Error::TooLarge {
                object: format!("entry \"{}\"", crate::entry::display_bytes(name)),
                reason: "its metadata and list of chunks do not fit one tree node".to_string(),
            });
        }
        if self.leaf_entries > 0 && self.leaf.len() + entry.len() > LEAF_BYTES_MOST {
            self.close_leaf(sink)?;
        }
        self.leaf.extend_from_slice(entry);
        self.leaf_entries += 1;
        self.last_name.clear();
        self.last_name.extend_from_slice(name);
        let boundary =
            self.leaf_entries >= NODE_ITEMS_LEAST && blake3::hash(name).as_bytes()[0] == 0;
        if boundary || self.leaf_entries >= NODE_ITEMS_MOST {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    /// Ends the directory and returns its tree id.
    pub fn finish(mut self, sink: &mut dyn TreeSink) -> Result<TreeId> {
        if self.leaf_entries > 0 || self.inner.is_empty() {
            self.close_leaf(sink)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.inner.len();
            if top && self.inner[level].children == 1 {
                return Ok(self.inner[level].only_child.expect("one child was added"));
            }
            if self.inner[level].children > 0 {
                self.close_inner(level, sink)?;
            }
            level += 1;
        }
    }

    fn close_leaf(&mut self, sink: &mut dyn TreeSink) -> Result<()> {
        let node = node_bytes(0, self.leaf_entries, &self.leaf);
        let id = sink.put_tree(&node)?;
        let entries = self.leaf_entries as u64;
        self.leaf.clear();
        self.leaf_entries = 0;
        self.add_child(0, id, entries, sink)
    }

    fn add_child(
        &mut self,
        level: usize,
        id: TreeId,
        entries: u64,
        sink: &mut dyn TreeSink,
    ) -> Result<()> {
        if self.inner.len() <= level {
            self.inner.push(InnerBuilder::default());
        }
        let inner = &mut self.inner[level];
        put_bytes(&mut inner.bytes, &self.last_name);
        inner.bytes.extend_from_slice(id.as_bytes());
        put_varint(&mut inner.bytes, entries);
        inner.children += 1;
        inner.entries += entries;
        inner.only_child = Some(id);
        let boundary = inner.children >= NODE_ITEMS_LEAST && id.as_bytes()[0] == 0;
        if boundary || inner.children >= NODE_ITEMS_MOST {
            self.close_inner(level, sink)?;
        }
        Ok(())
    }

    fn close_inner(&mut self, level: usize, sink: &mut dyn TreeSink) -> Result<()> {
        let inner = std::mem::take(&mut self.inner[level]);
        let node = node_bytes(level as u8 + 1, inner.children, &inner.bytes);
        let id = sink.put_tree(&node)?;
        self.add_child(level + 1, id, inner.entries, sink)
    }
}
