//! What the base point saves: entries that look as they did then, and chunks that are known to be there.

use std::time::Duration;

use crate::backup::assembly::DirectoryState;
use crate::backup::walk::{Run, Worker};
use crate::clock::Timestamp;
use crate::entry::FileTime;
use crate::error::Result;
use crate::source::{SourceKind, SourceStat};
use crate::tree::{ChunkRef, Content, Entry, ListRef, Node, TreeCursor, read_list};

/// A change in the same tick of the file system's clock as the look at the entry is invisible to the next run. Linux stamps
/// inodes with the time of its last timer interrupt, at most 10 ms ago; this leaves room for late interrupts.
const FINE_TICK: Duration = Duration::from_millis(100);
/// The same for file systems that keep whole seconds or less; the coarsest in use tick every two seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// A time that is a multiple of this may come from a file system with a coarse clock.
const COARSE_NANOS: u32 = 10_000_000;

impl Run<'_> {
    pub(super) fn looks_unchanged(&self, stat: &SourceStat, base: &Entry) -> bool {
        let metadata = &base.metadata;
        let Some(base_started) = self.base_started else { return false };
        u32::from(stat.mode) == metadata.mode
            && stat.uid == metadata.uid
            && stat.gid == metadata.gid
            && stat.mtime == metadata.mtime
            && stat.ctime == metadata.ctime
            && stat.inode == metadata.inode
            && settled_before(stat.ctime, base_started)
            && match &base.node {
                Node::File { size, .. } => stat.kind == SourceKind::File && stat.size == *size,
                Node::Directory { .. } => stat.kind == SourceKind::Directory,
                Node::Symlink { .. } => stat.kind == SourceKind::Symlink,
                Node::Fifo => stat.kind == SourceKind::Fifo,
                Node::Socket => stat.kind == SourceKind::Socket,
                Node::CharDevice { major, minor } => {
                    stat.kind == SourceKind::CharDevice && stat.special == (*major, *minor)
                }
                Node::BlockDevice { major, minor } => {
                    stat.kind == SourceKind::BlockDevice && stat.special == (*major, *minor)
                }
            }
    }
}

impl Worker<'_, '_> {
    // The base's entries of a directory. A base that cannot be read is worth as much as none: everything is read again.
    pub(super) fn base_entries(&self, state: &DirectoryState) -> Result<Vec<Entry>> {
        let Some(tree) = state.base_tree else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for entry in TreeCursor::new(&self.base, tree) {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) if error.is_damage() => {
                    tracing::warn!(path = %state.path, %error, "the base's directory is damaged");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    // With a part of the pool missing, an unchanged file counts as unchanged only if its chunks are there; else it is read and stored again.
    pub(super) fn content_is_there(&mut self, base: &Entry) -> Result<bool> {
        if self.run.base_is_whole {
            return Ok(true);
        }
        let Node::File { content, .. } = &base.node else { return Ok(true) };
        match content {
            Content::None => Ok(true),
            Content::Inline(extents) => self.chunks_are_there(&extents.chunks),
            Content::Listed(lists) => {
                for list in lists {
                    match read_list(&self.base, *list) {
                        Ok(extents) => {
                            if !self.writer.has(list.id)?
                                || !self.chunks_are_there(&extents.chunks)?
                            {
                                return Ok(false);
                            }
                        }
                        Err(error) if error.is_damage() => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                Ok(true)
            }
        }
    }

    pub(super) fn chunks_are_there(&mut self, chunks: &[ChunkRef]) -> Result<bool> {
        for chunk in chunks {
            if !self.writer.has(chunk.id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn known_of_list(&self, list: Option<&ListRef>) -> Vec<ChunkRef> {
        // Only a shortcut: without it each chunk is looked up.
        if !self.run.base_is_whole {
            return Vec::new();
        }
        list.and_then(|list| read_list(&self.base, *list).ok())
            .map(|extents| extents.chunks)
            .unwrap_or_default()
    }
}

// An entry changed in the same tick as the base looked at it may have changed again unseen.
fn settled_before(ctime: FileTime, base_started: Timestamp) -> bool {
    let tick = if ctime.nanos.is_multiple_of(COARSE_NANOS) { COARSE_TICK } else { FINE_TICK };
    let limit = base_started.minus(tick).0;
    (ctime.seconds, i64::from(ctime.nanos))
        < (limit.div_euclid(1_000_000_000), limit.rem_euclid(1_000_000_000))
}

#[cfg(test)]
mod settled {
    use super::*;

    const STARTED: Timestamp = Timestamp(1_000_000_000_000);

    fn at(seconds: i64, nanos: u32) -> FileTime {
        FileTime { seconds, nanos }
    }

    #[test]
    fn a_fine_clock_is_trusted_after_a_tenth_of_a_second() {
        assert!(settled_before(at(999, 899_999_999), STARTED));
        assert!(!settled_before(at(999, 900_000_001), STARTED));
        assert!(!settled_before(at(1_000, 1), STARTED));
        assert!(!settled_before(at(2_000, 1), STARTED));
    }

    #[test]
    fn a_clock_of_whole_seconds_or_hundredths_needs_two_seconds() {
        assert!(settled_before(at(997, 0), STARTED));
        assert!(!settled_before(at(998, 0), STARTED));
        assert!(!settled_before(at(999, 0), STARTED));
        assert!(!settled_before(at(998, 750_000_000), STARTED));
    }
}
