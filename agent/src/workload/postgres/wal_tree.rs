//! The WAL of a cluster in the pool: one point that grows. Its tree has a folder for every 4 GiB of WAL and one for histories of timelines; a push makes
//! a point whose tree is the old one and one file more, and costs what that file costs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storepool::entry::{FileTime, Run};
use storepool::id::TreeId;
use storepool::manifest::{Owners, ProblemKind};
use storepool::source::{
    DataSource, Listing, SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile,
    SourceKind, SourceStat,
};
use storepool::tree::{ChunkFetch, Node, TreeCursor};

use super::error::PostgresError;
use super::lsn::{Segment, WalFile};

/// The kind of the points that hold WAL.
pub(crate) const WAL_WORKLOAD: &str = "postgres-wal";

/// Files of WAL, by folder and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct WalTree {
    folders: BTreeMap<String, BTreeMap<String, KeptFile>>,
}

/// A file of WAL that is in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptFile {
    /// Bytes.
    pub(crate) size: u64,
    /// When it was written to last, in the cluster.
    pub(crate) modified: FileTime,
}

impl WalTree {
    /// Reads the tree of a WAL point.
    pub(crate) fn read(fetch: &dyn ChunkFetch, root: TreeId) -> storepool::Result<Self> {
        let mut tree = Self::default();
        for folder in TreeCursor::new(fetch, root) {
            let folder = folder?;
            let Node::Directory { tree: below, .. } = folder.node else { continue };
            let files = tree.folders.entry(text(&folder.name)).or_default();
            for entry in TreeCursor::new(fetch, below) {
                let entry = entry?;
                if let Node::File { size, .. } = entry.node {
                    let modified = entry.metadata.mtime;
                    files.insert(text(&entry.name), KeptFile { size, modified });
                }
            }
        }
        Ok(tree)
    }

    /// Returns all files: name and what is known of it.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, KeptFile)> {
        let all = self.folders.values().flatten();
        all.map(|(name, file)| (name.as_str(), *file))
    }

    /// Returns a file.
    pub(crate) fn get(&self, name: &str) -> Option<KeptFile> {
        let folder = WalFile::parse(name)?.folder();
        self.folders.get(&folder)?.get(name).copied()
    }

    /// Returns whether all files of `other` are here too.
    pub(crate) fn has_all_of(&self, other: &Self) -> bool {
        other.files().all(|(name, _)| self.get(name).is_some())
    }

    /// Leaves out the segments before `number` and what belongs to them; histories stay.
    pub(crate) fn keep_from(&mut self, number: u64, segment_bytes: u64) {
        let is_needed = |name: &str| {
            let segment = WalFile::parse(name).and_then(WalFile::segment);
            segment.is_none_or(|segment: Segment| segment.number(segment_bytes) >= number)
        };
        for files in self.folders.values_mut() {
            files.retain(|name, _| is_needed(name));
        }
        self.folders.retain(|_, files| !files.is_empty());
    }

    /// Returns a source of these files and of one more, which is read from `path`.
    pub(crate) fn and(
        mut self,
        name: &str,
        file: WalFile,
        path: &Path,
    ) -> Result<WalSource, PostgresError> {
        let open = File::open(path).map_err(PostgresError::file("open", path))?;
        let metadata = open.metadata().map_err(PostgresError::file("examine", path))?;
        use std::os::unix::fs::MetadataExt;
        let modified = FileTime { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 };
        let kept = KeptFile { size: metadata.len(), modified };
        self.folders.entry(file.folder()).or_default().insert(name.to_string(), kept);
        let new = NewFile { name: name.to_string(), file: Arc::new(open), stat: kept.stat() };
        Ok(WalSource { tree: Arc::new(self), new: Arc::new(new), path: path.to_path_buf() })
    }
}

impl KeptFile {
    // The same whenever it is asked for, so that a file that is in the pool is never asked for its content.
    fn stat(self) -> SourceStat {
        SourceStat {
            kind: SourceKind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            links: 1,
            size: self.size,
            allocated: self.size,
            mtime: self.modified,
            // Long settled: nothing changes a file in the pool.
            ctime: FileTime { seconds: 0, nanos: 0 },
            inode: 0,
            device: 0,
            special: (0, 0),
        }
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

struct NewFile {
    name: String,
    file: Arc<File>,
    stat: SourceStat,
}

/// What a push hands to the pool.
pub(crate) struct WalSource {
    tree: Arc<WalTree>,
    new: Arc<NewFile>,
    path: PathBuf,
}

impl DataSource for WalSource {
    fn workload(&self) -> &str {
        WAL_WORKLOAD
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt;
        let folder = self.path.parent().unwrap_or(Path::new("pg_wal"));
        vec![folder.as_os_str().as_bytes().to_vec()]
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        let folder = WalFolder { tree: self.tree.clone(), new: self.new.clone(), name: None };
        Ok((directory_stat(), Arc::new(folder)))
    }

    fn owners(&self, _: &BTreeSet<u32>, _: &BTreeSet<u32>) -> Owners {
        Owners::default()
    }
}

fn directory_stat() -> SourceStat {
    let empty = KeptFile { size: 0, modified: FileTime { seconds: 0, nanos: 0 } };
    SourceStat { kind: SourceKind::Directory, mode: 0o700, ..empty.stat() }
}

struct WalFolder {
    tree: Arc<WalTree>,
    new: Arc<NewFile>,
    name: Option<String>,
}

impl SourceDirectory for WalFolder {
    fn list(&self) -> Result<Listing, SourceError> {
        let entry = |name: &str, stat| SourceEntry { name: name.as_bytes().into(), stat };
        let entries = match &self.name {
            None => self.tree.folders.keys().map(|name| entry(name, directory_stat())).collect(),
            Some(folder) => {
                let files = self.tree.folders.get(folder).into_iter().flatten();
                files.map(|(name, file)| entry(name, file.stat())).collect()
            }
        };
        Ok(Listing { entries, problems: Vec::new() })
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        let name = Some(text(&entry.name));
        Ok(Arc::new(Self { tree: self.tree.clone(), new: self.new.clone(), name }))
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        if *entry.name != *self.new.name.as_bytes() {
            // It is asked for only when its content is not in the pool any more.
            return Err(SourceError {
                kind: ProblemKind::Unreadable,
                message: "was pushed before, and the pool has lost it".to_string(),
            });
        }
        Ok(Box::new(PushedFile(self.new.clone())))
    }

    fn detail(&self, _: &SourceEntry) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

struct PushedFile(Arc<NewFile>);

impl SourceFile for PushedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.file.read_at(buffer, offset)
    }

    fn stat(&self) -> io::Result<SourceStat> {
        let size = self.0.file.metadata()?.len();
        Ok(SourceStat { size, allocated: size, ..self.0.stat })
    }

    fn detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        Ok(vec![Run { hole: 0, data: end - start }])
    }
}

