//! Entries and lists of extents, byte by byte.

use crate::entry::{FileTime, Metadata, Run, Xattr, is_safe_name};
use crate::id::ChunkId;
use crate::pack::CHUNK_LIMIT;
use crate::tree::{
    ChunkRef, Content, Entry, Extents, INLINE_CHUNKS_LIMIT, INLINE_RUNS_LIMIT, ListRef, Node,
    VERSION,
};
use crate::wire::{WireError, WireReader, put_bytes, put_varint, put_zigzag};

const LIST_MAGIC: &[u8; 2] = b"KL";

const HAS_XATTRS: u8 = 1;
const HAS_INODE_FLAGS: u8 = 2;
const HAS_HARD_LINKS: u8 = 4;
const HAS_HOLES: u8 = 8;

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
            if extents.chunks.len() > INLINE_CHUNKS_LIMIT || extents.runs.len() > INLINE_RUNS_LIMIT
            {
                return Err(WireError("an entry lists more than a list is for"));
            }
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
