//! Honest disks pass, and disks that lie are found out.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::scratch::SCRATCH_NAME;
use super::*;
use crate::clock::SystemClock;
use crate::disk::{DiskRead, DiskWrite, Space, SystemDisk};
use crate::entropy::{SystemEntropy, random_bytes};
use crate::lock::Locks;

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It creates over an existing file.
    CreatesTwice,
    /// It lets two creators in who come at the same moment, and refuses those who come later.
    CreatesTogether,
    /// It removes the old file before it renames the new one.
    RenamesInTwoSteps,
    /// It copies the new file over the old one, piece by piece.
    RenamesByCopy,
    /// It does not list what was created last.
    ListsLate,
    /// It reads another byte than was written.
    Rots,
    /// It cannot sync a directory.
    RefusesDirectorySync,
    /// It is full when something larger is written.
    Full,
}

struct LyingDisk {
    lie: Lie,
    reads: AtomicU64,
    seen: Mutex<HashSet<PathBuf>>,
    last: Mutex<Option<PathBuf>>,
}

struct FullFile;

impl DiskWrite for FullFile {
    fn append(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LyingDisk {
    fn new(lie: Lie) -> Self {
        let (reads, seen, last) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Self { lie, reads, seen, last }
    }

    // Until a reader has looked in the meantime, so that the test does not depend on luck.
    fn wait_for_reader(&self) {
        let before = self.reads.load(Ordering::SeqCst);
        let mut after_one = 0;
        for _ in 0..5000 {
            // The first look may have begun before; a reader that has seen enough takes no second one.
            let looks = self.reads.load(Ordering::SeqCst) - before;
            after_one += u32::from(looks == 1);
            if looks > 1 || after_one > 100 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Disk for LyingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskWrite>> {
        let first = self.seen.lock().expect("unpoisoned").insert(path.to_path_buf());
        let is_race = path.parent().is_some_and(|folder| folder.ends_with("create-only"))
            && path.file_name().is_some_and(|name| name != "once");
        match self.lie {
            Lie::Full if path.ends_with("content") => return Ok(Box::new(FullFile)),
            Lie::CreatesTwice => {
                fs::write(path, b"")?;
                let _ = fs::remove_file(path);
            }
            Lie::CreatesTogether if is_race && !first => return Ok(Box::new(FullFile)),
            _ => {}
        }
        let created = SystemDisk.create(path);
        *self.last.lock().expect("unpoisoned") = Some(path.to_path_buf());
        created
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskRead>> {
        if self.lie == Lie::Rots && path.ends_with("content") {
            let mut bytes = fs::read(path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes)?;
        }
        SystemDisk.open(path)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let read = SystemDisk.read(path, limit);
        self.reads.fetch_add(1, Ordering::SeqCst);
        read
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.lie {
            Lie::RenamesInTwoSteps => {
                let _ = fs::remove_file(to);
                self.wait_for_reader();
                SystemDisk.rename(from, to)
            }
            Lie::RenamesByCopy => {
                let content = fs::read(from)?;
                let mut file = OpenOptions::new().write(true).open(to)?;
                file.write_all(&content[..content.len() / 2])?;
                self.wait_for_reader();
                file.write_all(&content[content.len() / 2..])?;
                SystemDisk.remove(from)
            }
            _ => SystemDisk.rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match self.lie {
            Lie::RefusesDirectorySync => Err(io::ErrorKind::InvalidInput.into()),
            _ => SystemDisk.sync_directory(path),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = SystemDisk.list(path)?;
        if self.lie == Lie::ListsLate
            && let Some(last) = &*self.last.lock().expect("unpoisoned")
        {
            names.retain(|name| !last.ends_with(name));
        }
        Ok(names)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_directory(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        SystemDisk.exists(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        SystemDisk.space(path)
    }

    fn allocate(&self, path: &Path, length: u64) -> io::Result<()> {
        SystemDisk.allocate(path, length)
    }
}

fn examine_on(disk: &dyn Disk, path: &Path, depth: Depth) -> Examination {
    let clock = SystemClock::new();
    let examiner = Examiner { disk, clock: &clock, entropy: &SystemEntropy, depth };
    let found = examine(path, &examiner).expect("it can be examined");
    assert!(!path.join(SCRATCH_NAME).exists(), "nothing is left behind");
    found
}

// What the system tells of the machine that the test runs on is not the test's business.
const TRIED: [&str; 9] =
    ["create-only", "replace", "list", "names", "locks", "index", "sync", "reserve", "content"];

fn unfit(found: &Examination) -> Vec<&'static str> {
    let unfit = found.findings.iter().filter(|finding| finding.grade == Grade::Unfit);
    unfit.map(|finding| finding.check).collect()
}

#[test]
fn an_honest_disk_keeps_every_promise_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");

    for depth in [Depth::Quick, Depth::Full] {
        let found = examine_on(&SystemDisk, folder.path(), depth);

        for check in TRIED {
            let finding =
                found.of(check).unwrap_or_else(|| panic!("{check} was not tried: {found:?}"));
            assert!(finding.grade < Grade::Unfit, "{finding:?}");
        }
        assert_eq!(unfit(&found), Vec::<&str>::new());
        assert_eq!(found.of("speed").is_some(), depth == Depth::Full);
        assert!(
            found.unseen.iter().any(|what| what.contains("how fast")) == (depth == Depth::Full)
        );
    }
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
}

#[test]
fn each_lie_of_a_disk_is_found_by_its_check() {
    for (lie, check, word) in [
        (Lie::CreatesTwice, "create-only", "once more"),
        (Lie::CreatesTogether, "create-only", "succeeded"),
        (Lie::RenamesInTwoSteps, "replace", "none"),
        (Lie::RenamesByCopy, "replace", "mixture"),
        (Lie::ListsLate, "list", "not listed"),
        (Lie::Rots, "content", "not what was written"),
        (Lie::RefusesDirectorySync, "sync", "fails"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");

        let found = examine_on(&LyingDisk::new(lie), folder.path(), Depth::Quick);

        let finding = found.of(check).expect("tried");
        assert_eq!(
            (finding.grade, found.grade()),
            (Grade::Unfit, Grade::Unfit),
            "{lie:?}: {found:?}"
        );
        assert!(finding.seen.contains(word), "{lie:?}: {finding:?}");
        assert!(finding.advice.is_some(), "{lie:?}");
    }
}

#[test]
fn want_of_room_is_not_taken_for_a_lie() {
    let folder = tempfile::tempdir().expect("a folder");

    let found = examine_on(&LyingDisk::new(Lie::Full), folder.path(), Depth::Quick);

    assert_eq!(found.of("content").map(|finding| finding.grade), Some(Grade::Weak), "{found:?}");
    assert_eq!(unfit(&found), Vec::<&str>::new());
}

#[test]
fn what_a_killed_examination_left_is_removed_and_a_living_one_is_not_disturbed() {
    let folder = tempfile::tempdir().expect("a folder");
    let scratch = folder.path().join(SCRATCH_NAME);
    fs::create_dir(&scratch).expect("made");
    let session = |bytes: [u8; 8]| format!("session-{}", crate::id::hex(&bytes));
    // Killed with its session, and killed before: the lock of a dead process is held by nobody.
    let (dead, older) =
        (session(random_bytes(&SystemEntropy)), session(random_bytes(&SystemEntropy)));
    fs::write(scratch.join(&dead), b"").expect("written");
    for name in [&dead, &older] {
        let work = scratch.join(format!("work-{name}"));
        fs::create_dir(&work).expect("made");
        fs::write(work.join("content"), b"scraps").expect("written");
    }
    let locks = Locks::new(scratch.clone(), "another examination".to_string());
    let (name, living) = locks.begin_session(&SystemEntropy).expect("a session");
    let own = scratch.join(format!("work-{name}"));
    fs::create_dir(&own).expect("made");

    let clock = SystemClock::new();
    let (disk, entropy) = (&SystemDisk, &SystemEntropy);
    let examiner = Examiner { disk, clock: &clock, entropy, depth: Depth::Quick };
    examine(folder.path(), &examiner).expect("examined");

    let mut left: Vec<_> = fs::read_dir(&scratch)
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    left.sort();
    assert_eq!(left, [name.clone(), format!("work-{name}")]);
    drop(living);
    fs::remove_dir(&own).expect("removed");
    examine(folder.path(), &examiner).expect("examined");
    assert!(!scratch.exists());
}

#[test]
fn what_is_no_directory_is_an_error_and_no_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, b"x").expect("written");
    let clock = SystemClock::new();
    let (disk, entropy) = (&SystemDisk, &SystemEntropy);
    let examiner = Examiner { disk, clock: &clock, entropy, depth: Depth::Quick };

    for path in [file, folder.path().join("none")] {
        let error = examine(&path, &examiner).expect_err("nothing to examine");
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }
}
