//! With the source, byte for byte and with all metadata.
//!
//! The comparison uses nothing of the backup engine, so that a fault there cannot hide itself. What changed in the source after the
//! point was begun is told apart by the source's own change time and is no difference.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use storepool::clock::Timestamp;
use storepool::monitor::{Event, Monitor};

use super::{Findings, attributes};

/// Bytes compared at a time.
const PIECE: usize = 256 << 10;
/// The kernel stamps changes with a clock that ticks this coarsely.
const CLOCK_TICK_NANOS: i64 = 20_000_000;

/// What is compared.
pub(crate) struct Comparison<'a> {
    /// When the point was begun.
    pub(crate) started: Timestamp,
    /// Folders of the source that were never backed up.
    pub(crate) left_out: &'a [PathBuf],
    /// Entries that the point itself reports as problems, as absolute paths.
    pub(crate) problems: &'a BTreeSet<PathBuf>,
    /// Who watches.
    pub(crate) monitor: &'a dyn Monitor,
}

/// Two names of what should be the same.
struct Pair {
    source: PathBuf,
    restored: PathBuf,
    // Of the folder above in the source: what vanished from there changed it.
    parent_changed: bool,
}

impl Comparison<'_> {
    /// Compares everything at and below `source` with `restored`.
    pub(crate) fn run(
        &self,
        source: &Path,
        restored: &Path,
        findings: &mut Findings,
    ) -> storepool::Result<()> {
        let mut links = HashMap::new();
        let mut open = vec![Pair {
            source: source.to_path_buf(),
            restored: restored.to_path_buf(),
            parent_changed: false,
        }];
        while let Some(pair) = open.pop() {
            if self.monitor.cancelled() {
                return Err(storepool::Error::Interrupted);
            }
            findings.entries += 1;
            if self.problems.contains(&pair.source) {
                findings.problems += 1;
                continue;
            }
            let before = findings.bytes;
            let outcome = self.compare(&pair, &mut links, &mut open, findings);
            let bytes = findings.bytes - before;
            self.monitor.event(Event::Done { items: 1, bytes });
            let Some(difference) = outcome else { continue };
            // Asked again: it may have changed while it was being compared.
            match fs::symlink_metadata(&pair.source) {
                Ok(now) if !self.changed_since(&now) => {
                    findings.differ(&pair.source.display().to_string(), &difference)
                }
                Err(_) if !pair.parent_changed => {
                    findings.differ(&pair.source.display().to_string(), &difference)
                }
                _ => findings.changed += 1,
            }
        }
        Ok(())
    }

    fn changed_since(&self, metadata: &Metadata) -> bool {
        let changed =
            metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
        changed.saturating_add(CLOCK_TICK_NANOS) >= self.started.0
    }

    // Returns what differs, if anything does.
    fn compare(
        &self,
        pair: &Pair,
        links: &mut HashMap<(u64, u64), (u64, u64)>,
        open: &mut Vec<Pair>,
        findings: &mut Findings,
    ) -> Option<String> {
        let Pair { source, restored, .. } = pair;
        let own = match fs::symlink_metadata(source) {
            Ok(own) => own,
            Err(_) => return Some("it is not in the source any more".to_string()),
        };
        let Ok(copy) = fs::symlink_metadata(restored) else {
            return Some("it was not recovered".to_string());
        };
        if own.file_type() != copy.file_type() {
            return Some("it is of another kind".to_string());
        }
        if let Some(what) = different_metadata(&own, &copy) {
            return Some(format!("its {what} differs"));
        }
        if attributes(source) != attributes(restored) {
            return Some("its extended attributes differ".to_string());
        }
        if own.nlink() > 1 && !own.is_dir() {
            let twin = links.entry((own.dev(), own.ino())).or_insert((copy.dev(), copy.ino()));
            if *twin != (copy.dev(), copy.ino()) {
                return Some("it is no hard link any more".to_string());
            }
        }
        if own.is_dir() {
            let left_out = self.left_out.iter().any(|folder| same_place(folder, &own));
            if !left_out {
                return self.compare_names(&own, pair, open);
            }
        } else if own.is_symlink() {
            if fs::read_link(source).ok() != fs::read_link(restored).ok() {
                return Some("it points elsewhere".to_string());
            }
        } else if own.is_file() {
            findings.files += 1;
            findings.bytes += own.len();
            if own.len() != copy.len() || !same_content(source, restored).unwrap_or(false) {
                return Some("its content differs".to_string());
            }
        }
        None
    }

    fn compare_names(&self, own: &Metadata, pair: &Pair, open: &mut Vec<Pair>) -> Option<String> {
        let (Ok(mine), Ok(theirs)) = (names(&pair.source), names(&pair.restored)) else {
            return Some("it cannot be listed".to_string());
        };
        let parent_changed = self.changed_since(own);
        open.extend(mine.union(&theirs).map(|name| Pair {
            source: pair.source.join(name),
            restored: pair.restored.join(name),
            parent_changed,
        }));
        None
    }
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn same_place(folder: &Path, metadata: &Metadata) -> bool {
    fs::metadata(folder)
        .is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
}

