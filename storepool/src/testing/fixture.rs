//! Small real pools, and points made by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::{Notes, Point};
use crate::chunks::PoolChunks;
use crate::clock::Timestamp;
use crate::disk::Disk;
use crate::entropy::random_bytes;
use crate::entry::Metadata;
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind, PointId};
use crate::manifest::{Manifest, Owners, Totals};
use crate::pool::{Pool, PoolOptions, Session, World};
use crate::space::Reserve;
use crate::testing::disk::CrashingDisk;
use crate::tree::{ChunkFetch, ChunkRef, Content, Entry, Extents, Node, TreeBuilder, TreeCursor};
use crate::writer::{ChunkWriter, PoolWriter, SpacePolicy};

/// Names and contents of the files of a point; a name may have directories before it.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Returns options that make many small packs of little data.
pub(crate) fn small_packs() -> PoolOptions {
    PoolOptions {
        compression_level: 1,
        pack_length: 8 << 10,
        reserve: Reserve::Bytes(0),
        holder: "a test".to_string(),
    }
}

/// Creates a pool of `count` directories below `path`.
pub(crate) fn create_pool(path: &Path, count: usize, world: World) -> (Vec<PathBuf>, Arc<Pool>) {
    let paths: Vec<_> = (0..count).map(|index| path.join(format!("disk{index}"))).collect();
    let pool = Pool::create(&paths, small_packs(), world).expect("a new pool");
    (paths, Arc::new(pool))
}

/// Opens the pool again as another process would.
pub(crate) fn open_pool(paths: &[PathBuf], world: World) -> Result<Arc<Pool>> {
    Pool::open(paths, small_packs(), world).map(Arc::new)
}

/// Returns `count` files of `length` bytes that do not compress, named `prefix/0` and so on.
pub(crate) fn files(prefix: &str, count: usize, length: usize) -> Files {
    let file = |index| (format!("{prefix}/{index}"), noise(&format!("{prefix}{index}"), length));
    (0..count).map(file).collect()
}

/// Returns bytes that look random and depend on the seed alone.
pub(crate) fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A point in the making, step by step.
pub(crate) struct HandBackup<'a> {
    session: &'a Session,
    // Before the writer, which waits at its end for all entrances to be closed.
    chunks: ChunkWriter,
    writer: PoolWriter,
}

impl<'a> HandBackup<'a> {
    pub(crate) fn begin(session: &'a Session) -> Result<Self> {
        let writer = PoolWriter::new(session, SpacePolicy::KeepReserve)?;
        let chunks = writer.chunk_writer()?;
        Ok(Self { session, chunks, writer })
    }

    /// Stores files and their trees; returns the root directory.
    pub(crate) fn store(&mut self, files: &Files) -> Result<Node> {
        let mut entries: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
        let mut below: BTreeMap<&str, Files> = BTreeMap::new();
        for (name, content) in files {
            match name.split_once('/') {
                Some((directory, rest)) => {
                    let inside = below.entry(directory).or_default();
                    inside.insert(rest.to_string(), content.clone());
                }
                None => {
                    let (id, _) = self.chunks.put(ChunkKind::Data, content)?;
                    // A frame for each file, so that little data makes packs of several frames.
                    self.chunks.flush()?;
                    let length = content.len() as u32;
                    let chunks = vec![ChunkRef { id, length }];
                    let content = Content::Inline(Extents { runs: Vec::new(), chunks });
                    let node = Node::File { size: u64::from(length), content };
                    entries.insert(name.clone().into_bytes(), node);
                }
            }
        }
        for (name, files) in below {
            let node = self.store(&files)?;
            entries.insert(name.as_bytes().to_vec(), node);
        }
        let mut builder = TreeBuilder::default();
        let chunks = &mut self.chunks;
        let mut sink = |node: &[u8]| chunks.put(ChunkKind::Tree, node).map(|(id, _)| id);
        for (name, node) in entries {
            builder.push(&Entry { name, metadata: Metadata::default(), node }, &mut sink)?;
        }
        let tree = builder.finish(&mut sink)?;
        Ok(Node::Directory { tree, files: files.len() as u64, bytes: 0 })
    }

