//! Directory trees in canonical bytes: equal directories have equal bytes and so one tree id.
//!
//! Byte by byte in `docs/format.md`, section 4. A directory of any size is a search tree of bounded nodes, cut where names
//! say so: inserting an entry changes one leaf and the path to it.

use crate::entry::{FileTime, Metadata, Run, Xattr, is_safe_name};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, TreeId};
use crate::pack::CHUNK_LIMIT;
use crate::wire::{WireError, WireReader, put_bytes, put_varint, put_zigzag};

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

const NODE_MAGIC: &[u8; 2] = b"KT";
const LIST_MAGIC: &[u8; 2] = b"KL";
const VERSION: u8 = 1;
const NODE_ITEMS_LEAST: usize = 64;
const NODE_ITEMS_MOST: usize = 1024;
const LEAF_BYTES_MOST: usize = 512 << 10;

const HAS_XATTRS: u8 = 1;
const HAS_INODE_FLAGS: u8 = 2;
const HAS_HARD_LINKS: u8 = 4;
const HAS_HOLES: u8 = 8;

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

impl Entry {
    /// Appends the entry's canonical bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let metadata = &self.metadata;
        out.push(self.kind_number());
        out.push(self.flags());
        put_bytes(out, &self.name);
        put_varint(out, u64::from(metadata.mode));
        put_varint(out, u64::from(metadata.uid));
        put_varint(out, u64::from(metadata.gid));
        put_time(out, metadata.mtime);
        put_time(out, metadata.ctime);
        put_varint(out, metadata.inode);
        if !metadata.xattrs.is_empty() {
            put_varint(out, metadata.xattrs.len() as u64);
            for xattr in &metadata.xattrs {
                put_bytes(out, &xattr.name);
                put_bytes(out, &xattr.value);
            }
        }
        if let Some(flags) = metadata.inode_flags {
            put_varint(out, u64::from(flags));
        }
        if let Some(device) = metadata.hard_link_device {
            put_varint(out, device);
        }
        match &self.node {
            Node::File { size, content } => {
                put_varint(out, *size);
                put_content(out, content);
            }
            Node::Directory { tree, files, bytes } => {
                out.extend_from_slice(tree.as_bytes());
                put_varint(out, *files);
                put_varint(out, *bytes);
            }
            Node::Symlink { target } => put_bytes(out, target),
            Node::Fifo | Node::Socket => {}
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                put_varint(out, u64::from(*major));
                put_varint(out, u64::from(*minor));
            }
        }
    }

    /// Reads one entry. The name `.` is allowed for the root entry of a manifest only: with `root`.
    pub fn decode(reader: &mut WireReader<'_>, root: bool) -> std::result::Result<Self, WireError> {
        let kind = reader.byte()?;
        let flags = reader.byte()?;
        if flags & !(HAS_XATTRS | HAS_INODE_FLAGS | HAS_HARD_LINKS | HAS_HOLES) != 0 {
            return Err(WireError("unknown entry flag"));
        }
        let name = reader.bytes()?.to_vec();
        let names_the_root = root && name == b".";
        if !is_safe_name(&name) && !names_the_root {
            return Err(WireError("an entry has a forbidden name"));
        }
        let mut metadata = Metadata {
            mode: reader.varint32()?,
            uid: reader.varint32()?,
            gid: reader.varint32()?,
            mtime: take_time(reader)?,
            ctime: take_time(reader)?,
            inode: reader.varint()?,
            ..Metadata::default()
        };
        if metadata.mode > 0o7777 {
            return Err(WireError("a mode has more than 12 bits"));
        }
        if flags & HAS_XATTRS != 0 {
            metadata.xattrs = take_xattrs(reader)?;
        }
        if flags & HAS_INODE_FLAGS != 0 {
            metadata.inode_flags = Some(reader.varint32()?);
        }
        if flags & HAS_HARD_LINKS != 0 {
            metadata.hard_link_device = Some(reader.varint()?);
        }
        if flags & HAS_HOLES != 0 && kind != 1 {
            return Err(WireError("only files have holes"));
        }
        let node = take_node(reader, kind, flags & HAS_HOLES != 0)?;
        Ok(Self { name, metadata, node })
    }

    fn kind_number(&self) -> u8 {
        match self.node {
            Node::File { .. } => 1,
            Node::Directory { .. } => 2,
            Node::Symlink { .. } => 3,
            Node::Fifo => 4,
            Node::Socket => 5,
            Node::CharDevice { .. } => 6,
            Node::BlockDevice { .. } => 7,
        }
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if !self.metadata.xattrs.is_empty() {
            flags |= HAS_XATTRS;
        }
        if self.metadata.inode_flags.is_some() {
            flags |= HAS_INODE_FLAGS;
        }
        if self.metadata.hard_link_device.is_some() {
            flags |= HAS_HARD_LINKS;
        }
        if let Node::File { content: Content::Inline(extents), .. } = &self.node
            && !extents.runs.is_empty()
        {
            flags |= HAS_HOLES;
        }
        flags
    }
}

