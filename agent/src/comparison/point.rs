//! With the point: content by its digests, read again from the disk it was written to, and metadata as the trees have it.
//!
//! Only names of chunks and trees are taken from the copy; the bytes on the disk are read and hashed here, past what the restore believes it wrote.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, XattrFlags};
use storepool::entry::{EntryPath, Xattr};
use storepool::id::{ChunkId, ChunkKind, TreeId};
use storepool::manifest::Manifest;
use storepool::monitor::{Event, Monitor};
use storepool::tree::{
    ChunkFetch, Content, DEPTH_LIMIT, Entry, Extents, Node, TreeCursor, read_list,
};

use super::{Findings, attributes};

/// Zeros of holes are looked at in pieces of this many bytes.
const PIECE: usize = 256 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];
/// Permission bits that anybody may give to what is theirs.
const PLAIN_BITS: u32 = 0o777;
const ALL_BITS: u32 = 0o7777;
/// Said where devices cannot be made.
const DEVICES_NEED_ROOT: &str = "devices were not restored: only root may make them";
/// Said where the folder of the drill cannot hold them.
const NO_ATTRIBUTES: &str =
    "extended attributes were not compared: the file system of the drill does not take them";

/// What is compared.
pub(crate) struct PointComparison<'a> {
    /// Gives the trees.
    pub(crate) fetch: &'a dyn ChunkFetch,
    /// The point, restored with the numbers of owners as they were.
    pub(crate) manifest: &'a Manifest,
    /// The entries that were restored beside directories; `None` for all.
    pub(crate) only: Option<&'a BTreeSet<EntryPath>>,
    /// Who watches.
    pub(crate) monitor: &'a dyn Monitor,
}

type Links = HashMap<(u64, u64), (u64, u64)>;

