//! What can go wrong in a pool: facts, never advice.
//!
//! Errors of a *source* (an unreadable file) are [`crate::source::SourceError`] and become problems of a point; everything here is a
//! failure of the pool itself or of an operation on it. There is deliberately no conversion from the one to the other.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::id::{ChunkId, PackId, PointId, PoolId};
use crate::size::Size;

/// The result of an operation on a pool.
pub type Result<T> = std::result::Result<T, Error>;

/// A fact that stopped an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory has no marker file.
    #[error("there is no pool in {path}")]
    NoPool {
        /// The directory that was looked at.
        path: PathBuf,
    },
    /// A new pool was to be made where something is already.
    #[error("{path} is already part of a pool")]
    PoolExists {
        /// The directory.
        path: PathBuf,
    },
    /// A new pool was to be made in a directory that holds other things.
    #[error("{path} is not empty")]
    DirectoryNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Directories of different pools were given as one.
    #[error("{path} belongs to pool {found}, not to pool {expected}")]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// The pool the directory belongs to.
        found: PoolId,
        /// The pool it was opened as.
        expected: PoolId,
    },
    /// A directory of the pool is not there, and the operation needs it.
    #[error("pool directory {path} is missing")]
    DirectoryMissing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The format was written by a newer version.
    #[error("{object} has format {found}; this version reads up to {supported}")]
    NewerFormat {
        /// What was read.
        object: String,
        /// Its version.
        found: u64,
        /// The newest version this build knows.
        supported: u64,
    },
    /// A small file of the pool cannot be understood.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// What was read.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pack's bytes are wrong.
    #[error("pack {pack} is damaged: {reason}")]
    PackDamaged {
        /// The pack.
        pack: PackId,
        /// What is wrong with it.
        reason: String,
    },
    /// A pack's file is not where the index says.
    #[error("pack {pack} is missing")]
    PackMissing {
        /// The pack.
        pack: PackId,
    },
    /// A chunk's bytes do not match its name.
    #[error("chunk {} is damaged in pack {}", chunk.short(), pack.short())]
    ChunkDamaged {
        /// The chunk.
        chunk: ChunkId,
        /// The pack it was read from.
        pack: PackId,
    },
    /// No pack holds the chunk.
    #[error("chunk {} is missing from the pool", chunk.short())]
    ChunkMissing {
        /// The chunk.
        chunk: ChunkId,
    },
    /// No point has this name.
    #[error("no recovery point matches \"{name}\"")]
    PointNotFound {
        /// What was asked for.
        name: String,
    },
    /// Several points begin with this name.
    #[error("\"{name}\" matches {count} recovery points")]
    PointAmbiguous {
        /// What was asked for.
        name: String,
        /// How many match.
        count: usize,
    },
    /// The path does not exist in the point.
    #[error("there is no \"{path}\" in point {}", point.short())]
    PathNotFound {
        /// The path asked for.
        path: String,
        /// The point looked into.
        point: PointId,
    },
    /// Somebody else holds a lock that this operation needs.
    #[error("the pool is in use by {holder}")]
    Busy {
        /// Who holds it: command, process and host.
        holder: String,
    },
    /// Writing would use up the reserve, or the disk is full.
    #[error(
        "no space left for the pool in {path}{}",
        shortage.map(|shortage| format!(": {shortage}")).unwrap_or_default()
    )]
    NoSpace {
        /// The directory (or the fullest of several).
        path: PathBuf,
        /// What is lacking; `None` if the disk itself is full.
        shortage: Option<Shortage>,
    },
    /// The source as a whole could not be read: no point is made.
    #[error("the source {name} cannot be read")]
    SourceFailed {
        /// The source.
        name: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Something in the target of a restore stops the whole restore.
    #[error("cannot restore into {path}: {reason}")]
    Target {
        /// The target directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The target of a restore has no room left; what was finished stays.
    #[error("no space left in the target {path}")]
    TargetFull {
        /// The target directory.
        path: PathBuf,
    },
    /// A file's content was asked for, and the entry has none.
    #[error("\"{path}\" is not a regular file")]
    NotAFile {
        /// The path in the point.
        path: String,
    },
    /// A system call on a file of the pool failed.
    #[error("cannot {action} {path}")]
    Io {
        /// A verb: "read", "write", "sync", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The index database failed.
    #[error("the pool's index {path} failed: {detail}")]
    Index {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
        /// Whether the file itself is damaged, so that it must be rebuilt.
        corrupt: bool,
    },
    /// The SQLite library is one with a known data-loss bug.
    #[error("SQLite {version} is too old: versions before 3.51.3 can lose committed data")]
    SqliteTooOld {
        /// The version linked.
        version: String,
    },
    /// The operation was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// A limit of the format would be passed.
    #[error("{object} is too large: {reason}")]
    TooLarge {
        /// What.
        object: String,
        /// The limit.
        reason: String,
    },
    /// A worker thread panicked; nothing of the run was committed.
    #[error("internal error in {stage}")]
    WorkerPanicked {
        /// Which part.
        stage: &'static str,
    },
}

/// A disk that is not full, but has no room to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes available to this process.
    pub available: u64,
    /// Bytes of them that only prune may use.
    pub reserve: u64,
    /// Bytes that have to be free beside the reserve.
    pub needed: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [available, reserve, needed] = [self.available, self.reserve, self.needed].map(Size);
        write!(f, "{available} are free, {needed} are needed beside a reserve of {reserve}")
    }
}

impl Error {
    /// Returns a closure that wraps an [`io::Error`] with what was done to which file. A full disk becomes [`Error::NoSpace`].
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { path, shortage: None }
            }
            _ => Error::Io { action, path, cause },
        }
    }

    /// Returns an error for bytes that break the format.
    pub fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Damaged { object: object.into(), reason: reason.into() }
    }

    /// Returns whether the error says that stored bytes are wrong or gone, as opposed to an operation that could not run.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Damaged { .. }
                | Error::PackDamaged { .. }
                | Error::PackMissing { .. }
                | Error::ChunkDamaged { .. }
                | Error::ChunkMissing { .. }
        )
    }
}
