//! Which chunks the points of a vault need, in bounded memory: a filter of bits that may take a chunk for needed which
//! is not, never the other way round. Trees are read from the pool where it has them, else from the vault.

use std::collections::HashSet;
use std::sync::Arc;

use storepool::chunks::{ChunkReader, ChunkSource, PoolChunks, PoolReader};
use storepool::id::{ChunkId, ChunkKind};
use storepool::monitor::Monitor;
use storepool::pool::Session;
use storepool::tree::{ChunkFetch, Content, ListRef, Node, TreeNode, read_list, read_node};
use tokio::runtime::Handle;

use crate::crypto::ring::{RealmKeys, VaultChunkId};
use crate::error::{Error, Result};
use crate::layout::ObjectKind;
use crate::recovery::{VaultChunks, read_manifest};
use crate::vault::Ordinals;
use crate::vault::chain::Realm;
use crate::vault::commit::PointRecord;
use crate::vault::snapshot::Snapshot;

/// Stored bytes for each bit of the filter: a dozen bits for a chunk of 3 KiB, more for larger ones.
const BYTES_PER_BIT: u64 = 256;
/// Bits of the smallest filter.
const BITS_LEAST: u64 = 1 << 16;
/// Bits of the largest filter, 128 MiB: some 160 million chunks with one in five of the unneeded taken for needed.
const BITS_MOST: u64 = 1 << 30;

/// A set of chunks that may hold more than was put in.
#[derive(Debug)]
pub(crate) struct LiveChunks {
    words: Vec<u64>,
    mask: u64,
}

impl LiveChunks {
    /// Creates an empty set for a vault of this many bytes.
    pub(crate) fn for_vault(stored_bytes: u64) -> Self {
        let bits = (stored_bytes / BYTES_PER_BIT).clamp(BITS_LEAST, BITS_MOST).next_power_of_two();
        Self { words: vec![0; (bits / 64) as usize], mask: bits - 1 }
    }

    /// Adds a chunk.
    pub(crate) fn insert(&mut self, chunk: &VaultChunkId) {
        for bit in self.bits(&beginning(chunk)) {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// Returns whether the chunk may be in the set; certainly if it was added.
    pub(crate) fn contains(&self, chunk: &VaultChunkId) -> bool {
        self.contains_name(&beginning(chunk))
    }

    /// The same for the first bytes of its id.
    pub(crate) fn contains_name(&self, name: &[u8; 16]) -> bool {
        self.bits(name)
            .into_iter()
            .all(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    // Vault chunk ids are keyed hashes, so parts of them are as good as hashes of their own.
    fn bits(&self, bytes: &[u8; 16]) -> [u64; 2] {
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(word) & self.mask
        };
        [word(0), word(8)]
    }
}

fn beginning(chunk: &VaultChunkId) -> [u8; 16] {
    let mut name = [0; 16];
    name.copy_from_slice(&chunk.0.as_bytes()[..16]);
    name
}

/// Marks what these points need. `None` if a tree of one of them can be read nowhere: then nothing is known, and
/// nothing may be taken away.
pub(crate) async fn mark(
    realm: &Realm,
    snapshot: &Snapshot,
    points: Vec<PointRecord>,
    pool: Option<Arc<Session>>,
    monitor: Arc<dyn Monitor>,
) -> Result<Option<LiveChunks>> {
    let runtime = Handle::current();
    let everything = all_metadata(snapshot);
    let vault = VaultChunks::open(realm, snapshot, &everything, runtime.clone()).await?;
    let live = snapshot.objects().values().filter(|object| object.condemned.is_none());
    let marks = LiveChunks::for_vault(live.map(|object| object.record.size).sum());
    let (realm, snapshot) = (realm.clone(), snapshot.clone());
    let work = move || {
        let pool_reader =
            pool.as_deref().map(|it| PoolChunks::new(it).pool_reader()).transpose()?;
        let layers = Layers { pool: pool_reader, vault: vault.reader()? };
        let mut walk = Walk {
            keys: realm.keys().clone(),
            layers,
            marks,
            seen: HashSet::new(),
            trees: Vec::new(),
        };
        for point in points {
            let manifest = pool.as_deref().and_then(|it| it.pool().manifest(point.id).ok());
            let manifest = match manifest {
                Some(manifest) => manifest,
                None => match runtime.block_on(read_manifest(&realm, &snapshot, &point)) {
                    Ok(manifest) => manifest,
                    Err(error) => return hole(error),
                },
            };
            walk.mark(&point.id.into());
            walk.trees.push(manifest.root);
            if let Err(error) = walk.run(&*monitor) {
                return hole(error);
            }
        }
        Ok(Some(walk.marks))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted { stage: "marking" })?
}

// Bytes that are wrong or gone leave the marks without worth; other failures end the run.
fn hole<T>(error: Error) -> Result<Option<T>> {
    let damage = error.is_gap() || matches!(error, Error::NoSuchPoint { .. });
    if !damage {
        return Err(error);
    }
    tracing::warn!(%error, "a point cannot be walked, so no pack is copied");
    Ok(None)
}

// One record that needs every metadata pack, and the indexes with their tables, that any of the points needs.
fn all_metadata(snapshot: &Snapshot) -> Ordinals {
    let objects = snapshot.objects().iter();
    let wanted = objects.filter(|(_, object)| {
        matches!(object.record.kind, ObjectKind::Metadata | ObjectKind::Index)
            && object.condemned.is_none()
    });
    wanted.map(|(ordinal, _)| *ordinal).collect()
}

// The pool first: what it has costs no request.
struct Layers<'a> {
    pool: Option<PoolReader<'a>>,
    vault: Box<dyn ChunkReader + 'a>,
}

impl ChunkFetch for Layers<'_> {
    fn fetch(&self, id: ChunkId, kind: ChunkKind) -> storepool::Result<Vec<u8>> {
        if let Some(bytes) = self.pool.as_ref().and_then(|pool| pool.fetch(id, kind).ok()) {
            return Ok(bytes);
        }
        self.vault.fetch(id, kind)
    }
}

struct Walk<'a> {
    keys: Arc<RealmKeys>,
    layers: Layers<'a>,
    marks: LiveChunks,
    // Exact: a tree that is passed over by mistake would lose all that is below it. One for each directory.
    seen: HashSet<ChunkId>,
    trees: Vec<ChunkId>,
}

