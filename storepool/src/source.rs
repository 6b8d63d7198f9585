//! What a workload hands over to a backup: a tree of entries that can be listed, examined and read.
//!
//! Errors here concern one entry and become problems of the point; they never become errors of the pool, nor the other way round
//! (Borg once took a full pool disk for an unreadable source file and reported success).

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use crate::entry::{EntryPath, FileTime, Run, Xattr, display_bytes};
use crate::manifest::{Owners, ProblemKind};

/// Why one entry of a source could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What kind of problem it is for the point.
    pub kind: ProblemKind,
    /// What happened, for people.
    pub message: String,
}

impl SourceError {
    /// Returns the error for a failed system call: vanished if the entry is gone, else unreadable.
    pub fn io(action: &str, cause: &io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => ProblemKind::Vanished,
            _ => ProblemKind::Unreadable,
        };
        Self { kind, message: format!("cannot {action}: {cause}") }
    }
}

/// Kinds of entries in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SourceKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// What a program or a server hands over once, from its beginning to its end, and of whose length only the end tells. It becomes a regular file.
    Stream,
}

/// What one cheap look at an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceStat {
    /// Its kind.
    pub kind: SourceKind,
    /// The 12 permission bits.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes really allocated; less than `size` hints at holes.
    pub allocated: u64,
    /// Last change of content.
    pub mtime: FileTime,
    /// Last change of the inode.
    pub ctime: FileTime,
    /// Inode number.
    pub inode: u64,
    /// File system.
    pub device: u64,
    /// Device numbers, for devices.
    pub special: (u32, u32),
}

/// What takes further looks: only asked for entries that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceDetail {
    /// Extended attributes sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Inode flags, if any is set.
    pub inode_flags: Option<u32>,
    /// Target of a symlink.
    pub target: Vec<u8>,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEntry {
    /// Its name.
    pub name: Box<[u8]>,
    /// What it looks like.
    pub stat: SourceStat,
}

/// The entries of a directory, sorted by name, and what could not be examined.
#[derive(Debug, Default)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<SourceEntry>,
    /// Names that were there but could not be examined.
    pub problems: Vec<(Box<[u8]>, SourceError)>,
}

/// How content is made, which says where it is best cut into chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Texture {
    /// Anything: cut where the content itself says.
    #[default]
    Plain,
    /// Pages of a database, which change in place and never move: cut at fixed distances from where they begin.
    Pages,
}

/// What a program or a server hands over once, from its beginning to its end. Read by one thread, and dropped by it.
pub trait SourceStream: Send {
    /// Reads what comes next into `room`, and returns how many bytes that are and their texture: all bytes of one reading have the same. No byte is
    /// the end. A run of pages begins where the texture changes.
    fn read(&mut self, room: &mut [u8]) -> io::Result<(usize, Texture)>;
}

/// A stream of bytes of which nothing is known.
#[derive(Debug)]
pub struct PlainStream<R>(pub R);

impl<R: Read + Send> SourceStream for PlainStream<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<(usize, Texture)> {
        Ok((self.0.read(room)?, Texture::Plain))
    }
}

/// A directory of a source.
pub trait SourceDirectory: Send + Sync {
    /// Lists the directory, exclusions applied.
    fn list(&self) -> Result<Listing, SourceError>;

    /// Opens a directory below this one.
    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError>;

    /// Opens a regular file for reading.
    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError>;

    /// Opens a stream, which is read to its end. An error of the opening is a problem of this entry, which is left out; a stream that cannot come to a sound end fails with its last reading, and then there is no point. All streams
    /// of a source are read one at a time, those of a directory in the order of their names; a stream may be left behind, and then dropped by another
    /// thread, when the run is interrupted.
    fn stream(&self, entry: &SourceEntry) -> Result<Box<dyn SourceStream>, SourceError> {
        Err(SourceError {
            kind: ProblemKind::Unsupported,
            message: format!("\"{}\" is no stream", display_bytes(&entry.name)),
        })
    }

    /// Looks closer at an entry that is neither file nor directory.
    fn detail(&self, entry: &SourceEntry) -> Result<SourceDetail, SourceError>;

    /// Looks closer at this directory itself.
    fn own_detail(&self) -> Result<SourceDetail, SourceError>;
}

/// An open file of a source; several threads may read it at different places.
pub trait SourceFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes from `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Looks at the file as it is now.
    fn stat(&self) -> io::Result<SourceStat>;

    /// Looks closer.
    fn detail(&self) -> Result<SourceDetail, SourceError>;

    /// Returns the holes and data between `start` and `end`; a hole at the end is left out.
    fn runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>>;
}

/// A tree of entries to back up.
pub trait DataSource: Send + Sync {
    /// Kind of workload, such as `files`.
    fn workload(&self) -> &str;

    /// What is backed up, as the user named it.
    fn paths(&self) -> Vec<Vec<u8>>;

    /// Returns the root: its stat (the name is ignored) and the directory itself.
    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError>;

    /// Returns the names of these users and groups.
    fn owners(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners;

    /// Ends the reading: called once, when everything was read and before the point exists. Returns what the workload keeps in the point beside the
    /// tree, JSON or nothing.
    ///
    /// # Errors
    /// What was read is not sound, or not all: then there is no point.
    fn finish(&self) -> Result<String, SourceError> {
        Ok(String::new())
    }

    /// Returns problems of entries that only the whole reading showed; called once, after [`DataSource::finish`]. They become problems of the point.
    fn doubts(&self) -> Vec<(EntryPath, SourceError)> {
        Vec::new()
    }
}
