//! The protected source: a small tree of files in memory, whose contents come again and again, as real ones do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, OnceLock};

use storepool::entry::{FileTime, Run};
use storepool::manifest::Owners;
use storepool::source::{
    DataSource, Listing, SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile,
    SourceKind, SourceStat,
};

use crate::chance::Chance;

/// Names and contents of a point's files.
pub(crate) type Files = BTreeMap<String, &'static [u8]>;

/// Different contents that files can have.
const CONTENTS: u64 = 14;
const FILES_MOST: usize = 7;

/// One source as it is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    // Content and time of the last change, which no other change has.
    files: BTreeMap<String, (u64, i64)>,
}

fn content(number: u64) -> &'static [u8] {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let one = |number: u64| {
            let mut bytes = vec![0; 200 + (number as usize * 977) % 3000];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
            // Some of it compresses.
            if number.is_multiple_of(3) {
                bytes = bytes[..50].repeat(20);
            }
            bytes
        };
        (0..CONTENTS).map(one).collect()
    });
    &all[number as usize]
}

impl Source {
    /// Changes some files; `now` is their time.
    pub(crate) fn change(&mut self, seed: u64, now: i64) {
        let mut chance = Chance::new(seed);
        for turn in 0..=chance.below(3) {
            let name = format!("{}/{}", chance.below(2), chance.below(FILES_MOST as u64));
            if chance.percent(25) {
                self.files.remove(&name);
            } else {
                self.files.insert(name, (chance.below(CONTENTS), now + turn as i64));
            }
        }
    }

    /// Returns what a point of it would hold.
    pub(crate) fn files(&self) -> Files {
        self.files.iter().map(|(name, (number, _))| (name.clone(), content(*number))).collect()
    }

    fn stat(kind: SourceKind, size: u64, stamp: i64, inode: u64) -> SourceStat {
        let time = FileTime {
            seconds: stamp.div_euclid(1_000_000_000),
            nanos: stamp.rem_euclid(1_000_000_000) as u32,
        };
        SourceStat {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            links: 1,
            size,
            allocated: size,
            mtime: time,
            ctime: time,
            inode,
            device: 1,
            special: (0, 0),
        }
    }
}

struct Directory {
    source: Source,
    // Empty for the root, else with a slash at its end.
    prefix: String,
}

impl SourceDirectory for Directory {
    fn list(&self) -> Result<Listing, SourceError> {
        let mut entries: BTreeMap<String, SourceStat> = BTreeMap::new();
        for (name, (number, stamp)) in &self.source.files {
            let Some(below) = name.strip_prefix(&self.prefix) else { continue };
            let stat = match below.split_once('/') {
                Some(_) => Source::stat(SourceKind::Directory, 0, 0, 1),
                None => {
                    let size = content(*number).len() as u64;
                    Source::stat(SourceKind::File, size, *stamp, *stamp as u64)
                }
            };
            entries.insert(below.split('/').next().unwrap_or_default().to_owned(), stat);
        }
        let entry = |(name, stat): (String, SourceStat)| SourceEntry {
            name: name.into_bytes().into(),
            stat,
        };
        Ok(Listing { entries: entries.into_iter().map(entry).collect(), problems: Vec::new() })
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        let prefix = format!("{}{}/", self.prefix, String::from_utf8_lossy(&entry.name));
        Ok(Arc::new(Directory { source: self.source.clone(), prefix }))
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        let name = format!("{}{}", self.prefix, String::from_utf8_lossy(&entry.name));
        Ok(Box::new(File { bytes: content(self.source.files[&name].0), stat: entry.stat }))
    }

    fn detail(&self, _entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

struct File {
    bytes: &'static [u8],
    stat: SourceStat,
}

impl SourceFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = &self.bytes[self.bytes.len().min(offset as usize)..];
        // Never all at once: who asks must go on asking.
        let length = rest.len().min(buffer.len()).min(1_500);
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn stat(&self) -> io::Result<SourceStat> {
        Ok(self.stat)
    }

    fn detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        Ok(vec![Run { hole: 0, data: end - start }])
    }
}

impl DataSource for Source {
    fn workload(&self) -> &str {
        "files"
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/srv".to_vec()]
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        let root = Directory { source: self.clone(), prefix: String::new() };
        Ok((Source::stat(SourceKind::Directory, 0, 0, 0), Arc::new(root)))
    }

    fn owners(&self, _users: &BTreeSet<u32>, _groups: &BTreeSet<u32>) -> Owners {
        Owners::default()
    }
}
