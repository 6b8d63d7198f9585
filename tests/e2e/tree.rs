//! Trees of files: what is in them, seen without any code of Keepwell, and trees to begin with.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything that can be seen of a tree: for each path one line that tells all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed(BTreeMap<Vec<u8>, String>);

impl Observed {
    /// Looks at everything below `root`, and at `root` itself.
    pub(crate) fn of(root: &Path) -> Self {
        let mut observed = BTreeMap::new();
        let mut linked = HashMap::new();
        observe(root, Path::new(""), &mut observed, &mut linked);
        Self(observed)
    }

    /// Returns the number of entries, the root among them.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the paths, `/` between names, the root without a name left out.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.0.keys().filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Fails, naming the first differences, unless both are equal.
    pub(crate) fn expect(&self, other: &Self, what: &str) {
        let differences = self.differences(other);
        assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    }

    /// Returns the first differences as lines.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        const MOST: usize = 12;
        let mut lines = Vec::new();
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for name in names {
            let (expected, found) = (self.0.get(name), other.0.get(name));
            if expected != found {
                let name = name.escape_ascii();
                lines.push(format!(
                    "  \"{name}\"\n    expected {expected:?}\n    found    {found:?}"
                ));
            }
            if lines.len() == MOST {
                lines.push("  and perhaps more".to_string());
                break;
            }
        }
        lines
    }
}

fn observe(
    root: &Path,
    path: &Path,
    observed: &mut BTreeMap<Vec<u8>, String>,
    linked: &mut HashMap<(u64, u64), PathBuf>,
) {
    let full = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(path) };
    let metadata = fs::symlink_metadata(&full)
        .unwrap_or_else(|error| panic!("cannot look at {}: {error}", full.display()));
    let kind = metadata.file_type();
    let mut line = format!(
        "mode {:o} owner {}:{} mtime {}.{:09}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    );
    if kind.is_file() {
        line += &format!(
            " size {} content {:016x}",
            metadata.size(),
            content_hash(&full, metadata.size())
        );
    } else if kind.is_symlink() {
        line += &format!(" to {:?}", fs::read_link(&full).expect("a symlink can be read"));
    } else if kind.is_block_device() || kind.is_char_device() {
        line += &format!(" device {:x}", metadata.rdev());
    }
    for (name, value) in attributes(&full) {
        line += &format!(" {name}={:016x}/{}", hash_of(&value), value.len());
    }
    if !kind.is_dir() && metadata.nlink() > 1 {
        let first = linked.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.into());
        line += &format!(" linked with {first:?}");
    }
    observed.insert(path.as_os_str().as_bytes().to_vec(), line);
    if kind.is_dir() {
        let entries = fs::read_dir(&full)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", full.display()));
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("a directory can be listed").file_name()).collect();
        // In order, so that the first of several hard links is the same in both trees.
        names.sort();
        for name in names {
            observe(root, &path.join(name), observed, linked);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let length = rustix::fs::llistxattr_query(path).unwrap_or(0);
    let mut list = vec![0_u8; length];
    if length == 0 || rustix::fs::llistxattr(path, &mut list).is_err() {
        return BTreeMap::new();
    }
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value)
                .unwrap_or_else(|error| panic!("xattr of {}: {error}", path.display()));
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

fn content_hash(path: &Path, length: u64) -> u64 {
    let mut file =
        File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut hasher = DefaultHasher::new();
    // One byte more than there should be, so that the end is seen in one read.
    let mut buffer = vec![0_u8; (length as usize + 1).min(1 << 20)];
    loop {
        let read = file.read(&mut buffer).expect("a file can be read");
        if read == 0 {
            return hasher.finish();
        }
        hasher.write(&buffer[..read]);
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Random numbers that can be had again from their seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins at a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins at the seed in `KEEPWELL_E2E_SEED`, or at a new one; `KEEPWELL_E2E_SEED` is how a failure is had again.
    pub(crate) fn fresh() -> (Self, u64) {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let new = time.map_or(1, |time| time.as_nanos() as u64) ^ u64::from(std::process::id());
        let seed = crate::home::setting("KEEPWELL_E2E_SEED", new);
        (Self(seed), seed)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Returns bytes that no compression makes smaller.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, content: &[u8]) {
    let folder = path.parent().expect("files lie in folders");
    fs::create_dir_all(folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    fs::write(path, content)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// Makes a tree of `files` small files in folders and `large` incompressible ones of 512 KiB.
pub(crate) fn plant(root: &Path, files: usize, large: usize, random: &mut Random) {
    for number in 0..files {
        let length = 1 + random.below(6000) as usize;
        let mut content = format!("file {number}\n").into_bytes();
        content.extend(random.bytes(length / 2));
        content.resize(length.max(content.len()), b'.');
        write(&root.join(format!("folder-{:02}/file-{number:05}", number % 17)), &content);
    }
    for number in 0..large {
        write(&root.join(format!("large/{number:03}")), &random.bytes(512 << 10));
    }
    std::os::unix::fs::symlink("folder-00", root.join("link")).expect("a symlink can be made");
}
