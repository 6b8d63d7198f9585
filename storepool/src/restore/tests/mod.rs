//! Points in memory, made by hand, and what becomes of them in a real directory.

mod ahead;
mod conflicts;
mod damage;
mod hostile;
mod in_place;
mod kinds;
mod round_trip;
mod selecting;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::chunks::{ChunkReader, ChunkSource, Expectation, Frame, Placement};
use crate::clock::Timestamp;
use crate::entry::{EntryPath, FileTime, Metadata, Run as DataRun};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PoolId};
use crate::manifest::{Manifest, Owners, Totals};
use crate::monitor::SilentMonitor;
use crate::restore::{RestoreOptions, RestoreReport, restore};
use crate::tree::{
    ChunkFetch, ChunkRef, Content, Entry, Extents, INLINE_CHUNKS_LIMIT, ListRef, Node, TreeBuilder,
};

/// Chunks of content in a frame.
const FRAME_CHUNKS: usize = 4;
/// Length of the chunks that content is cut into.
const CHUNK_LENGTH: usize = 1000;

/// Frames that were announced, and whether somebody still wants them.
type Announced = (Vec<(u64, u32)>, Weak<()>);

/// Chunks in memory, laid out like a pool. Frames are read one at a time, and each reading is counted.
#[derive(Default)]
struct MemoryChunks {
    metadata: HashMap<ChunkId, Vec<u8>>,
    places: HashMap<ChunkId, Placement>,
    frames: Vec<Vec<ChunkId>>,
    bytes: HashMap<ChunkId, Vec<u8>>,
    /// Their frame gives wrong bytes; asked for by name they are sound.
    damaged: HashSet<ChunkId>,
    /// Known, but no copy of them is readable.
    lost: HashSet<ChunkId>,
    frames_read: AtomicU64,
    fetched: AtomicU64,
    expected: Mutex<Vec<Announced>>,
    /// No frame comes before nobody wants it any more.
    stuck: bool,
}

impl MemoryChunks {
    fn store(&mut self, bytes: &[u8]) -> ChunkRef {
        let id = ChunkId::of(ChunkKind::Data, bytes);
        if !self.places.contains_key(&id) {
            if self.frames.last().is_none_or(|frame| frame.len() == FRAME_CHUNKS) {
                self.frames.push(Vec::new());
            }
            let frame = self.frames.last_mut().unwrap();
            let offset = frame.iter().map(|chunk| self.bytes[chunk].len() as u32).sum();
            frame.push(id);
            let number = self.frames.len() as u32 - 1;
            // Three frames a pack.
            let (pack, frame) = (u64::from(number / 3), number % 3);
            let length = bytes.len() as u32;
            self.places.insert(id, Placement { pack, frame, offset, length });
            self.bytes.insert(id, bytes.to_vec());
        }
        ChunkRef { id, length: bytes.len() as u32 }
    }

    fn is_wanted(&self) -> bool {
        let expected = self.expected.lock().unwrap();
        expected.iter().any(|(_, hold)| hold.upgrade().is_some())
    }

    fn put(&mut self, kind: ChunkKind, bytes: &[u8]) -> ChunkId {
        let id = ChunkId::of(kind, bytes);
        self.metadata.insert(id, bytes.to_vec());
        id
    }

    fn chunks_of(&mut self, data: &[u8]) -> Vec<ChunkRef> {
        data.chunks(CHUNK_LENGTH).map(|chunk| self.store(chunk)).collect()
    }
}

impl ChunkSource for MemoryChunks {
    fn reader(&self) -> Result<Box<dyn ChunkReader + '_>> {
        Ok(Box::new(MemoryReader { chunks: self, frame: Vec::new(), damaged: Vec::new() }))
    }

    fn expect(&self, frames: &[(u64, u32)], _readers: usize) -> Option<Expectation> {
        let hold = Arc::new(());
        self.expected.lock().unwrap().push((frames.to_vec(), Arc::downgrade(&hold)));
        // Two frames come together.
        let stretches = frames.chunks(2).map(<[_]>::len).collect();
        Some(Expectation { stretches, hold: Box::new(hold) })
    }
}

struct MemoryReader<'a> {
    chunks: &'a MemoryChunks,
    frame: Vec<u8>,
    damaged: Vec<ChunkId>,
}

