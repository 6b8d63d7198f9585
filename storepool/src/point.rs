//! Point files: a recovery point exists when its file does (`docs/format.md`, sections 2 and 6).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::Notes;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PointId};
use crate::manifest::{MANIFEST_LIMIT, Manifest};
use crate::marker::write_durably;

const NOTES_LIMIT: u64 = 1 << 20;

/// The `points` directory of one pool directory.
#[derive(Clone, Copy)]
pub struct PointFiles<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// The pool directory.
    pub directory: &'a Path,
}

/// The names found in a `points` directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointNames {
    /// Points with a file.
    pub points: BTreeSet<PointId>,
    /// Points marked as forgotten.
    pub forgotten: BTreeSet<PointId>,
}

impl PointFiles<'_> {
    /// Returns the directory's path.
    pub fn path(&self) -> PathBuf {
        self.directory.join("points")
    }

    /// Returns which points have files and which are marked as forgotten.
    pub fn names(&self) -> Result<PointNames> {
        let path = self.path();
        let mut names = PointNames::default();
        for name in self.disk.list(&path).map_err(Error::io("list", &path))? {
            let parsed = |suffix| name.strip_suffix(suffix).and_then(|id: &str| id.parse().ok());
            if let Some(point) = parsed(".point") {
                names.points.insert(point);
            } else if let Some(point) = parsed(".forgotten") {
                names.forgotten.insert(point);
            }
        }
        Ok(names)
    }

    /// Returns whether a point has a file.
    pub fn exists(&self, point: PointId) -> Result<bool> {
        let path = self.file(point, "point");
        self.disk.exists(&path).map_err(Error::io("look for", &path))
    }

    /// Reads the manifest of a point and compares it with the point's name.
    pub fn manifest(&self, point: PointId) -> Result<(Manifest, Vec<u8>)> {
        let path = self.file(point, "point");
        let bytes =
            self.disk.read(&path, MANIFEST_LIMIT as u64).map_err(Error::io("read", &path))?;
        let damaged = |reason: &str| Error::damaged(path.display().to_string(), reason);
        if ChunkId::of(ChunkKind::Manifest, &bytes) != ChunkId::from(point) {
            return Err(damaged("its content does not match its name"));
        }
        let manifest = Manifest::decode(&bytes).map_err(|error| damaged(error.0))?;
        Ok((manifest, bytes))
    }

    /// Writes a point's file durably: from here on the point exists.
    pub fn write(&self, point: PointId, manifest: &[u8], temporary: &Path) -> Result<()> {
        write_durably(self.disk, temporary, &self.file(point, "point"), manifest)
    }

    /// Reads the notes of a point; none if there is no such file.
    pub fn notes(&self, point: PointId) -> Result<Notes> {
        let path = self.file(point, "notes");
        match self.disk.read(&path, NOTES_LIMIT) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::damaged(path.display().to_string(), error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Notes::default()),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Replaces the notes of a point durably.
    pub fn write_notes(&self, point: PointId, notes: &Notes, temporary: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(notes).expect("text always has a JSON form");
        write_durably(self.disk, temporary, &self.file(point, "notes"), &bytes)
    }

    /// Marks a point as forgotten, durably: from here on it does not exist.
    pub fn mark_forgotten(&self, point: PointId) -> Result<()> {
        let path = self.file(point, "forgotten");
        match self.disk.create(&path) {
            Ok(mut file) => file.sync().map_err(Error::io("sync", &path))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", &path)(error)),
        }
        self.sync()
    }

    /// Removes the files of forgotten points; their marks stay.
    pub fn remove_points(&self, points: &[PointId]) -> Result<()> {
        for point in points {
            for suffix in ["point", "notes"] {
                self.remove_file(&self.file(*point, suffix))?;
            }
        }
        self.sync()
    }

    /// Removes the marks of forgotten points, once no directory has their files any more.
    pub fn remove_marks(&self, points: &[PointId]) -> Result<()> {
        for point in points {
            self.remove_file(&self.file(*point, "forgotten"))?;
        }
        self.sync()
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<()> {
        let path = self.path();
        self.disk.sync_directory(&path).map_err(Error::io("sync", &path))
    }

    fn file(&self, point: PointId, suffix: &str) -> PathBuf {
        self.path().join(format!("{point}.{suffix}"))
    }
}