impl PointComparison<'_> {
    /// Compares the whole tree of the point with what is below `restored`.
    ///
    /// # Errors
    /// The trees cannot be read, or the run was asked to stop. What differs on the disk is a finding.
    pub(crate) fn run(&self, restored: &Path) -> storepool::Result<Findings> {
        let mut findings = Findings::default();
        let mut links = Links::new();
        let mut open = vec![(EntryPath::root(), self.manifest.root)];
        while let Some((path, tree)) = open.pop() {
            if path.components().count() >= DEPTH_LIMIT {
                let what = "directories are nested too deeply";
                return Err(storepool::Error::damaged(format!("\"{path}\""), what));
            }
            self.directory(restored, &path, tree, &mut links, &mut open, &mut findings)?;
        }
        Ok(findings)
    }

    fn directory(
        &self,
        restored: &Path,
        path: &EntryPath,
        tree: TreeId,
        links: &mut Links,
        open: &mut Vec<(EntryPath, TreeId)>,
        findings: &mut Findings,
    ) -> storepool::Result<()> {
        let folder = restored.join(OsStr::from_bytes(path.as_bytes()));
        let mut extra = match names(&folder) {
            Ok(names) => names,
            Err(error) => {
                findings.differ(&path.to_string(), &format!("it cannot be listed: {error}"));
                return Ok(());
            }
        };
        for entry in TreeCursor::new(self.fetch, tree) {
            if self.monitor.cancelled() {
                return Err(storepool::Error::Interrupted);
            }
            let entry = entry?;
            let below = path.join(&entry.name);
            let is_directory = matches!(entry.node, Node::Directory { .. });
            if !is_directory && self.only.is_some_and(|only| !only.contains(&below)) {
                continue;
            }
            extra.remove(OsStr::from_bytes(&entry.name));
            let place = folder.join(OsStr::from_bytes(&entry.name));
            findings.entries += 1;
            let before = findings.bytes;
            let difference = self.entry(&entry, &place, links, findings)?;
            let bytes = findings.bytes - before;
            self.monitor.event(Event::Done { items: 1, bytes });
            match (difference, &entry.node) {
                (Some(difference), _) => findings.differ(&below.to_string(), &difference),
                (None, Node::Directory { tree, .. }) => open.push((below, *tree)),
                (None, _) => {}
            }
        }
        for name in extra {
            let below = path.join(name.as_bytes());
            findings.differ(&below.to_string(), "it is not in the point");
        }
        Ok(())
    }

    // Returns what differs, if anything does.
    fn entry(
        &self,
        entry: &Entry,
        place: &PathBuf,
        links: &mut Links,
        findings: &mut Findings,
    ) -> storepool::Result<Option<String>> {
        let root = rustix::process::geteuid().is_root();
        let is_device = matches!(entry.node, Node::CharDevice { .. } | Node::BlockDevice { .. });
        if is_device && !root {
            findings.remarks.insert(DEVICES_NEED_ROOT);
            return Ok(None);
        }
        let found = match fs::symlink_metadata(place) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("it was not restored".to_string()));
            }
            Err(error) => return Ok(Some(format!("it cannot be examined: {error}"))),
        };
        if let Some(what) = other_kind(&entry.node, &found, place) {
            return Ok(Some(what.to_string()));
        }
        if let Some(what) = other_metadata(entry, &found, root) {
            return Ok(Some(format!("its {what} differs")));
        }
        if let Some(device) = entry.metadata.hard_link_device {
            let here = (found.dev(), found.ino());
            let twin = links.entry((device, entry.metadata.inode)).or_insert(here);
            if *twin != here {
                return Ok(Some("it is no hard link any more".to_string()));
            }
        }
        if !self.has_attributes(&entry.metadata.xattrs, place, root, findings) {
            return Ok(Some("its extended attributes differ".to_string()));
        }
        let Node::File { size, content } = &entry.node else { return Ok(None) };
        findings.files += 1;
        findings.bytes += size;
        Ok(match self.has_content(place, *size, content)? {
            Ok(true) => None,
            Ok(false) => Some("its content differs".to_string()),
            Err(error) => Some(format!("its content cannot be read: {error}")),
        })
    }

    fn has_content(
        &self,
        place: &Path,
        size: u64,
        content: &Content,
    ) -> storepool::Result<io::Result<bool>> {
        let mut reread = match Reread::open(place) {
            Ok(reread) => reread,
            Err(error) => return Ok(Err(error)),
        };
        let none = Extents::default();
        let same = match content {
            Content::None => reread.has(&none, size),
            Content::Inline(extents) => reread.has(extents, size),
            Content::Listed(lists) => {
                let mut same = Ok(true);
                // One window after the other: all lists of a huge file would take much memory.
                for list in lists {
                    if self.monitor.cancelled() {
                        return Err(storepool::Error::Interrupted);
                    }
                    same = reread.has(&read_list(self.fetch, *list)?, list.span);
                    if !matches!(same, Ok(true)) {
                        break;
                    }
                }
                same
            }
        };
        Ok(match same {
            Ok(true) => reread.is_at_end(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => other,
        })
    }

    fn has_attributes(
        &self,
        wanted: &[Xattr],
        place: &Path,
        root: bool,
        findings: &mut Findings,
    ) -> bool {
        let is_kept = |name: &[u8]| {
            // The label is given by the place where a file is.
            name.starts_with(b"user.") || root && name != b"security.selinux"
        };
        let wanted: Vec<_> = wanted.iter().filter(|one| is_kept(&one.name)).collect();
        if wanted.is_empty() {
            return true;
        }
        let found = attributes(place);
        for one in wanted {
            if found.iter().any(|(name, value)| (name, value) == (&one.name, &one.value)) {
                continue;
            }
            // Whether it is the copy or the place that lacks it.
            let name = OsStr::from_bytes(&one.name);
            if rustix::fs::lsetxattr(place, name, &one.value, XattrFlags::empty()).is_ok() {
                return false;
            }
            findings.remarks.insert(NO_ATTRIBUTES);
        }
        true
    }
}

// Folders may be closed to their owner; what they were is compared before.
fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    let list = || -> io::Result<BTreeSet<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(folder, Permissions::from_mode(0o700))?;
            list()
        }
        // Listing is not all: what is below is examined too.
        Ok(names) if fs::metadata(folder)?.mode() & 0o500 != 0o500 => {
            fs::set_permissions(folder, Permissions::from_mode(0o700))?;
            Ok(names)
        }
        listed => listed,
    }
}

fn other_kind(node: &Node, found: &Metadata, place: &Path) -> Option<&'static str> {
    let kind = found.file_type();
    let number = |major: u32, minor: u32| rustix::fs::makedev(major, minor) == found.rdev();
    let same = match node {
        Node::File { size, .. } if kind.is_file() => {
            return (found.len() != *size).then_some("its length differs");
        }
        Node::Symlink { target } if kind.is_symlink() => {
            let leads = fs::read_link(place).map(|path| path.into_os_string().into_vec());
            return (leads.ok().as_ref() != Some(target)).then_some("it points elsewhere");
        }
        Node::File { .. } | Node::Symlink { .. } => false,
        Node::Directory { .. } => kind.is_dir(),
        Node::Fifo => kind.is_fifo(),
        Node::Socket => kind.is_socket(),
        Node::CharDevice { major, minor } => kind.is_char_device() && number(*major, *minor),
        Node::BlockDevice { major, minor } => kind.is_block_device() && number(*major, *minor),
    };
    (!same).then_some("it is of another kind")
}

