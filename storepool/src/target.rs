//! The directory a restore writes into. Every system call starts at its handle and stays beneath it: no symlink below the root is
//! ever followed, not even one that another process puts there at this moment.
//!
//! `openat2` resolves whole paths that way in one call; where the kernel has none, paths are walked one component at a time.

pub(crate) mod attributes;
pub(crate) mod parts;

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result as SystemResult};

use crate::error::{Error, Result};

/// Longest path given to one call; the kernel's limit is 4,096.
const PATH_MOST: usize = 4000;
/// The kernel may answer "try again" when directories are renamed meanwhile.
const RACES_MOST: usize = 64;

/// What a target was when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It did not exist.
    Created,
    /// It was a directory without entries.
    Empty,
    /// It had entries.
    Occupied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    Kernel,
    Stepwise,
}

/// An open target directory.
#[derive(Debug)]
pub struct DirectoryTarget {
    path: PathBuf,
    root: OwnedFd,
    state: TargetState,
    resolution: Resolution,
}

impl DirectoryTarget {
    /// Opens the directory `path`. One that does not exist is made, with its parents, and gets `mode`. Symlinks in `path` itself are followed:
    /// they are the caller's.
    ///
    /// # Errors
    /// [`Error::Target`] if it is no directory or cannot be opened.
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        let failed = |cause: std::io::Error| match cause.kind() {
            ErrorKind::StorageFull => Error::TargetFull { path: path.to_path_buf() },
            _ => Error::Target {
                path: path.to_path_buf(),
                reason: format!("it cannot be created: {cause}"),
            },
        };
        let mut created = false;
        if !path.exists() {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            match rustix::fs::mkdir(path, Mode::from_bits_truncate(mode)) {
                Ok(()) => created = true,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        let mut target = Self::open(path)?;
        if created {
            target.state = TargetState::Created;
        }
        Ok(target)
    }

    /// Opens the directory `path`, which must exist.
    ///
    /// # Errors
    /// [`Error::Target`] if it is no directory or cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |errno: Errno| Error::Target {
            path: path.to_path_buf(),
            reason: format!("it cannot be opened as a directory: {}", std::io::Error::from(errno)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let empty = names_in(root.as_fd()).map_err(failed)?.is_empty();
        let state = if empty { TargetState::Empty } else { TargetState::Occupied };
        // An old kernel has no such call; a container's filter may forbid it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let probe = rustix::fs::openat2(&root, ".", flags, Mode::empty(), beneath());
        let resolution = if probe.is_ok() { Resolution::Kernel } else { Resolution::Stepwise };
        Ok(Self { path: path.to_path_buf(), root, state, resolution })
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what it was when it was opened.
    pub fn state(&self) -> TargetState {
        self.state
    }

    /// Resolves paths one component at a time, as on a kernel without `openat2`.
    #[cfg(test)]
    pub(crate) fn stepwise(mut self) -> Self {
        self.resolution = Resolution::Stepwise;
        self
    }

    /// Opens or creates what is at `path` below the root. The empty path is the root. `path` has no `.` or `..`.
    pub fn open_beneath(&self, path: &[u8], flags: OFlags, mode: Mode) -> SystemResult<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_empty() {
            return self.resolve(self.root.as_fd(), b".", flags, mode);
        }
        let mut reached: Option<OwnedFd> = None;
        let mut rest = path;
        let longest = if self.resolution == Resolution::Kernel { PATH_MOST } else { 0 };
        loop {
            let from = reached.as_ref().map_or(self.root.as_fd(), |handle| handle.as_fd());
            if rest.len() <= longest {
                return self.resolve(from, rest, flags, mode);
            }
            let Some(cut) = next_cut(rest, longest) else {
                return self.resolve(from, rest, flags, mode);
            };
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            reached = Some(self.resolve(from, &rest[..cut], step, Mode::empty())?);
            rest = &rest[cut + 1..];
        }
    }

    /// Opens the directory at `path` for calls relative to it; it cannot be listed or changed through this handle.
    pub fn directory(&self, path: &[u8]) -> SystemResult<OwnedFd> {
        self.open_beneath(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    fn resolve(
        &self,
        from: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> SystemResult<OwnedFd> {
        if self.resolution == Resolution::Stepwise {
            return rustix::fs::openat(from, path, flags, mode);
        }
        for _ in 0..RACES_MOST {
            match rustix::fs::openat2(from, path, flags, mode, beneath()) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

// The last slash within `longest` bytes, else the first one at all.
fn next_cut(path: &[u8], longest: usize) -> Option<usize> {
    let slash = |byte: &u8| *byte == b'/';
    path[..longest].iter().rposition(slash).or_else(|| path.iter().position(slash))
}

/// Returns the names in an open directory, without `.` and `..`.
pub(crate) fn names_in(directory: BorrowedFd<'_>) -> SystemResult<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// Returns what is at `name` in `parent`, a symlink itself and not what it points to; `None` if there is nothing.
pub(crate) fn look_at(parent: BorrowedFd<'_>, name: &[u8]) -> SystemResult<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns the kind of file.
pub(crate) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Returns what tells one file from all others of this machine: device and inode.
pub(crate) fn identity_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
