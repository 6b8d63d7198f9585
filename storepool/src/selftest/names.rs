//! Names: exclusive creation, replacement in one step, lists, and how different names may be.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Examiner;
use super::finding::Examination;
use crate::disk::Disk;

/// Length of the files that replace each other: more than one page, so that a torn one would show.
const CONTENT_LENGTH: usize = 3 * 4096 + 7;
/// Creators of one name at the same moment.
const CREATORS: usize = 4;
/// Looks of the reader that a verdict rests on, and how many replacements wait for them at most.
const LOOKS_LEAST: usize = 20;
const REPLACEMENTS_MOST: usize = 20_000;
/// Longest name that a pool gives a file: 64 digits, and what is added to them.
const POOL_NAME_LENGTH: usize = 80;
/// Longest name of a file on Linux.
const LONGEST_NAME: usize = 255;

/// Tries one thing in an empty folder of its own, and adds what it found.
type Check = fn(&Path, &Examiner<'_>, &mut Examination) -> io::Result<()>;

/// Tries all of it in the empty folder `folder`.
pub(super) fn examine(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) {
    let checks: [(&'static str, Check); 4] =
        [("create-only", create_only), ("replace", replace), ("list", list), ("names", names)];
    for (check, run) in checks {
        let own = folder.join(check);
        let tried = examiner.disk.create_directory(&own).and_then(|()| run(&own, examiner, found));
        if let Err(error) = tried {
            found.failed(check, &error);
        }
    }
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk.create(path)?.append(bytes)
}

fn create_only(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const CHECK: &str = "create-only";
    const ADVICE: &str =
        "use another disk: here one process would overwrite what another one has just written";
    let disk = examiner.disk;
    let path = folder.join("once");
    write(disk, &path, b"first")?;
    match disk.create(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(_) => {
            found.unfit(CHECK, "a file that exists can be created once more", ADVICE);
            return Ok(());
        }
    }
    if disk.read(&path, 64)? != b"first" {
        found.unfit(CHECK, "a refused creation has changed the file", ADVICE);
        return Ok(());
    }
    let rounds = examiner.rounds(5, 200);
    for round in 0..rounds {
        let path = folder.join(format!("{round}"));
        let created = std::thread::scope(|scope| {
            let creators: Vec<_> =
                (0..CREATORS).map(|_| scope.spawn(|| disk.create(&path).map(drop))).collect();
            let outcomes = creators.into_iter().map(|creator| {
                creator.join().unwrap_or_else(|_| Err(io::Error::other("a creator panicked")))
            });
            outcomes.collect::<Vec<_>>()
        });
        let mut winners = 0;
        for outcome in created {
            match outcome {
                Ok(()) => winners += 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        if winners != 1 {
            let seen = format!("of {CREATORS} creators of one file {winners} succeeded");
            found.unfit(CHECK, seen, ADVICE);
            return Ok(());
        }
    }
    found.good(CHECK, format!("exactly one of {CREATORS} creators succeeds, {rounds} times"));
    Ok(())
}

/// What a reader saw that it must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Torn {
    Nothing,
    Mixed,
}

fn replace(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const CHECK: &str = "replace";
    let disk = examiner.disk;
    let (path, next) = (folder.join("file"), folder.join("next"));
    let content = |round: usize| vec![(round % 251) as u8; CONTENT_LENGTH];
    write(disk, &path, &content(0))?;
    let (looks, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let rounds = examiner.rounds(20, 2000);
    let (replaced, torn) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let torn = look(disk, &path)?;
                looks.fetch_add(1, Ordering::SeqCst);
                if torn.is_some() {
                    return Ok(torn);
                }
            }
            Ok(None)
        });
        let enough = |round: usize| {
            (round >= rounds && looks.load(Ordering::SeqCst) >= LOOKS_LEAST)
                || round >= REPLACEMENTS_MOST
                || reader.is_finished()
        };
        let mut round = 0;
        let written = (|| {
            while !enough(round) {
                round += 1;
                write(disk, &next, &content(round))?;
                disk.rename(&next, &path)?;
            }
            Ok::<_, io::Error>(())
        })();
        ended.store(true, Ordering::SeqCst);
        let read = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        (written.map(|()| round), read)
    });
    let advice = "use another disk: here a reader meets half a file, or none, while it is replaced";
    match torn? {
        Some(Torn::Nothing) => {
            found.unfit(CHECK, "while a file is replaced there is none for a moment", advice);
            return Ok(());
        }
        Some(Torn::Mixed) => {
            found.unfit(CHECK, "while a file is replaced a reader sees a mixture", advice);
            return Ok(());
        }
        None => {}
    }
    let rounds = replaced?;
    if disk.read(&path, CONTENT_LENGTH as u64)? != content(rounds) || disk.exists(&next)? {
        found.unfit(CHECK, "a file that was renamed is not the one under its new name", advice);
        return Ok(());
    }
    let looks = looks.load(Ordering::SeqCst);
    found.good(CHECK, format!("{looks} readers of {rounds} replacements saw whole files only"));
    Ok(())
}