fn different_metadata(own: &Metadata, copy: &Metadata) -> Option<&'static str> {
    let root = rustix::process::geteuid().is_root();
    let device = own.file_type().is_block_device() || own.file_type().is_char_device();
    let checks = [
        (own.mode() != copy.mode() && !own.is_symlink(), "mode"),
        ((own.mtime(), own.mtime_nsec()) != (copy.mtime(), copy.mtime_nsec()), "time"),
        // Others than root cannot give files away.
        (root && own.uid() != copy.uid(), "owner"),
        (root && own.gid() != copy.gid(), "group"),
        (device && own.rdev() != copy.rdev(), "device number"),
    ];
    checks.into_iter().find_map(|(differs, what)| differs.then_some(what))
}

fn same_content(one: &Path, two: &Path) -> io::Result<bool> {
    let (mut one, mut two) = (File::open(one)?, File::open(two)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = fill(&mut one, &mut left)?;
        if length != fill(&mut two, &mut right)? || left[..length] != right[..length] {
            return Ok(false);
        }
        if length < PIECE {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use storepool::monitor::SilentMonitor;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for side in ["a", "b"] {
            let root = folder.path().join(side);
            fs::create_dir_all(root.join("sub")).unwrap();
            fs::write(root.join("sub/file"), b"content").unwrap();
            std::os::unix::fs::symlink("file", root.join("sub/link")).unwrap();
        }
        equal_times(folder.path());
        folder
    }

    fn equal_times(folder: &Path) {
        for name in ["sub/file", "sub", ""] {
            for side in ["a", "b"] {
                let file = File::open(folder.join(side).join(name)).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
        let time = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        for side in ["a", "b"] {
            let link = folder.join(side).join("sub/link");
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, &link, &time, flags).unwrap();
        }
    }

    fn compare(folder: &Path, started: i64) -> Findings {
        let mut findings = Findings::default();
        let comparison = Comparison {
            started: Timestamp(started),
            left_out: &[],
            problems: &BTreeSet::new(),
            monitor: &SilentMonitor,
        };
        comparison.run(&folder.join("a"), &folder.join("b"), &mut findings).unwrap();
        findings
    }

    #[test]
    fn equal_trees_are_equal_and_each_difference_is_found() {
        let folder = tree();
        let findings = compare(folder.path(), i64::MAX);
        assert_eq!((findings.difference_count, findings.files, findings.bytes), (0, 1, 7));

        let changes: [fn(&Path); 4] = [
            |root| fs::write(root.join("sub/file"), b"Content").unwrap(),
            |root| fs::remove_file(root.join("sub/link")).unwrap(),
            |root| fs::write(root.join("sub/more"), b"").unwrap(),
            |root| {
                fs::set_permissions(root.join("sub/file"), fs::Permissions::from_mode(0o600))
                    .unwrap();
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let folder = tree();
            fs::set_permissions(
                folder.path().join("a/sub/file"),
                fs::Permissions::from_mode(0o644),
            )
            .unwrap();
            fs::set_permissions(
                folder.path().join("b/sub/file"),
                fs::Permissions::from_mode(0o644),
            )
            .unwrap();
            change(&folder.path().join("b"));
            for name in ["sub/file", "sub"] {
                let file = File::open(folder.path().join("b").join(name)).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }

            let findings = compare(folder.path(), i64::MAX);

            assert_eq!(findings.difference_count, 1, "{number}: {:?}", findings.differences);
        }
    }

    #[test]
    fn what_changed_after_the_point_is_no_difference() {
        let folder = tree();
        fs::write(folder.path().join("a/sub/file"), b"changed").unwrap();

        let findings = compare(folder.path(), 0);

        assert_eq!(findings.difference_count, 0);
        assert!(findings.changed >= 1);
    }
}