impl Walk<'_> {
    fn mark(&mut self, chunk: &ChunkId) {
        self.marks.insert(&self.keys.chunk_id(chunk));
    }

    fn run(&mut self, monitor: &dyn Monitor) -> Result<()> {
        while let Some(tree) = self.trees.pop() {
            if monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            if !self.seen.insert(tree) {
                continue;
            }
            self.mark(&tree);
            match read_node(&self.layers, tree)? {
                TreeNode::Inner { children, .. } => {
                    self.trees.extend(children.into_iter().map(|child| child.id));
                }
                TreeNode::Leaf(entries) => {
                    for entry in entries {
                        self.take(entry.node)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, node: Node) -> Result<()> {
        match node {
            Node::Directory { tree, .. } => self.trees.push(tree),
            Node::File { content: Content::Inline(extents), .. } => {
                extents.chunks.iter().for_each(|chunk| self.mark(&chunk.id));
            }
            Node::File { content: Content::Listed(lists), .. } => {
                for list in lists {
                    self.take_list(list)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_list(&mut self, list: ListRef) -> Result<()> {
        if self.seen.insert(list.id) {
            self.mark(&list.id);
            let extents = read_list(&self.layers, list)?;
            extents.chunks.iter().for_each(|chunk| self.mark(&chunk.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_always_found_and_little_else() {
        let id = |number: u64| {
            let hash = blake3::hash(&number.to_le_bytes());
            VaultChunkId(ChunkId(*hash.as_bytes()))
        };
        // 10,000 chunks of 3 KiB.
        let mut marks = LiveChunks::for_vault(10_000 * 3072);

        (0..10_000).for_each(|number| marks.insert(&id(number)));

        assert!((0..10_000).all(|number| marks.contains(&id(number))));
        let mistaken = (10_000..20_000).filter(|number| marks.contains(&id(*number))).count();
        assert!(mistaken < 500, "{mistaken} of 10,000");
        assert_eq!(LiveChunks::for_vault(u64::MAX / 2).words.len(), 1 << 24);
    }
}
