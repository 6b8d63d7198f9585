//! Reading trees and lists frame by frame, in several threads, for what they refer to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PackId, TreeId};
use crate::index::Place;
use crate::pack::Slot;
use crate::pack::frame::FrameCodec;
use crate::pack::reader::PackReader;
use crate::tree::{ChunkRef, Content, Entry, Extents, ListRef, Node, TreeNode};
use crate::wire::WireError;

/// A node to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) place: Place,
    pub(super) slot: Slot,
    pub(super) id: ChunkId,
    pub(super) span: u64,
}

/// A frame with the nodes wanted from it.
pub(super) struct FrameJob {
    pub(super) pack: Arc<PackReader>,
    pub(super) frame: u32,
    pub(super) wants: Vec<Want>,
}

/// What one thread has read.
#[derive(Default)]
pub(super) struct Harvest {
    pub(super) trees: Vec<TreeId>,
    pub(super) lists: Vec<ListRef>,
    pub(super) data: Vec<ChunkRef>,
    pub(super) failed: Vec<(Want, String)>,
}

#[derive(Debug)]
pub(super) struct Worker {
    codec: FrameCodec,
    stored: Vec<u8>,
}

impl Worker {
    pub(super) fn new(level: i32) -> Result<Self> {
        Ok(Self { codec: FrameCodec::new(level)?, stored: Vec::new() })
    }

    pub(super) fn run(
        &mut self,
        jobs: &[FrameJob],
        next: &AtomicUsize,
        kind: ChunkKind,
    ) -> Harvest {
        let mut harvest = Harvest::default();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match job.pack.read_frame(job.frame, &mut self.stored, &mut self.codec) {
                Ok(decoded) => {
                    for want in &job.wants {
                        if let Err(error) = harvest.take_node(decoded, want, kind, job.pack.id()) {
                            harvest.failed.push((*want, error.to_string()));
                        }
                    }
                }
                Err(error) => {
                    let detail = error.to_string();
                    harvest.failed.extend(job.wants.iter().map(|want| (*want, detail.clone())));
                }
            }
        }
        harvest
    }
}

impl Harvest {
    fn take_node(
        &mut self,
        frame: &[u8],
        want: &Want,
        kind: ChunkKind,
        pack: PackId,
    ) -> Result<()> {
        let start = want.slot.offset as usize;
        let bytes = &frame[start..start + want.slot.length as usize];
        if ChunkId::of(kind, bytes) != want.id {
            return Err(Error::ChunkDamaged { chunk: want.id, pack });
        }
        let broken = |wire: WireError| Error::damaged(format!("tree {}", want.id.short()), wire.0);
        if kind == ChunkKind::List {
            let extents = Extents::decode_list(bytes, want.span).map_err(broken)?;
            self.data.extend(extents.chunks);
            return Ok(());
        }
        match TreeNode::decode(bytes).map_err(broken)? {
            TreeNode::Leaf(entries) => entries.into_iter().for_each(|entry| self.take_entry(entry)),
            TreeNode::Inner { children, .. } => {
                self.trees.extend(children.into_iter().map(|child| child.id));
            }
        }
        Ok(())
    }

    fn take_entry(&mut self, entry: Entry) {
        match entry.node {
            Node::Directory { tree, .. } => self.trees.push(tree),
            Node::File { content: Content::Inline(extents), .. } => {
                self.data.extend(extents.chunks)
            }
            Node::File { content: Content::Listed(lists), .. } => self.lists.extend(lists),
            _ => {}
        }
    }
}