/// What the first page of a segment says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    /// Which cluster.
    pub(crate) system_identifier: u64,
    /// Bytes of a segment.
    pub(crate) segment_bytes: u64,
}

impl SegmentHead {
    /// Reads the head of a segment and compares it with its name (`XLogLongPageHeaderData` of `src/include/access/xlog_internal.h`).
    pub(crate) fn read(path: &Path, segment: Segment) -> Result<Self, PostgresError> {
        let file = File::open(path).map_err(PostgresError::file("open", path))?;
        Self::of(&file, path, segment)
    }

    /// Reads the head of a segment that is open.
    pub(super) fn of(file: &File, path: &Path, segment: Segment) -> Result<Self, PostgresError> {
        let wrong = |why: &str| PostgresError::NotThatWal {
            path: path.to_path_buf(),
            why: why.to_string(),
        };
        let mut head = [0; 40];
        file.read_exact_at(&mut head, 0).map_err(|_| wrong("it has no first page"))?;
        let head = Self::parse(&head, segment).map_err(wrong)?;
        let length = file.metadata().map_err(PostgresError::file("examine", path))?.len();
        if length != head.segment_bytes {
            return Err(wrong("it is not as long as a segment"));
        }
        Ok(head)
    }

    fn parse(head: &[u8; 40], segment: Segment) -> Result<Self, &'static str> {
        const LONG_HEADER: u16 = 2;
        let eight = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let info = u16::from_le_bytes([head[2], head[3]]);
        let segment_bytes = u64::from(four(32));
        let usual = (1 << 20..=1 << 30).contains(&segment_bytes) && segment_bytes.is_power_of_two();
        // Magic numbers of WAL pages have been D0xx and D1xx ever since they carry the version.
        if !matches!(head[1], 0xd0 | 0xd1) || info & LONG_HEADER == 0 || !usual {
            return Err("it does not begin like WAL");
        }
        if eight(8) != segment.begin(segment_bytes).0 {
            return Err("it belongs to another place in the WAL");
        }
        Ok(Self { system_identifier: eight(24), segment_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str]) -> WalTree {
        let mut tree = WalTree::default();
        for name in names {
            let folder = WalFile::parse(name).unwrap().folder();
            let kept = KeptFile { size: 1, modified: FileTime { seconds: 1, nanos: 0 } };
            tree.folders.entry(folder).or_default().insert(name.to_string(), kept);
        }
        tree
    }

    #[test]
    fn what_no_base_needs_is_left_out_but_never_a_history() {
        let mut kept = tree(&[
            "000000010000000000000001",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000003",
            "000000020000000000000003",
            "00000002.history",
        ]);

        kept.keep_from(3, 16 << 20);

        let names: Vec<_> = kept.files().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["000000010000000000000003", "000000020000000000000003", "00000002.history"]
        );
        assert!(kept.get("00000002.history").is_some());
        assert!(!kept.has_all_of(&tree(&["000000010000000000000001"])));
        assert!(tree(&["000000010000000000000001"]).has_all_of(&WalTree::default()));
        assert!(kept.get("000000010000000000000001").is_none());
    }

    #[test]
    fn a_segment_is_known_by_its_first_page() {
        let mut head = [0; 40];
        head[..4].copy_from_slice(&[0x10, 0xd1, 6, 0]);
        head[8..16].copy_from_slice(&(5_u64 << 24).to_le_bytes());
        head[24..32].copy_from_slice(&77_u64.to_le_bytes());
        head[32..36].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        let named = |place| Segment { timeline: 1, log: 0, place };

        let parsed = SegmentHead::parse(&head, named(5)).unwrap();
        assert_eq!(parsed, SegmentHead { system_identifier: 77, segment_bytes: 16 << 20 });
        assert!(SegmentHead::parse(&head, named(6)).is_err());
        head[1] = 0;
        assert!(SegmentHead::parse(&head, named(5)).is_err());
    }
}
