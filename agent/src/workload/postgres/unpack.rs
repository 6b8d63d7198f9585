//! An archive of a base into a folder. The control file is put there under another name: a cluster that is not whole must not start.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::archive::{Archive, Malformed, Member, MemberKind, Visitor};
use super::error::PostgresError;

/// Where PostgreSQL looks first; without it no cluster starts.
pub(super) const CONTROL: &str = "global/pg_control";
/// What it is called until everything else is there.
pub(super) const CONTROL_UNTIL_DONE: &str = "global/pg_control.restoring";

/// Who owns what is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Who restores it.
    Oneself,
    /// This user and group.
    Numbers(u32, u32),
    /// Whose numbers the archive names.
    Recorded,
}

/// Takes the bytes of an archive and writes its members.
pub(super) struct Unpacker {
    archive: Archive,
    members: Members,
}

impl Unpacker {
    /// Creates the unpacker of one archive into `folder`, which is there.
    pub(super) fn new(folder: &Path, owner: Owner) -> Self {
        let members =
            Members { folder: folder.to_path_buf(), owner, open: None, files: 0, bytes: 0 };
        Self { archive: Archive::new(), members }
    }

    /// Says that there is no more. Returns how many files there were, and their bytes.
    pub(super) fn finish(self) -> Result<(u64, u64), Malformed> {
        self.archive.finish()?;
        Ok((self.members.files, self.members.bytes))
    }
}

impl Write for Unpacker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.archive.push(bytes, &mut self.members)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Members {
    folder: PathBuf,
    owner: Owner,
    open: Option<File>,
    files: u64,
    bytes: u64,
}

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        Self::other(error)
    }
}

impl Visitor for Members {
    type Failure = io::Error;

    fn begin(&mut self, member: &Member) -> io::Result<()> {
        let path = match member.path.as_path() == Path::new(CONTROL) {
            true => self.folder.join(CONTROL_UNTIL_DONE),
            false => self.folder.join(&member.path),
        };
        let named = |error| naming(&path, error);
        match member.kind {
            MemberKind::Directory => {
                match fs::create_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(named(error));
                    }
                    _ => {}
                }
                let folder = File::open(&path).map_err(named)?;
                self.settle(&folder, member).map_err(named)
            }
            MemberKind::File => {
                // Never through a link, and never over something else.
                let file = File::options().write(true).create_new(true).open(&path);
                let file = file.map_err(named)?;
                self.settle(&file, member).map_err(named)?;
                self.files += 1;
                self.open = Some(file);
                Ok(())
            }
            // Tablespaces get their links from the tablespace map when the cluster starts.
            MemberKind::Symlink => Ok(()),
        }
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        match &mut self.open {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.open = None;
        Ok(())
    }
}

impl Members {
    fn settle(&self, file: &File, member: &Member) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(member.mode & 0o770))?;
        match self.owner {
            Owner::Oneself => Ok(()),
            Owner::Numbers(user, group) => fchown(file, Some(user), Some(group)),
            Owner::Recorded => fchown(file, Some(member.uid), Some(member.gid)),
        }
    }
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Gives one thing to its owner.
pub(super) fn give(path: &Path, owner: Owner, recorded: (u32, u32)) -> Result<(), PostgresError> {
    let (user, group) = match owner {
        Owner::Oneself => return Ok(()),
        Owner::Numbers(user, group) => (user, group),
        Owner::Recorded => recorded,
    };
    std::os::unix::fs::chown(path, Some(user), Some(group))
        .map_err(PostgresError::file("give away", path))
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{header, member};
    use super::*;

    #[test]
    fn members_come_to_their_places_and_the_control_file_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = header(b"global/", b'5', 0);
        bytes.extend(member("global/pg_control", b"control"));
        bytes.extend(member("PG_VERSION", b"15\n"));

        let mut unpacker = Unpacker::new(folder.path(), Owner::Oneself);
        unpacker.write_all(&bytes).unwrap();

        assert_eq!(unpacker.finish().unwrap(), (2, 10));
        assert!(!folder.path().join(CONTROL).exists());
        assert_eq!(fs::read(folder.path().join(CONTROL_UNTIL_DONE)).unwrap(), b"control");
        assert_eq!(fs::read(folder.path().join("PG_VERSION")).unwrap(), b"15\n");
    }

    #[test]
    fn nothing_is_written_through_a_link_or_over_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(&outside, b"mine").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("PG_VERSION")).unwrap();

        let mut unpacker = Unpacker::new(&inside, Owner::Oneself);

        assert!(unpacker.write_all(&member("PG_VERSION", b"15\n")).is_err());
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
    }
}