impl ChunkFetch for MemoryReader<'_> {
    fn fetch(&self, id: ChunkId, kind: ChunkKind) -> Result<Vec<u8>> {
        let missing = Error::ChunkMissing { chunk: id };
        if self.chunks.lost.contains(&id) {
            return Err(missing);
        }
        if kind == ChunkKind::Data {
            self.chunks.fetched.fetch_add(1, Ordering::Relaxed);
            return self.chunks.bytes.get(&id).cloned().ok_or(missing);
        }
        self.chunks.metadata.get(&id).cloned().ok_or(missing)
    }
}

impl ChunkReader for MemoryReader<'_> {
    fn locate(&mut self, id: ChunkId) -> Result<Placement> {
        self.chunks.places.get(&id).copied().ok_or(Error::ChunkMissing { chunk: id })
    }

    fn visit_pack(&mut self, pack: u64, visit: &mut dyn FnMut(&ChunkId, Placement)) -> Result<()> {
        for (id, place) in self.chunks.places.iter().filter(|(_, place)| place.pack == pack) {
            visit(id, *place);
        }
        Ok(())
    }

    fn read_frame(&mut self, pack: u64, frame: u32) -> Result<Frame<'_>> {
        self.chunks.frames_read.fetch_add(1, Ordering::Relaxed);
        while self.chunks.stuck && self.chunks.is_wanted() {
            std::thread::yield_now();
        }
        let ids = &self.chunks.frames[pack as usize * 3 + frame as usize];
        self.frame = ids.iter().flat_map(|id| self.chunks.bytes[id].clone()).collect();
        let unsound =
            |id: &&ChunkId| self.chunks.damaged.contains(*id) || self.chunks.lost.contains(*id);
        self.damaged = ids.iter().filter(unsound).copied().collect();
        Ok(Frame::new(&self.frame, &self.damaged))
    }
}

/// An entry in the making.
#[derive(Clone)]
struct Item {
    metadata: Metadata,
    node: ItemNode,
}

#[derive(Clone)]
enum ItemNode {
    Leaf(Node),
    Directory(BTreeMap<Vec<u8>, Item>),
}

