//! Directory trees in canonical bytes: equal directories have equal bytes and so one tree id.
//!
//! Byte by byte in `docs/format.md`, section 4. A directory of any size is a search tree of bounded nodes, cut where names
//! say so: inserting an entry changes one leaf and the path to it.

mod build;
mod codec;
mod node;
mod read;
#[cfg(test)]
mod tests;

use crate::entry::{Metadata, Run};
use crate::id::{ChunkId, TreeId};

pub use crate::tree::build::{TreeBuilder, TreeSink};
pub use crate::tree::node::{TreeChild, TreeNode};
pub use crate::tree::read::{ChunkFetch, TreeCursor, find_entry, read_list, read_node};

/// Smallest window of a large file in bytes; see [`window_length`].
pub const WINDOW_LENGTH: u64 = 64 << 20;
/// Most windows of a file.
pub const WINDOWS_LIMIT: u64 = 8192;
/// Most chunks of an entry's inline content.
pub const INLINE_CHUNKS_LIMIT: usize = 1024;
/// Most runs of an entry's inline content.
pub const INLINE_RUNS_LIMIT: usize = 4096;
/// Deepest search tree of one directory; 64 entries to the power of 10 are more than any directory has.
pub const LEVELS_LIMIT: u8 = 10;
/// Deepest nesting of directories that any operation follows.
pub const DEPTH_LIMIT: usize = 4096;

/// Version of nodes and lists.
const VERSION: u8 = 1;

/// A chunk of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// Its length in bytes.
    pub length: u32,
}

/// One window of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListRef {
    /// The chunk that lists the window's chunks.
    pub id: ChunkId,
    /// Bytes of the file that the window covers, holes included.
    pub span: u64,
}

/// The data of a file, or of one window: its chunks in order, laid out over runs of hole and data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extents {
    /// Holes and data; empty when there are no holes.
    pub runs: Vec<Run>,
    /// The chunks of the data.
    pub chunks: Vec<ChunkRef>,
}

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// No data: the file is empty or one hole.
    None,
    /// The chunks stand in the entry itself.
    Inline(Extents),
    /// The chunks stand in a list for each window.
    Listed(Vec<ListRef>),
}

/// What an entry is, with what only this kind has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File {
        /// Length in bytes, holes included.
        size: u64,
        /// Its data.
        content: Content,
    },
    /// A directory.
    Directory {
        /// Its entries.
        tree: TreeId,
        /// Entries that are not directories, in it and below.
        files: u64,
        /// Bytes of files in it and below.
        bytes: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to, uninterpreted.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its name: bytes, not UTF-8.
    pub name: Vec<u8>,
    /// What every kind has.
    pub metadata: Metadata,
    /// What it is.
    pub node: Node,
}

/// Returns the length of the windows in which a file of `size` bytes is cut.
pub fn window_length(size: u64) -> u64 {
    let needed = size.div_ceil(WINDOWS_LIMIT);
    if needed <= WINDOW_LENGTH { WINDOW_LENGTH } else { needed.next_power_of_two() }
}
