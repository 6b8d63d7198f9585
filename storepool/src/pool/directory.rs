//! The directories of a pool, one on each disk: what lies in them, which are there, and how much room they have.

use std::path::{Path, PathBuf};

use super::Pool;
use crate::disk::Disk;
use crate::error::{Error, Result, Shortage};
use crate::id::{DirectoryId, hex};
use crate::index::DirectoryNo;
use crate::marker::{MARKER_NAME, Marker};
use crate::selftest::scratch::SCRATCH_NAME;
use crate::space::{Reserve, keep_ballast};

/// One directory of a pool.
#[derive(Clone, Debug)]
pub struct PoolDirectory {
    /// Its number in the index.
    pub no: DirectoryNo,
    /// Its id.
    pub id: DirectoryId,
    /// Where it is; `None` if it was not found under any of the given paths.
    pub path: Option<PathBuf>,
}

impl Pool {
    /// Returns all directories, missing ones included.
    pub fn directories(&self) -> &[PoolDirectory] {
        &self.directories
    }

    /// Returns the given paths under which no directory of the pool was found.
    pub fn missing_paths(&self) -> &[PathBuf] {
        &self.missing_paths
    }

    /// Returns the paths of the directories that are there.
    pub fn present_paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().filter_map(|directory| directory.path.as_deref())
    }

    /// Returns whether every directory of the pool is there.
    pub fn is_whole(&self) -> bool {
        self.directories.iter().all(|directory| directory.path.is_some())
    }

    /// Returns the path of the directory with this number, if it is there.
    pub fn directory_path(&self, no: DirectoryNo) -> Option<&Path> {
        self.directories.iter().find(|directory| directory.no == no)?.path.as_deref()
    }

    /// Returns the directory with the most room for another pack, `avoid` left out.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if every disk is down to its reserve (`use_reserve`: to nothing).
    pub fn roomiest_directory(
        &self,
        use_reserve: bool,
        avoid: Option<DirectoryNo>,
    ) -> Result<(DirectoryNo, PathBuf)> {
        let reserve = if use_reserve { Reserve::Bytes(0) } else { self.options.reserve };
        let needed = self.options.pack_length * 2;
        let mut best: Option<(u64, &PoolDirectory, &Path)> = None;
        for directory in self.directories.iter().filter(|directory| Some(directory.no) != avoid) {
            let Some(path) = directory.path.as_deref() else { continue };
            let room = reserve.room(&*self.world.disk, path)?;
            if best.is_none_or(|(most, ..)| room > most) {
                best = Some((room, directory, path));
            }
        }
        let Some((room, directory, path)) = best else {
            let path = self.present_paths().next().map(Path::to_path_buf).unwrap_or_default();
            return Err(Error::NoSpace { path, shortage: None });
        };
        // The reserve may be all there is: then anything that fits may be tried, the disk itself says no.
        if room >= needed || use_reserve {
            return Ok((directory.no, path.to_path_buf()));
        }
        let space = self.world.disk.space(path).map_err(Error::io("measure", path))?;
        let reserve = self.options.reserve.bytes(space);
        let shortage = Shortage { available: space.available, reserve, needed };
        Err(Error::NoSpace { path: path.to_path_buf(), shortage: Some(shortage) })
    }

    /// Sees to the ballast of every directory; see [`keep_ballast`].
    pub(crate) fn keep_ballast(&self) {
        for directory in self.present_paths() {
            keep_ballast(&*self.world.disk, directory);
        }
    }
}

/// Fails if `path` holds anything that is not what an interrupted `create` leaves.
pub(crate) fn require_empty(disk: &dyn Disk, path: &Path) -> Result<()> {
    if Marker::read(disk, path)?.is_some() {
        return Err(Error::PoolExists { path: path.to_path_buf() });
    }
    match disk.list(path) {
        Ok(names) => {
            // What an interrupted `create` or examination may have left.
            let ours = ["packs", "points", "tmp", "locks", "reserve", "lost+found", SCRATCH_NAME];
            let marker = format!("{MARKER_NAME}.new");
            if names.iter().all(|name| ours.contains(&name.as_str()) || *name == marker) {
                Ok(())
            } else {
                Err(Error::DirectoryNotEmpty { path: path.to_path_buf() })
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("list", path)(error)),
    }
}

/// Makes the directories inside a pool directory, and the ballast.
pub(crate) fn prepare_directory(disk: &dyn Disk, path: &Path) -> Result<()> {
    let exists = |name: &str| disk.exists(&path.join(name)).unwrap_or(false);
    let groups = disk.list(&path.join("packs")).map_or(0, |names| names.len());
    // Counted, because tools that copy a pool may leave empty folders out.
    if exists("tmp") && exists("points") && exists("locks") && groups >= 256 {
        return Ok(());
    }
    for name in ["packs", "points", "locks"] {
        let directory = path.join(name);
        disk.create_directory(&directory).map_err(Error::io("create", &directory))?;
    }
    for byte in 0..=255u8 {
        let directory = path.join("packs").join(hex(&[byte]));
        disk.create_directory(&directory).map_err(Error::io("create", &directory))?;
    }
    let packs = path.join("packs");
    disk.sync_directory(&packs).map_err(Error::io("sync", &packs))?;
    keep_ballast(disk, path);
    // Last: its presence says that the others are there.
    let temporary = path.join("tmp");
    disk.create_directory(&temporary).map_err(Error::io("create", &temporary))?;
    disk.sync_directory(path).map_err(Error::io("sync", path))
}
