//! The disk seam: every file of a pool except the index database is touched through here.
//!
//! A narrow trait so that a simulated disk can lose, tear and refuse writes exactly where a real one may. What must survive a crash
//! is synced by the caller: nothing is durable before [`DiskWrite::sync`] **and** [`Disk::sync_directory`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Room on the file system of a directory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// What this process may still write.
    pub available: u64,
}

/// A file being written, from its beginning to its end.
pub trait DiskWrite: Send {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes content and length durable. After an error the file is worthless: the kernel may have dropped the bytes.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file open for reading at any place.
pub trait DiskRead: Send + Sync {
    /// Returns the length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; fails if the file is shorter.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The file operations that a pool needs.
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskWrite>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskRead>>;
    /// Reads a whole small file; refuses one longer than `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Renames a file within a file system, replacing an existing one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. One that does not exist is an error of kind `NotFound`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory, in no order, without `.` and `..`.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; fine if it exists.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Returns whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Returns the room on the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Makes a file of `length` bytes whose room is really taken, or makes one that is there so long.
    fn allocate(&self, path: &Path, length: u64) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Default)]
pub struct SystemDisk;

struct SystemFile(File);

impl DiskWrite for SystemFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl DiskRead for SystemFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskWrite>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskRead>> {
        Ok(Arc::new(SystemFile(File::open(path)?)))
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than it can be"));
        }
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            // Names of a pool are ASCII; anything else is not ours and would be no match anyway.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn allocate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => fill_with_zeros(file, length),
            Err(error) => Err(error.into()),
        }
    }
}

fn fill_with_zeros(mut file: File, length: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let part = left.min(zeros.len() as u64) as usize;
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    Ok(())
}
