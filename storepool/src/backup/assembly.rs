//! Assembling directories: entries come in any order from any worker, trees leave in order of names, bottom-up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::entry::EntryPath;
use crate::error::Result;
use crate::id::TreeId;
use crate::source::{SourceDirectory, SourceEntry};
use crate::tree::{Entry, Node, TreeBuilder, TreeSink};

/// A directory being worked on.
pub(crate) struct DirectoryState {
    pub(crate) path: EntryPath,
    /// The directory above and this one's ordinal there; `None` for the root.
    pub(crate) parent: Option<(Arc<DirectoryState>, usize)>,
    /// The directory itself, its tree still to be filled in.
    pub(crate) own: Entry,
    /// Its tree in the base point.
    pub(crate) base_tree: Option<TreeId>,
    pub(crate) source: Arc<dyn SourceDirectory>,
    pub(crate) entries: Vec<SourceEntry>,
    unfinished: AtomicUsize,
    assembly: Mutex<Assembly>,
}

#[derive(Default)]
struct Assembly {
    builder: TreeBuilder,
    // Outcomes that wait for an earlier entry; the first belongs to the entry with the ordinal `next`.
    waiting: VecDeque<Option<Outcome>>,
    next: usize,
    files: u64,
    bytes: u64,
}

/// What became of an entry.
pub(crate) enum Outcome {
    /// It is in the point: its name and canonical bytes.
    Kept { name: Box<[u8]>, encoded: Box<[u8]>, files: u64, bytes: u64 },
    /// It is not; a problem says why.
    LeftOut,
}

impl Outcome {
    /// Returns the outcome for an entry that is in the point.
    pub(crate) fn of(entry: &Entry) -> Self {
        let mut encoded = Vec::with_capacity(160);
        entry.encode(&mut encoded);
        let (files, bytes) = match &entry.node {
            Node::Directory { files, bytes, .. } => (*files, *bytes),
            Node::File { size, .. } => (1, *size),
            _ => (1, 0),
        };
        Self::Kept {
            name: entry.name.as_slice().into(),
            encoded: encoded.into_boxed_slice(),
            files,
            bytes,
        }
    }
}

impl DirectoryState {
    pub(crate) fn new(
        path: EntryPath,
        parent: Option<(Arc<DirectoryState>, usize)>,
        own: Entry,
        base_tree: Option<TreeId>,
        source: Arc<dyn SourceDirectory>,
        entries: Vec<SourceEntry>,
    ) -> Self {
        Self {
            path,
            parent,
            own,
            base_tree,
            source,
            // One more than there are: the scan itself, so that the directory cannot close before it is fully listed.
            unfinished: AtomicUsize::new(entries.len() + 1),
            entries,
            assembly: Mutex::default(),
        }
    }

    /// Takes the outcome of the entry with this ordinal; trees of the entries so far leave through `sink`. Returns whether it was the last.
    pub(crate) fn settle(
        &self,
        ordinal: usize,
        outcome: Outcome,
        sink: &mut dyn TreeSink,
    ) -> Result<bool> {
        self.settle_all([(ordinal, outcome)].into_iter(), sink)
    }

    /// Takes several outcomes at once.
    pub(crate) fn settle_all(
        &self,
        outcomes: impl Iterator<Item = (usize, Outcome)>,
        sink: &mut dyn TreeSink,
    ) -> Result<bool> {
        let mut settled = 0;
        {
            let mut guard = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
            let assembly = &mut *guard;
            for (ordinal, outcome) in outcomes {
                settled += 1;
                let index = ordinal - assembly.next;
                if assembly.waiting.len() <= index {
                    assembly.waiting.resize_with(index + 1, || None);
                }
                assembly.waiting[index] = Some(outcome);
            }
            while let Some(Some(_)) = assembly.waiting.front() {
                let outcome = assembly.waiting.pop_front().flatten();
                assembly.next += 1;
                if let Some(Outcome::Kept { name, encoded, files, bytes }) = outcome {
                    assembly.files += files;
                    assembly.bytes += bytes;
                    assembly.builder.push_encoded(&name, &encoded, sink)?;
                }
            }
        }
        Ok(self.unfinished.fetch_sub(settled, Ordering::AcqRel) == settled)
    }

    /// Says that the directory is fully listed. Returns whether nothing is left to wait for.
    pub(crate) fn listed(&self) -> bool {
        self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Ends the directory, once nothing is unfinished, and returns its entry.
    pub(crate) fn close(&self, sink: &mut dyn TreeSink) -> Result<Entry> {
        let assembly =
            std::mem::take(&mut *self.assembly.lock().unwrap_or_else(PoisonError::into_inner));
        let tree = assembly.builder.finish(sink)?;
        let mut entry = self.own.clone();
        entry.node = Node::Directory { tree, files: assembly.files, bytes: assembly.bytes };
        Ok(entry)
    }
}