    /// Makes everything stored so far durable and known.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.chunks.flush()?;
        self.writer.flush()
    }

    /// Writes manifest and point file, and stops before the catalog, as a process does that dies there.
    pub(crate) fn write_point(&mut self, root: &Node) -> Result<(PointId, Manifest)> {
        let pool = self.session.pool();
        let Node::Directory { tree, .. } = root else { panic!("the root is a directory") };
        let manifest = Manifest {
            nonce: random_bytes(&*pool.world().entropy),
            pool: pool.id(),
            started: pool.world().clock.now(),
            finished: Timestamp(0),
            host: "host".to_string(),
            group: String::new(),
            source: "source".to_string(),
            workload: "files".to_string(),
            paths: Vec::new(),
            program: "test".to_string(),
            base: None,
            totals: Totals::default(),
            owners: Owners::default(),
            problems: Vec::new(),
            problem_count: 0,
            detail: String::new(),
            set: None,
            root: *tree,
            root_entry: Entry {
                name: b".".to_vec(),
                metadata: Metadata::default(),
                node: root.clone(),
            },
        };
        let bytes = manifest.encode();
        let (id, _) = self.chunks.put(ChunkKind::Manifest, &bytes)?;
        self.flush()?;
        for files in pool.point_files() {
            files.write(id.into(), &bytes, &pool.temporary(files.directory))?;
        }
        Ok((id.into(), manifest))
    }

    /// Writes the point and enters it in the catalog.
    pub(crate) fn commit(mut self, root: &Node) -> Result<PointId> {
        let (point, manifest) = self.write_point(root)?;
        let relied_on: Vec<_> = self.chunks.finish()?.into_iter().collect();
        let pool = self.session.pool();
        pool.catalog().add(&Point::of(point, &manifest, Notes::default()), &relied_on)?;
        Ok(point)
    }
}

/// Makes a point of these files.
pub(crate) fn make_point(pool: &Arc<Pool>, files: &Files) -> Result<PointId> {
    let session = pool.begin_session()?;
    let mut backup = HandBackup::begin(&session)?;
    let root = backup.store(files)?;
    backup.commit(&root)
}

/// Reads all files of a point.
pub(crate) fn read_point(pool: &Arc<Pool>, point: PointId) -> Result<Files> {
    let session = pool.begin_session()?;
    let reader = PoolChunks::new(&session).pool_reader()?;
    let mut files = Files::new();
    read_directory(&reader, pool.manifest(point)?.root, "", &mut files)?;
    Ok(files)
}

fn read_directory(
    fetch: &dyn ChunkFetch,
    tree: ChunkId,
    prefix: &str,
    files: &mut Files,
) -> Result<()> {
    for entry in TreeCursor::new(fetch, tree) {
        let entry = entry?;
        let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match entry.node {
            Node::Directory { tree, .. } => {
                read_directory(fetch, tree, &format!("{name}/"), files)?;
            }
            Node::File { content: Content::Inline(extents), .. } => {
                let mut content = Vec::new();
                for chunk in extents.chunks {
                    content.extend(fetch.fetch(chunk.id, ChunkKind::Data)?);
                }
                files.insert(name, content);
            }
            other => panic!("points made by hand hold no {other:?}"),
        }
    }
    Ok(())
}

/// Returns a world whose disks never fail, never wait for a real sync, and fill up evenly.
pub(crate) fn test_world() -> World {
    world_on(Arc::new(CrashingDisk::new(None)))
}

/// Returns the real world with another disk.
pub(crate) fn world_on(disk: Arc<dyn Disk>) -> World {
    World { disk, ..World::system() }
}

/// Copies a directory with everything in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Returns the pack files of the pool.
pub(crate) fn pack_files(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in paths {
        for group in std::fs::read_dir(path.join("packs")).expect("packs") {
            let group = group.expect("an entry").path();
            for file in std::fs::read_dir(group).expect("a group of packs") {
                found.push(file.expect("an entry").path());
            }
        }
    }
    found.sort();
    found
}
