//! Reading a directory: in order, or one entry by its name.

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, TreeId};
use crate::tree::{Entry, Extents, LEVELS_LIMIT, ListRef, TreeNode};

/// Gives the bytes of metadata chunks: a pool, a vault, a cache.
pub trait ChunkFetch {
    /// Returns the verified plaintext of a chunk.
    fn fetch(&self, id: ChunkId, kind: ChunkKind) -> Result<Vec<u8>>;
}

/// Reads and decodes one tree node.
pub fn read_node(fetch: &dyn ChunkFetch, id: TreeId) -> Result<TreeNode> {
    let bytes = fetch.fetch(id, ChunkKind::Tree)?;
    TreeNode::decode(&bytes)
        .map_err(|error| Error::damaged(format!("tree {}", id.short()), error.0))
}

/// Reads the extents of one window of a listed file.
pub fn read_list(fetch: &dyn ChunkFetch, list: ListRef) -> Result<Extents> {
    let bytes = fetch.fetch(list.id, ChunkKind::List)?;
    Extents::decode_list(&bytes, list.span)
        .map_err(|error| Error::damaged(format!("list {}", list.id.short()), error.0))
}

/// Walks the entries of one directory in order of their names, one leaf in memory at a time.
pub struct TreeCursor<'a> {
    fetch: &'a dyn ChunkFetch,
    // Children still to visit, the next one last, with the level their node must have.
    pending: Vec<(TreeId, Option<u8>)>,
    leaf: std::vec::IntoIter<Entry>,
    last_name: Vec<u8>,
}

impl std::fmt::Debug for TreeCursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeCursor").finish_non_exhaustive()
    }
}

impl<'a> TreeCursor<'a> {
    /// Creates a cursor before the first entry of the directory `tree`.
    pub fn new(fetch: &'a dyn ChunkFetch, tree: TreeId) -> Self {
        Self {
            fetch,
            pending: vec![(tree, None)],
            leaf: Vec::new().into_iter(),
            last_name: Vec::new(),
        }
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.leaf.next() {
                // Order across leaves: a hostile tree may not name one entry twice.
                if !self.last_name.is_empty() && self.last_name >= entry.name {
                    return Err(Error::damaged("tree", "entries are out of order"));
                }
                self.last_name.clear();
                self.last_name.extend_from_slice(&entry.name);
                return Ok(Some(entry));
            }
            let Some((id, expected)) = self.pending.pop() else { return Ok(None) };
            let found = match read_node(self.fetch, id)? {
                TreeNode::Leaf(entries) => {
                    self.leaf = entries.into_iter();
                    0
                }
                TreeNode::Inner { level, children } => {
                    let below = Some(level - 1);
                    self.pending.extend(children.iter().rev().map(|child| (child.id, below)));
                    level
                }
            };
            if expected.is_some_and(|level| level != found) {
                return Err(Error::damaged(format!("tree {}", id.short()), "has the wrong level"));
            }
        }
    }
}

impl Iterator for TreeCursor<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Finds the entry `name` of the directory `tree`, reading one node a level.
pub fn find_entry(fetch: &dyn ChunkFetch, tree: TreeId, name: &[u8]) -> Result<Option<Entry>> {
    let mut id = tree;
    for _ in 0..=LEVELS_LIMIT {
        match read_node(fetch, id)? {
            TreeNode::Leaf(mut entries) => {
                return Ok(entries
                    .binary_search_by(|entry| entry.name.as_slice().cmp(name))
                    .ok()
                    .map(|index| entries.swap_remove(index)));
            }
            TreeNode::Inner { children, .. } => {
                let index = children.partition_point(|child| child.last.as_slice() < name);
                match children.get(index) {
                    Some(child) => id = child.id,
                    None => return Ok(None),
                }
            }
        }
    }
    Err(Error::damaged(format!("tree {}", tree.short()), "is nested too deeply"))
}