fn other_metadata(entry: &Entry, found: &Metadata, root: bool) -> Option<&'static str> {
    let wanted = &entry.metadata;
    let bits = if root { ALL_BITS } else { PLAIN_BITS };
    let time = (wanted.mtime.seconds, i64::from(wanted.mtime.nanos));
    let checks = [
        (!found.is_symlink() && (wanted.mode ^ found.mode()) & bits != 0, "mode"),
        (time != (found.mtime(), found.mtime_nsec()), "time"),
        // Others than root cannot give files away.
        (root && wanted.uid != found.uid(), "owner"),
        (root && wanted.gid != found.gid(), "group"),
    ];
    checks.into_iter().find_map(|(differs, what)| differs.then_some(what))
}

struct Reread {
    file: File,
    buffer: Vec<u8>,
}

impl Reread {
    fn open(place: &Path) -> io::Result<Self> {
        let file = match File::open(place) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(place, Permissions::from_mode(0o600))?;
                File::open(place)?
            }
            opened => opened?,
        };
        // What is proven is what is on the disk, not what is still in memory; where that cannot be asked for, memory has to do.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(Self { file, buffer: Vec::new() })
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.file.read(&mut [0])? == 0)
    }

    // Whether the next `span` bytes are the chunks of `extents`, and zeros where they have holes.
    fn has(&mut self, extents: &Extents, span: u64) -> io::Result<bool> {
        let data: u64 = extents.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let whole = [storepool::entry::Run { hole: 0, data }];
        let runs = if extents.runs.is_empty() { whole.as_slice() } else { &extents.runs };
        let mut chunks = extents.chunks.iter();
        let mut chunk = chunks.next();
        let mut seen = 0;
        self.buffer.clear();
        for run in runs {
            if !self.zeros(run.hole)? {
                return Ok(false);
            }
            let mut left = run.data;
            while left > 0 {
                let Some(wanted) = chunk else { return Ok(false) };
                let have = self.buffer.len();
                let more = left.min(u64::from(wanted.length) - have as u64) as usize;
                self.buffer.resize(have + more, 0);
                self.file.read_exact(&mut self.buffer[have..])?;
                left -= more as u64;
                if self.buffer.len() == wanted.length as usize {
                    if ChunkId::of(ChunkKind::Data, &self.buffer) != wanted.id {
                        return Ok(false);
                    }
                    self.buffer.clear();
                    chunk = chunks.next();
                }
            }
            seen += run.hole + run.data;
        }
        Ok(chunk.is_none() && self.zeros(span.saturating_sub(seen))?)
    }

    fn zeros(&mut self, mut length: u64) -> io::Result<bool> {
        let mut piece = vec![0; PIECE.min(length as usize)];
        while length > 0 {
            let part = length.min(PIECE as u64) as usize;
            self.file.read_exact(&mut piece[..part])?;
            if piece[..part] != ZEROS[..part] {
                return Ok(false);
            }
            length -= part as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use storepool::backup::{BackupOptions, backup};
    use storepool::chunks::{ChunkSource, PoolChunks};
    use storepool::filetree::{FileTree, FileTreeOptions};
    use storepool::monitor::SilentMonitor;
    use storepool::pool::{Pool, PoolOptions, World};
    use storepool::restore::{RestoreOptions, restore};
    use tempfile::TempDir;

    use super::*;

    const HUGE: u64 = 65 << 20;

    fn change_quietly(path: &Path, change: impl FnOnce(&File)) {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        let file = File::options().write(true).open(path).unwrap();
        change(&file);
        file.set_modified(before).unwrap();
    }

    fn settle_folder(path: &Path, change: impl FnOnce()) {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        change();
        File::open(path).unwrap().set_modified(before).unwrap();
    }

    /// A point of a small tree with a large sparse file, restored to "restored".
    struct Story {
        place: TempDir,
        pool: Arc<Pool>,
        manifest: Manifest,
    }

    impl Story {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let source = place.path().join("source");
            fs::create_dir_all(source.join("sub")).unwrap();
            fs::write(source.join("sub/file"), vec![7; 100_000]).unwrap();
            fs::hard_link(source.join("sub/file"), source.join("twin")).unwrap();
            std::os::unix::fs::symlink("file", source.join("sub/link")).unwrap();
            let huge = File::create(source.join("huge")).unwrap();
            huge.set_len(HUGE).unwrap();
            for offset in [1 << 20, HUGE - 10] {
                huge.write_all_at(b"some data", offset).unwrap();
            }
            let paths = [place.path().join("pool")];
            let pool = Pool::create(&paths, PoolOptions::default(), World::system()).unwrap();
            let pool = Arc::new(pool);
            let tree = FileTree::open(&[source], FileTreeOptions::default()).unwrap();
            let made = backup(&pool, &tree, &BackupOptions::default(), &SilentMonitor).unwrap();
            let manifest = pool.manifest(made.point.unwrap()).unwrap();
            Self { place, pool, manifest }
        }

        fn restored(&self) -> PathBuf {
            let target = self.place.path().join("restored");
            let _ = fs::remove_dir_all(&target);
            let session = self.pool.begin_session().unwrap();
            let options = RestoreOptions { numeric_owner: true, ..RestoreOptions::default() };
            let chunks = PoolChunks::new(&session);
            let root = EntryPath::root();
            restore(&chunks, &self.manifest, &root, &target, &options, &SilentMonitor).unwrap();
            target
        }

        fn compare(&self, restored: &Path) -> Findings {
            let session = self.pool.begin_session().unwrap();
            let chunks = PoolChunks::new(&session);
            let reader = chunks.reader().unwrap();
            let comparison = PointComparison {
                fetch: &*reader,
                manifest: &self.manifest,
                only: None,
                monitor: &SilentMonitor,
            };
            comparison.run(restored).unwrap()
        }
    }

    type Harm = (&'static str, &'static str, fn(&Path));

    const HARMS: &[Harm] = &[
        ("sub/file", "its content differs", |root| {
            change_quietly(&root.join("sub/file"), |file| file.write_all_at(b"x", 99_999).unwrap());
        }),
        ("huge", "its content differs", |root| {
            change_quietly(&root.join("huge"), |file| file.write_all_at(b"x", 40 << 20).unwrap());
        }),
        ("huge", "its content differs", |root| {
            change_quietly(&root.join("huge"), |file| file.write_all_at(b"x", HUGE - 10).unwrap());
        }),
        ("huge", "its length differs", |root| {
            change_quietly(&root.join("huge"), |file| file.set_len(HUGE + 1).unwrap());
        }),
        ("sub/file", "its mode differs", |root| {
            fs::set_permissions(root.join("sub/file"), Permissions::from_mode(0o611)).unwrap();
        }),
        ("sub/file", "its time differs", |root| {
            let file = File::options().write(true).open(root.join("sub/file")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1)).unwrap();
        }),
        ("sub/link", "it was not restored", |root| {
            settle_folder(&root.join("sub"), || fs::remove_file(root.join("sub/link")).unwrap());
        }),
        ("sub/link", "it is of another kind", |root| {
            settle_folder(&root.join("sub"), || {
                fs::remove_file(root.join("sub/link")).unwrap();
                fs::write(root.join("sub/link"), b"file").unwrap();
            });
        }),
        ("sub/more", "it is not in the point", |root| {
            settle_folder(&root.join("sub"), || fs::write(root.join("sub/more"), b"").unwrap());
        }),
        ("it is no hard link any more", "", |root| {
            let modified = fs::metadata(root.join("twin")).unwrap().modified().unwrap();
            fs::copy(root.join("twin"), root.join("copy")).unwrap();
            fs::rename(root.join("copy"), root.join("twin")).unwrap();
            let twin = File::options().write(true).open(root.join("twin")).unwrap();
            twin.set_modified(modified).unwrap();
        }),
    ];

    #[test]
    fn what_was_restored_is_the_point_and_each_harm_is_found() {
        let story = Story::new();
        let findings = story.compare(&story.restored());
        assert_eq!(findings.differences, Vec::<String>::new());
        assert_eq!((findings.entries, findings.files), (5, 3));

        for (path, what, harm) in HARMS {
            let restored = story.restored();
            harm(&restored);

            let findings = story.compare(&restored);

            // Of a file with two names both have what one has.
            assert!(!findings.differences.is_empty(), "{path} {what}");
            for difference in &findings.differences {
                assert!(difference.contains(what), "{path} {what}: {difference}");
            }
            assert!(findings.differences.iter().any(|it| it.contains(path)), "{path} {what}");
        }
    }
}