fn put_time(out: &mut Vec<u8>, time: FileTime) {
    put_zigzag(out, time.seconds);
    put_varint(out, u64::from(time.nanos));
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    put_varint(out, runs.len() as u64);
    for run in runs {
        put_varint(out, run.hole);
        put_varint(out, run.data);
    }
}

fn put_chunks(out: &mut Vec<u8>, chunks: &[ChunkRef]) {
    put_varint(out, chunks.len() as u64);
    for chunk in chunks {
        put_varint(out, u64::from(chunk.length));
        out.extend_from_slice(chunk.id.as_bytes());
    }
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::None => out.push(0),
        Content::Inline(extents) => {
            out.push(1);
            if !extents.runs.is_empty() {
                put_runs(out, &extents.runs);
            }
            put_chunks(out, &extents.chunks);
        }
        Content::Listed(lists) => {
            out.push(2);
            put_varint(out, lists.len() as u64);
            for list in lists {
                put_varint(out, list.span);
                out.extend_from_slice(list.id.as_bytes());
            }
        }
    }
}

fn take_time(reader: &mut WireReader<'_>) -> std::result::Result<FileTime, WireError> {
    let time = FileTime { seconds: reader.zigzag()?, nanos: reader.varint32()? };
    if time.nanos >= 1_000_000_000 {
        return Err(WireError("nanoseconds reach a second"));
    }
    Ok(time)
}

fn take_xattrs(reader: &mut WireReader<'_>) -> std::result::Result<Vec<Xattr>, WireError> {
    let count = reader.count(2)?;
    let mut xattrs: Vec<Xattr> = Vec::with_capacity(count);
    for _ in 0..count {
        let xattr = Xattr { name: reader.bytes()?.to_vec(), value: reader.bytes()?.to_vec() };
        if xattr.name.is_empty() || xattr.name.contains(&0) {
            return Err(WireError("an extended attribute has a forbidden name"));
        }
        if xattrs.last().is_some_and(|last| last.name >= xattr.name) {
            return Err(WireError("extended attributes are out of order"));
        }
        xattrs.push(xattr);
    }
    Ok(xattrs)
}

fn take_runs(reader: &mut WireReader<'_>) -> std::result::Result<Vec<Run>, WireError> {
    let count = reader.count(2)?;
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        runs.push(Run { hole: reader.varint()?, data: reader.varint()? });
    }
    Ok(runs)
}

fn take_chunks(reader: &mut WireReader<'_>) -> std::result::Result<Vec<ChunkRef>, WireError> {
    let count = reader.count(33)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let length = reader.varint32()?;
        if length == 0 || length as usize > CHUNK_LIMIT {
            return Err(WireError("a chunk has a forbidden length"));
        }
        chunks.push(ChunkRef { length, id: ChunkId(reader.array()?) });
    }
    Ok(chunks)
}

// The data of the runs is exactly the data of the chunks, and both end within the span.
fn check_extents(extents: &Extents, span: u64) -> std::result::Result<(), WireError> {
    let wrong = WireError("chunks and runs do not fit the size of the file");
    let mut data = 0u64;
    for chunk in &extents.chunks {
        data = data.checked_add(u64::from(chunk.length)).ok_or(wrong)?;
    }
    if extents.runs.is_empty() {
        return if data == span { Ok(()) } else { Err(wrong) };
    }
    let (mut end, mut covered) = (0u64, 0u64);
    for run in &extents.runs {
        let length = run.hole.checked_add(run.data).ok_or(wrong)?;
        end = end.checked_add(length).ok_or(wrong)?;
        covered += run.data;
    }
    if covered == data && end <= span { Ok(()) } else { Err(wrong) }
}

