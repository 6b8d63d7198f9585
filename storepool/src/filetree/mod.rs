//! File trees of this machine as a data source.
//!
//! One directory is the root itself; several paths keep their absolute paths below a virtual root; a single file is a root with one
//! entry. All access is relative to open directories and never follows a symbolic link below the root.

mod directory;
mod filter;
mod owners;
mod virtual_root;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::entry::EntryPath;
use crate::error::{Error, Result};
use crate::filetree::directory::{TreeDirectory, stat_of};
use crate::filetree::filter::Filter;
use crate::filetree::virtual_root::VirtualDirectory;
use crate::manifest::Owners;
use crate::source::{DataSource, SourceDirectory, SourceError, SourceKind, SourceStat};

pub use crate::filetree::owners::OwnerNames;

/// What to leave out of a file tree.
#[derive(Clone, Debug, Default)]
pub struct FileTreeOptions {
    /// Patterns in the manner of `.gitignore`, relative to each path.
    pub exclude: Vec<String>,
    /// The same, without regard to upper and lower case.
    pub exclude_case_insensitive: Vec<String>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out the content of directories that hold such a file; `NAME` or `NAME:FIRST BYTES`.
    pub exclude_if_present: Vec<String>,
    /// Leave out files longer than so many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Stay on the file system of each path.
    pub one_file_system: bool,
    /// Directories that are never entered, such as the pool's own.
    pub never: Vec<PathBuf>,
}

/// One or several paths of this machine.
pub struct FileTree {
    paths: Vec<PathBuf>,
    filter: Arc<Filter>,
}

impl std::fmt::Debug for FileTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileTree").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl FileTree {
    /// Prepares the source; every path must exist now, since a missing source makes no point.
    ///
    /// # Errors
    /// [`Error::SourceFailed`] for a path that cannot be opened or a malformed pattern.
    pub fn open(paths: &[PathBuf], options: FileTreeOptions) -> Result<Self> {
        let failed =
            |name: &Path, cause| Error::SourceFailed { name: name.display().to_string(), cause };
        let mut absolute = Vec::new();
        for path in paths {
            let full = std::path::absolute(path).map_err(|cause| failed(path, cause))?;
            let full = lexically_clean(&full);
            std::fs::symlink_metadata(&full).map_err(|cause| failed(path, cause))?;
            absolute.push(full);
        }
        absolute.sort();
        absolute.dedup();
        let nested: Vec<_> = absolute
            .iter()
            .filter(|path| !absolute.iter().any(|other| *path != other && path.starts_with(other)))
            .cloned()
            .collect();
        if nested.is_empty() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "no path was given");
            return Err(failed(Path::new("files"), cause));
        }
        let filter = Filter::new(options).map_err(|message| {
            failed(&nested[0], io::Error::new(io::ErrorKind::InvalidInput, message))
        })?;
        Ok(Self { paths: nested, filter: Arc::new(filter) })
    }

    /// Returns the paths, absolute, sorted, none inside another.
    pub fn source_paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl DataSource for FileTree {
    fn workload(&self) -> &str {
        "files"
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
    }

    fn root(&self) -> std::result::Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        if let [only] = self.paths.as_slice() {
            let (stat, fd) = open_path(only)?;
            if stat.kind == SourceKind::Directory {
                let directory =
                    TreeDirectory::new(fd, EntryPath::root(), stat.device, self.filter.clone());
                return Ok((stat, Arc::new(directory)));
            }
            let parent = only.parent().unwrap_or(Path::new("/"));
            let name = only.file_name().unwrap_or_default().as_bytes();
            return VirtualDirectory::single(parent, name, self.filter.clone());
        }
        VirtualDirectory::root(&self.paths, self.filter.clone())
    }

    fn owners(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
        OwnerNames::load().select(users, groups)
    }
}

/// Removes "." and ".." by name only, as a shell shows them; symbolic links in the path given by the user are followed by the kernel.
pub fn lexically_clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

fn open_path(path: &Path) -> std::result::Result<(SourceStat, OwnedFd), SourceError> {
    let failed = |cause: rustix::io::Errno| SourceError::io("open", &cause.into());
    let stat = stat_of(rustix::fs::CWD, path.as_os_str().as_bytes()).map_err(failed)?;
    // A symlink given by name is followed, as `cp -r LINK/` would: people name what they mean.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if stat.kind == SourceKind::Symlink {
        let fd =
            rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let stat = directory::stat_of_fd(&fd).map_err(failed)?;
        return Ok((stat, fd));
    }
    let flags = if stat.kind == SourceKind::Directory {
        flags | OFlags::DIRECTORY
    } else {
        OFlags::PATH | OFlags::CLOEXEC
    };
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    Ok((stat, fd))
}