/// A span of a file: holes, each with the data behind it.
type Window<'a> = (u64, &'a [(u64, &'a [u8])]);

/// A point in the making.
struct Point {
    chunks: MemoryChunks,
    root: Item,
    owners: Owners,
}

impl Point {
    fn new() -> Self {
        Self { chunks: MemoryChunks::default(), root: directory(), owners: Owners::default() }
    }

    fn add(&mut self, path: impl AsRef<[u8]>, item: Item) -> &mut Self {
        let mut place = &mut self.root;
        for name in path.as_ref().split(|byte| *byte == b'/') {
            let ItemNode::Directory(entries) = &mut place.node else { panic!("not a directory") };
            place = entries.entry(name.to_vec()).or_insert_with(directory);
        }
        *place = item;
        self
    }

    fn add_file(&mut self, path: impl AsRef<[u8]>, content: &[u8]) -> &mut Self {
        let item = self.file(content);
        self.add(path, item)
    }

    fn file(&mut self, content: &[u8]) -> Item {
        let size = content.len() as u64;
        if content.len() > CHUNK_LENGTH * INLINE_CHUNKS_LIMIT {
            return self.sparse(&[(size, &[(0, content)])]);
        }
        let content = match content {
            [] => Content::None,
            _ => Content::Inline(Extents { runs: vec![], chunks: self.chunks.chunks_of(content) }),
        };
        leaf(Node::File { size, content })
    }

    /// A file of holes and data, in one list for each window.
    fn sparse(&mut self, windows: &[Window<'_>]) -> Item {
        let mut lists = Vec::new();
        for (span, runs) in windows {
            let data: Vec<u8> = runs.iter().flat_map(|(_, data)| data.to_vec()).collect();
            let runs =
                runs.iter().map(|(hole, data)| DataRun { hole: *hole, data: data.len() as u64 });
            let extents = Extents { runs: runs.collect(), chunks: self.chunks.chunks_of(&data) };
            let id = self.chunks.put(ChunkKind::List, &extents.encode_list());
            lists.push(ListRef { id, span: *span });
        }
        let size = windows.iter().map(|(span, _)| span).sum();
        leaf(Node::File { size, content: Content::Listed(lists) })
    }

    fn finish(&mut self) -> Manifest {
        let root = self.root.clone();
        let node = self.store(&root);
        let Node::Directory { tree, .. } = node else { panic!("the root is a directory") };
        Manifest {
            nonce: [1; 16],
            pool: PoolId([2; 16]),
            started: Timestamp(0),
            finished: Timestamp(0),
            host: String::new(),
            group: String::new(),
            source: String::new(),
            workload: "files".to_string(),
            paths: Vec::new(),
            program: String::new(),
            base: None,
            totals: Totals::default(),
            owners: self.owners.clone(),
            problems: Vec::new(),
            problem_count: 0,
            detail: String::new(),
            set: None,
            root: tree,
            root_entry: Entry { name: b".".to_vec(), metadata: root.metadata, node },
        }
    }

    fn store(&mut self, item: &Item) -> Node {
        let entries = match &item.node {
            ItemNode::Leaf(node) => return node.clone(),
            ItemNode::Directory(entries) => entries,
        };
        let mut builder = TreeBuilder::default();
        let (mut count, mut bytes) = (0, 0);
        for (name, item) in entries {
            let node = self.store(item);
            match &node {
                Node::Directory { files, bytes: below, .. } => {
                    count += files;
                    bytes += below;
                }
                Node::File { size, .. } => {
                    count += 1;
                    bytes += size;
                }
                _ => count += 1,
            }
            let entry = Entry { name: name.clone(), metadata: item.metadata.clone(), node };
            let chunks = &mut self.chunks;
            builder.push(&entry, &mut |node: &[u8]| Ok(chunks.put(ChunkKind::Tree, node))).unwrap();
        }
        let chunks = &mut self.chunks;
        let tree =
            builder.finish(&mut |node: &[u8]| Ok(chunks.put(ChunkKind::Tree, node))).unwrap();
        Node::Directory { tree, files: count, bytes }
    }

    fn restore(&mut self, target: &Path, options: &RestoreOptions) -> Result<RestoreReport> {
        self.restore_path("", target, options)
    }

    fn restore_path(
        &mut self,
        path: &str,
        target: &Path,
        options: &RestoreOptions,
    ) -> Result<RestoreReport> {
        let manifest = self.finish();
        let path = EntryPath::parse(path.as_bytes()).unwrap();
        restore(&self.chunks, &manifest, &path, target, options, &SilentMonitor)
    }
}

fn metadata() -> Metadata {
    Metadata {
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: FileTime { seconds: 1_000_000_000, nanos: 123_456_789 },
        ..Metadata::default()
    }
}

fn directory() -> Item {
    let metadata = Metadata { mode: 0o755, ..metadata() };
    Item { metadata, node: ItemNode::Directory(BTreeMap::new()) }
}

fn leaf(node: Node) -> Item {
    Item { metadata: metadata(), node: ItemNode::Leaf(node) }
}

fn symlink(target: &[u8]) -> Item {
    leaf(Node::Symlink { target: target.to_vec() })
}

impl Item {
    fn with(mut self, change: impl FnOnce(&mut Metadata)) -> Self {
        change(&mut self.metadata);
        self
    }
}

/// Bytes of which no two chunks are equal.
fn content(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn threads(count: usize) -> RestoreOptions {
    RestoreOptions { threads: count, ..RestoreOptions::default() }
}

/// A place for a target that does not exist yet, and one beside it for what may not be touched.
struct Places {
    _scratch: tempfile::TempDir,
    target: PathBuf,
    outside: PathBuf,
}

fn places() -> Places {
    let scratch = tempfile::tempdir().unwrap();
    let (target, outside) = (scratch.path().join("target"), scratch.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    Places { _scratch: scratch, target, outside }
}

/// All names below a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![path.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            let below = entry.path().strip_prefix(path).unwrap().to_path_buf();
            found.push(crate::entry::display_bytes(below.as_os_str().as_bytes()));
        }
    }
    found.sort();
    found
}

fn messages(report: &RestoreReport) -> Vec<String> {
    let line =
        |problem: &crate::restore::RestoreProblem| format!("{}: {}", problem.path, problem.message);
    report.problems.iter().map(line).collect()
}