fn look(disk: &dyn Disk, path: &Path) -> io::Result<Option<Torn>> {
    match disk.read(path, CONTENT_LENGTH as u64) {
        Ok(bytes) => {
            let whole = bytes.len() == CONTENT_LENGTH && bytes.iter().all(|byte| *byte == bytes[0]);
            Ok((!whole).then_some(Torn::Mixed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Torn::Nothing)),
        // Longer than any version of it.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Torn::Mixed)),
        Err(error) => Err(error),
    }
}

fn list(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const CHECK: &str = "list";
    let disk = examiner.disk;
    let advice = "use another disk: here files of the pool would be overlooked";
    let names: Vec<_> =
        (0..examiner.rounds(20, 500)).map(|number| format!("{number}.pack")).collect();
    for (number, name) in names.iter().enumerate() {
        write(disk, &folder.join(name), b"")?;
        // Each time it would take long; the first ones show what the last one does.
        if (number < 10 || number + 1 == names.len()) && !disk.list(folder)?.contains(name) {
            found.unfit(CHECK, "a file that was just created is not listed", advice);
            return Ok(());
        }
    }
    let mut listed = disk.list(folder)?;
    listed.sort();
    let mut expected = names.clone();
    expected.sort();
    if listed != expected {
        found.unfit(CHECK, "a list does not show every file exactly once", advice);
        return Ok(());
    }
    disk.sync_directory(folder)?;
    for name in &names {
        disk.remove(&folder.join(name))?;
    }
    if !disk.list(folder)?.is_empty() {
        found.unfit(CHECK, "files that were removed are still listed", advice);
        return Ok(());
    }
    found.good(CHECK, format!("{} files come and go as they should", names.len()));
    Ok(())
}

fn names(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const CHECK: &str = "names";
    let disk = examiner.disk;
    let long = |length: usize| folder.join("n".repeat(length));
    if let Err(error) = write(disk, &long(POOL_NAME_LENGTH), b"x") {
        match error.kind() {
            io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
                let seen = format!("names of {POOL_NAME_LENGTH} letters are refused: {error}");
                found.unfit(CHECK, seen, "use another disk: a pool's names are that long");
                return Ok(());
            }
            _ => return Err(error),
        }
    }
    // What a pool does without; whoever restores to this disk does not.
    let mut missing = Vec::new();
    if write(disk, &long(LONGEST_NAME), b"x").is_err() {
        missing.push("names of 255 bytes are refused");
    }
    if write(disk, &folder.join(OsStr::from_bytes(b"\xff\xfe")), b"x").is_err() {
        missing.push("names that are not UTF-8 are refused");
    }
    write(disk, &folder.join("Letter"), b"x")?;
    if disk.exists(&folder.join("lETTER"))? {
        missing.push("capital and small letters are taken for the same");
    }
    match missing.is_empty() {
        true => found.good(CHECK, "long ones, any bytes, capital and small letters apart"),
        false => found.note(
            CHECK,
            missing.join(", "),
            "enough for a pool; do not restore other systems' files to this disk",
        ),
    }
    Ok(())
}
