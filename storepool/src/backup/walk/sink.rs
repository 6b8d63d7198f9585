//! Where the trees of a run go.

use crate::backup::walk::Run;
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind, TreeId};
use crate::tree::TreeSink;
use crate::writer::ChunkWriter;

/// Stores tree nodes; the base's own root node of the directory needs no looking up.
pub(super) struct Sink<'w> {
    writer: &'w mut ChunkWriter,
    base_tree: Option<TreeId>,
    dry_run: bool,
}

impl<'w> Sink<'w> {
    pub(super) fn new(
        writer: &'w mut ChunkWriter,
        run: &Run<'_>,
        base_tree: Option<TreeId>,
    ) -> Self {
        let base_tree = base_tree.filter(|_| run.base_is_whole);
        Self { writer, base_tree, dry_run: run.options.dry_run }
    }
}

impl TreeSink for Sink<'_> {
    fn put_tree(&mut self, node: &[u8]) -> Result<TreeId> {
        let id = ChunkId::of(ChunkKind::Tree, node);
        if self.base_tree != Some(id) && !self.dry_run {
            self.writer.put_named(id, ChunkKind::Tree, node, None)?;
        }
        Ok(id)
    }
}
