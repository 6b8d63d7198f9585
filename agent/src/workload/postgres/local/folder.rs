//! A folder of the server, whose content is reached without following a link: whoever may write there must not choose what root reads elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    folder: OwnedFd,
    path: PathBuf,
}

/// What lies in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name.
    pub(super) name: OsString,
    /// What it is.
    pub(super) kind: FileType,
}

impl Folder {
    /// Opens the folder at a path, which the administrator chose: links on the way count.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { folder, path: path.to_path_buf() })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file below it.
    ///
    /// # Errors
    /// It is not there, is no regular file, or a link leads to it.
    pub(super) fn file(&self, below: &Path) -> io::Result<File> {
        // Nobody waits for who writes into a pipe.
        let file = File::from(self.below(below, OFlags::RDONLY | OFlags::NONBLOCK)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Looks at the file or folder below it; at the folder itself, if `below` is empty.
    pub(super) fn look(&self, below: &Path) -> io::Result<Stat> {
        let found = match below.as_os_str().is_empty() {
            true => rustix::fs::fstat(&self.folder)?,
            false => rustix::fs::fstat(self.below(below, OFlags::PATH)?)?,
        };
        Ok(found)
    }

    /// Lists what lies in a folder below it, by name.
    pub(super) fn list(&self, below: &Path) -> io::Result<Vec<Found>> {
        let own = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let folder = self.below(own, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system tells.
                FileType::Unknown => {
                    match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(rustix::io::Errno::NOENT) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                kind => kind,
            };
            found.push(Found { name: name.to_os_string(), kind });
        }
        found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Returns where a link that lies in it leads.
    pub(super) fn link(&self, name: &Path) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.folder, name, Vec::new())?;
        // What is relative goes on from where the link lies.
        Ok(self
            .path
            .join(name)
            .parent()
            .unwrap_or(&self.path)
            .join(OsStr::from_bytes(target.as_bytes())))
    }

    fn below(&self, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.folder, below, flags, Mode::empty(), resolve)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_reached_through_a_link() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::create_dir(inside.join("base")).unwrap();
        fs::write(inside.join("base/1"), "one").unwrap();
        symlink(&outside, inside.join("elsewhere")).unwrap();
        symlink(outside.join("secret"), inside.join("base/2")).unwrap();
        let folder = Folder::open(&inside).unwrap();

        let mut text = String::new();
        folder.file(Path::new("base/1")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        for stranger in ["elsewhere/secret", "base/2", "../outside/secret", "/etc/passwd", "base"] {
            assert!(folder.file(Path::new(stranger)).is_err(), "{stranger}");
        }
        assert!(folder.list(Path::new("elsewhere")).is_err());
        assert_eq!(folder.link(Path::new("elsewhere")).unwrap(), outside);
        let found = folder.list(Path::new("")).unwrap();
        let kinds: Vec<_> =
            found.iter().map(|one| (one.name.to_str().unwrap(), one.kind)).collect();
        assert_eq!(kinds, [("base", FileType::Directory), ("elsewhere", FileType::Symlink)]);
    }
}