fn take_content(
    reader: &mut WireReader<'_>,
    size: u64,
    holes: bool,
) -> std::result::Result<Content, WireError> {
    match reader.byte()? {
        0 if !holes => Ok(Content::None),
        1 => {
            let runs = if holes { take_runs(reader)? } else { Vec::new() };
            let extents = Extents { runs, chunks: take_chunks(reader)? };
            check_extents(&extents, size)?;
            Ok(Content::Inline(extents))
        }
        2 if !holes => {
            let count = reader.count(33)?;
            let mut lists = Vec::with_capacity(count);
            let mut end = 0u64;
            for _ in 0..count {
                let span = reader.varint()?;
                end = end.checked_add(span).ok_or(WireError("windows are longer than any file"))?;
                lists.push(ListRef { span, id: ChunkId(reader.array()?) });
            }
            if end != size {
                return Err(WireError("windows do not fit the size of the file"));
            }
            Ok(Content::Listed(lists))
        }
        _ => Err(WireError("unknown form of content")),
    }
}

fn take_node(
    reader: &mut WireReader<'_>,
    kind: u8,
    holes: bool,
) -> std::result::Result<Node, WireError> {
    Ok(match kind {
        1 => {
            let size = reader.varint()?;
            Node::File { size, content: take_content(reader, size, holes)? }
        }
        2 => Node::Directory {
            tree: ChunkId(reader.array()?),
            files: reader.varint()?,
            bytes: reader.varint()?,
        },
        3 => {
            let target = reader.bytes()?.to_vec();
            if target.is_empty() || target.contains(&0) {
                return Err(WireError("a symlink has a forbidden target"));
            }
            Node::Symlink { target }
        }
        4 => Node::Fifo,
        5 => Node::Socket,
        6 => Node::CharDevice { major: reader.varint32()?, minor: reader.varint32()? },
        7 => Node::BlockDevice { major: reader.varint32()?, minor: reader.varint32()? },
        _ => return Err(WireError("unknown kind of entry")),
    })
}

impl Extents {
    /// Returns the bytes of the list chunk that holds these extents.
    pub fn encode_list(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.chunks.len() * 35);
        out.extend_from_slice(LIST_MAGIC);
        out.extend_from_slice(&[VERSION, 0]);
        put_runs(&mut out, &self.runs);
        put_chunks(&mut out, &self.chunks);
        out
    }

    /// Reads a list chunk that covers `span` bytes of a file.
    pub fn decode_list(bytes: &[u8], span: u64) -> std::result::Result<Self, WireError> {
        let mut reader = WireReader::new(bytes);
        if &reader.array::<2>()? != LIST_MAGIC || reader.array::<2>()? != [VERSION, 0] {
            return Err(WireError("not a list of this version"));
        }
        let extents = Self { runs: take_runs(&mut reader)?, chunks: take_chunks(&mut reader)? };
        // A window of nothing but hole has neither runs nor chunks.
        if !(extents.runs.is_empty() && extents.chunks.is_empty()) {
            check_extents(&extents, span)?;
        }
        if !reader.is_empty() {
            return Err(WireError("bytes follow the list"));
        }
        Ok(extents)
    }
}

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

