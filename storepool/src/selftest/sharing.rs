//! What processes share: locks, and an index in SQLite whose users see each other's commits through shared memory.

use std::path::Path;

use super::Examiner;
use super::finding::Examination;
use crate::error::{Error, Result};
use crate::lock::{LockMode, Locks};
use crate::sqlite::{Database, Migration};

const SCHEMA: &[Migration] = &[Migration { sql: "CREATE TABLE trial (number INTEGER NOT NULL)" }];

/// Tries both in the folder `folder`.
pub(super) fn examine(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) {
    match locks(folder) {
        Ok(None) => found.good("locks", "one holder alone, or several who share"),
        Ok(Some(seen)) => found.unfit(
            "locks",
            seen,
            "use another disk: here two processes would change the pool at the same time",
        ),
        Err(error) => failed("locks", error, found),
    }
    match index(folder, examiner.rounds(3, 50)) {
        Ok(true) => found.good("index", "what one process commits, the other one reads"),
        Ok(false) => found.unfit(
            "index",
            "what was committed is not what is read",
            "use another disk: the pool's index does not work here",
        ),
        Err(error) => failed("index", error, found),
    }
}

fn failed(check: &'static str, error: Error, found: &mut Examination) {
    match error {
        Error::Io { cause, .. } => found.failed(check, &cause),
        error if super::is_full(&error) => {
            found.failed(check, &std::io::ErrorKind::StorageFull.into());
        }
        error => found.unfit(check, format!("it fails: {error}"), "use another disk"),
    }
}

// What is wrong, if anything is.
fn locks(folder: &Path) -> Result<Option<&'static str>> {
    // Two views: a lock belongs to an open file, not to a process, so that they stand for two processes.
    let [one, other] = ["one", "other"].map(|name| Locks::new(folder.into(), name.to_string()));
    let is_busy = |taken: Result<_>| match taken {
        Ok(_) => Ok(false),
        Err(Error::Busy { .. }) => Ok(true),
        Err(error) => Err(error),
    };
    let held = one.take("lock", LockMode::Exclusive)?;
    if !is_busy(other.take("lock", LockMode::Exclusive))? {
        return Ok(Some("two hold a lock that is for one"));
    }
    if !is_busy(other.take("lock", LockMode::Shared))? {
        return Ok(Some("a lock that is held alone can be shared"));
    }
    held.share()?;
    if is_busy(other.take("lock", LockMode::Shared))? {
        return Ok(Some("a lock that is held by one who shares it cannot be shared"));
    }
    if !is_busy(other.take("lock", LockMode::Exclusive))? {
        return Ok(Some("a lock that is shared can be held alone"));
    }
    drop(held);
    match is_busy(other.take("lock", LockMode::Exclusive))? {
        true => Ok(Some("a lock that was given up is still held")),
        false => Ok(None),
    }
}

fn index(folder: &Path, rounds: usize) -> Result<bool> {
    let path = folder.join("index.db");
    let one = Database::open(&path, SCHEMA)?;
    let other = Database::open(&path, SCHEMA)?;
    let count = |database: &Database| {
        database.read(|tx| tx.query_row("SELECT count(*) FROM trial", [], |row| row.get(0)))
    };
    for round in 1..=rounds as u64 {
        let (writer, reader) = if round % 2 == 1 { (&one, &other) } else { (&other, &one) };
        writer.write(|tx| {
            tx.execute("INSERT INTO trial (number) VALUES (?1)", [round as i64])?;
            Ok(())
        })?;
        let seen: u64 = count(reader)?;
        if seen != round {
            return Ok(false);
        }
    }
    Ok(one.integrity()?.is_none())
}
