//! The examination of a disk before a pool is trusted to it: does it keep what the pool's promises rest on?
//!
//! Each promise is tried on scratch files, and what the system tells of the place is read beside it. What cannot be tried from here is
//! said as well: an examination that is passed proves that nothing wrong was seen, not that a power cut loses nothing. What each check
//! means is in `docs/storage.md`.

mod content;
mod device;
mod finding;
mod mounted;
mod names;
mod place;
pub mod scratch;
mod sharing;

use std::path::Path;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::error::{Error, Result};

pub use finding::{Examination, Finding, Grade};

/// What a directory is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A pool, whose processes share memory through a file.
    Pool,
    /// A vault, whose users need nothing but files.
    Vault,
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What takes a fraction of a second: for commands that look before they go to work.
    Quick,
    /// More rounds of everything, and how fast it is: some seconds.
    Full,
}

/// What an examination works with.
pub struct Examiner<'a> {
    /// The files, all but lock files and the index.
    pub disk: &'a dyn Disk,
    /// How long things take.
    pub clock: &'a dyn Clock,
    /// Names and contents of scratch files.
    pub entropy: &'a dyn Entropy,
    /// How much is tried.
    pub depth: Depth,
}

impl Examiner<'_> {
    fn rounds(&self, quick: usize, full: usize) -> usize {
        match self.depth {
            Depth::Quick => quick,
            Depth::Full => full,
        }
    }
}

/// Examines the directory `path`. Nothing is left behind; what a killed examination left there is removed.
///
/// # Errors
/// [`Error::Io`] if it is no directory or nothing may be written there: then nothing was found out.
pub fn examine(path: &Path, examiner: &Examiner<'_>) -> Result<Examination> {
    if !std::fs::metadata(path).map_err(Error::io("look at", path))?.is_dir() {
        return Err(Error::io("examine", path)(std::io::ErrorKind::NotADirectory.into()));
    }
    let mut found = look(path, Purpose::Pool);
    if found.grade() == Grade::Unfit {
        return Ok(found);
    }
    let medium = place::medium(path);
    let scratch = match scratch::Scratch::create(path, examiner.entropy) {
        Ok(scratch) => scratch,
        Err(error) if is_full(&error) => {
            let advice = "make room, then examine it again";
            found.unfit("space", "it is full: nothing could be tried", advice);
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    names::examine(scratch.path(), examiner, &mut found);
    sharing::examine(scratch.path(), examiner, &mut found);
    content::examine(scratch.path(), examiner, medium, &mut found);
    Ok(found)
}

/// Says what the system tells of the place of the directory `path`, without writing anything there.
pub fn look(path: &Path, purpose: Purpose) -> Examination {
    let mut found = Examination::default();
    place::examine(path, purpose, &mut found);
    found
}

fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        Error::NoSpace { .. } => true,
        Error::Io { cause, .. } => matches!(cause.kind(), StorageFull | QuotaExceeded),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