fn node_bytes(level: u8, items: usize, body: &[u8]) -> Vec<u8> {
    let mut node = Vec::with_capacity(body.len() + 16);
    node.extend_from_slice(NODE_MAGIC);
    node.extend_from_slice(&[VERSION, level]);
    put_varint(&mut node, items as u64);
    node.extend_from_slice(body);
    node
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Nodes(RefCell<HashMap<ChunkId, Vec<u8>>>);

    impl Nodes {
        fn build(&self, entries: &[Entry]) -> TreeId {
            let mut sink = |node: &[u8]| {
                let id = ChunkId::of(ChunkKind::Tree, node);
                self.0.borrow_mut().insert(id, node.to_vec());
                Ok(id)
            };
            let mut builder = TreeBuilder::default();
            for entry in entries {
                builder.push(entry, &mut sink).unwrap();
            }
            builder.finish(&mut sink).unwrap()
        }
    }

    impl ChunkFetch for Nodes {
        fn fetch(&self, id: ChunkId, _kind: ChunkKind) -> Result<Vec<u8>> {
            self.0.borrow().get(&id).cloned().ok_or(Error::ChunkMissing { chunk: id })
        }
    }

    fn file(name: String) -> Entry {
        Entry {
            name: name.into_bytes(),
            metadata: Metadata { mode: 0o644, inode: 7, ..Metadata::default() },
            node: Node::File { size: 0, content: Content::None },
        }
    }

    #[test]
    fn a_directory_of_any_size_comes_back_in_order() {
        for count in [0, 1, 63, 64, 1000, 30_000] {
            let nodes = Nodes::default();
            let entries: Vec<_> = (0..count).map(|index| file(format!("f{index:08}"))).collect();

            let root = nodes.build(&entries);

            let back: Vec<_> = TreeCursor::new(&nodes, root).collect::<Result<Vec<_>>>().unwrap();
            assert_eq!(back, entries, "{count} entries");
            assert!(nodes.0.borrow().values().all(|node| node.len() < 1 << 20));
            for entry in entries.iter().step_by(997) {
                assert_eq!(find_entry(&nodes, root, &entry.name).unwrap().as_ref(), Some(entry));
            }
            assert_eq!(find_entry(&nodes, root, b"zzz").unwrap(), None);
        }
    }

    #[test]
    fn one_more_entry_changes_few_nodes() {
        let nodes = Nodes::default();
        let mut entries: Vec<_> = (0..30_000).map(|index| file(format!("f{index:08}"))).collect();
        nodes.build(&entries);
        let before = nodes.0.borrow().len();

        entries.insert(15_000, file("f00014999b".to_string()));
        nodes.build(&entries);

        let added = nodes.0.borrow().len() - before;
        assert!(added <= 5, "{added} nodes were written again");
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let chunk = ChunkRef { id: ChunkId([9; 32]), length: 5 };
        let nodes = [
            Node::File {
                size: 30,
                content: Content::Inline(Extents {
                    runs: vec![Run { hole: 10, data: 5 }],
                    chunks: vec![chunk],
                }),
            },
            Node::File {
                size: 5,
                content: Content::Inline(Extents { runs: vec![], chunks: vec![chunk] }),
            },
            Node::File {
                size: 99,
                content: Content::Listed(vec![ListRef { id: ChunkId([1; 32]), span: 99 }]),
            },
            Node::Directory { tree: ChunkId([3; 32]), files: 4, bytes: 1 << 40 },
            Node::Symlink { target: b"../\xff".to_vec() },
            Node::Fifo,
            Node::Socket,
            Node::CharDevice { major: 1, minor: 3 },
            Node::BlockDevice { major: 259, minor: 1 << 19 },
        ];
        for node in nodes {
            let entry = Entry {
                name: b"n\xf0me".to_vec(),
                metadata: Metadata {
                    mode: 0o4755,
                    uid: 1000,
                    gid: u32::MAX,
                    mtime: FileTime { seconds: -1, nanos: 999_999_999 },
                    ctime: FileTime { seconds: 1 << 40, nanos: 1 },
                    inode: u64::MAX,
                    hard_link_device: Some(3),
                    inode_flags: Some(0x10),
                    xattrs: vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }],
                },
                node,
            };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);

            let mut reader = WireReader::new(&bytes);
            assert_eq!(Entry::decode(&mut reader, false).unwrap(), entry);
            assert!(reader.is_empty());
            for length in 0..bytes.len() {
                assert!(Entry::decode(&mut WireReader::new(&bytes[..length]), false).is_err());
            }
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0b"] {
            let mut bytes = Vec::new();
            file(name.to_string()).encode(&mut bytes);
            assert!(Entry::decode(&mut WireReader::new(&bytes), false).is_err(), "{name:?}");
        }
    }
}
