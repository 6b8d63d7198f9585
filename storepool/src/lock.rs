//! Locks between processes: files held with `flock(2)`, so a killed process leaves nothing that a person has to remove.
//!
//! | Lock | Held by | How |
//! | --- | --- | --- |
//! | `pool` | every open pool | shared; exclusive while the index is made anew, and for repair and changes of membership |
//! | `pool` in the other directories | prune, repair, changes of membership | exclusive: who opened the pool while its first directory was away is seen |
//! | `prune` | prune, drain | exclusive |
//! | `session-*` | each session | exclusive, for as long as the session lives |
//!
//! The content of a lock file names its holder for people; only the kernel's lock decides.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::entropy::{Entropy, random_bytes};
use crate::error::{Error, Result};
use crate::id::hex;

/// Longest holder text that is read from a lock file.
const HOLDER_LIMIT: u64 = 1024;
/// How often, and after which pauses, it is looked for the name of a holder that has just got its lock.
const SIGNING_LOOKS: u32 = 10;
const SIGNING_PAUSE: Duration = Duration::from_millis(5);

/// Whether others may hold the lock too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Others may hold it shared.
    Shared,
    /// Nobody else holds it.
    Exclusive,
}

/// A lock held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct HeldLock {
    file: File,
    path: PathBuf,
    remove: bool,
}

/// The locks of a pool, as files of one directory.
#[derive(Clone, Debug)]
pub struct Locks {
    directory: PathBuf,
    holder: String,
}

impl Locks {
    /// Creates the view of the locks in `directory`; `holder` names this process to others, such as
    /// `keepwell backup (process 17 on web1)`.
    pub fn new(directory: PathBuf, holder: String) -> Self {
        Self { directory, holder }
    }

    /// Returns the directory of the lock files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the lock `name`, without waiting.
    ///
    /// # Errors
    /// [`Error::Busy`] naming the holder.
    pub fn take(&self, name: &str, mode: LockMode) -> Result<HeldLock> {
        let path = self.directory.join(name);
        let mut file = open(&path)?;
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, operation) {
            Ok(()) => {
                if mode == LockMode::Exclusive {
                    self.sign(&mut file, &path)?;
                }
                Ok(HeldLock { file, path, remove: false })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::Busy { holder: self.holder_of(&path) })
            }
            Err(error) => Err(Error::io("lock", &path)(error.into())),
        }
    }

    /// Makes and holds a lock file of a new random name; it is removed when dropped.
    pub fn begin_session(&self, entropy: &dyn Entropy) -> Result<(String, HeldLock)> {
        loop {
            let name = format!("session-{}", hex(&random_bytes::<8>(entropy)));
            let path = self.directory.join(&name);
            let mut file = open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // Somebody is just looking whether it is alive: take another name.
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(Error::io("lock", &path)(error.into())),
            }
            // Somebody may have taken it for dead between the creation and the lock, and removed it.
            let still_there = std::fs::metadata(&path)
                .is_ok_and(|named| file.metadata().is_ok_and(|held| held.ino() == named.ino()));
            if still_there {
                self.sign(&mut file, &path)?;
                return Ok((name, HeldLock { file, path, remove: true }));
            }
        }
    }

    /// Returns whether a process holds the session lock `name`; removes the file if not.
    pub fn is_alive(&self, name: &str) -> Result<bool> {
        let path = self.directory.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = std::fs::remove_file(&path);
                Ok(false)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(Error::io("lock", &path)(error.into())),
        }
    }

    /// Returns the names of all session lock files, alive or not.
    pub fn session_files(&self) -> Result<Vec<String>> {
        let entries =
            std::fs::read_dir(&self.directory).map_err(Error::io("list", &self.directory))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("list", &self.directory))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("session-") {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Returns who holds the pool's sessions, for people.
    pub fn session_holders(&self) -> Vec<String> {
        let names = self.session_files().unwrap_or_default();
        names
            .iter()
            .filter(|name| self.is_alive(name).unwrap_or(false))
            .map(|name| read_holder(&self.directory.join(name)).unwrap_or_else(somebody))
            .filter(|holder| *holder != self.holder)
            .collect()
    }

    fn holder_of(&self, path: &Path) -> String {
        for _ in 0..SIGNING_LOOKS {
            let sessions = self.session_holders();
            if path.ends_with("pool") && !sessions.is_empty() {
                return sessions.join(", ");
            }
            if let Some(holder) = read_holder(path) {
                return holder;
            }
            // It has the lock and has not signed yet.
            std::thread::sleep(SIGNING_PAUSE);
        }
        somebody()
    }

    fn sign(&self, file: &mut File, path: &Path) -> Result<()> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(self.holder.as_bytes())
        };
        match write(file) {
            Ok(()) => Ok(()),
            // On a full disk the lock still holds; only its holder's name is missing.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            Err(error) => Err(Error::io("write", path)(error)),
        }
    }
}

impl HeldLock {
    /// Keeps the lock, but lets others hold it shared too.
    pub fn share(&self) -> Result<()> {
        flock(&self.file, FlockOperation::LockShared)
            .map_err(|error| Error::io("lock", &self.path)(error.into()))
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if self.remove {
            // A file left behind is not held and is removed by the next who looks.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open", path))
}

fn somebody() -> String {
    "another process".to_string()
}

fn read_holder(path: &Path) -> Option<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(HOLDER_LIMIT).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => Some(text),
        _ => None,
    }
}
