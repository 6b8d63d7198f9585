//! A disk that fails: at the n-th change everything stops, as when the process is killed or the power goes.
//!
//! It works on real files, and remembers of each change how to take it back until it is synced: content by [`DiskWrite::sync`], names by
//! [`Disk::sync_directory`]. A power cut takes back all of it or any part. The index, which does not go through this door, is copied at
//! the moment of the crash and put back afterwards, since the dying run still tidies up there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskRead, DiskWrite, Space, SystemDisk};

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed: everything stays.
    Kill,
    /// The power goes: nothing that was not synced stays.
    PowerCut,
    /// The power goes: of what was not synced, a part stays that depends on the seed.
    TornPowerCut(u64),
}

/// A disk that stops at the n-th change.
pub(crate) struct CrashingDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    changes: u64,
    crash_at: Option<u64>,
    // The file of the index and a place for its copy.
    index: Option<(PathBuf, PathBuf)>,
    // Files whose last bytes are not synced, with the length that is.
    unsynced: BTreeMap<PathBuf, u64>,
    // Changes of names that are not synced, oldest first.
    names: Vec<NameChange>,
}

#[derive(Debug)]
enum NameChange {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
    Removed { path: PathBuf, content: Vec<u8> },
}

struct CrashingFile {
    path: PathBuf,
    length: u64,
    file: Box<dyn DiskWrite>,
    state: Arc<Mutex<State>>,
}

impl CrashingDisk {
    /// Creates a disk that stops when it is asked for the change with this number, counted from 0; never if `None`.
    pub(crate) fn new(crash_at: Option<u64>) -> Self {
        Self { state: Arc::new(Mutex::new(State { crash_at, ..State::default() })) }
    }

    /// Copies the index `index` to `copy` at the moment of the crash.
    pub(crate) fn keep_index(self, index: PathBuf, copy: PathBuf) -> Self {
        lock(&self.state).index = Some((index, copy));
        self
    }

    /// Returns whether it has stopped.
    pub(crate) fn has_crashed(&self) -> bool {
        let state = lock(&self.state);
        state.crash_at.is_some_and(|at| state.changes > at)
    }

    /// Makes the files as the crash left them. All users of the disk must be gone.
    pub(crate) fn crash(&self, crash: Crash) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if let Some((index, copy)) = state.index.take()
            && copy.exists()
        {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(with_suffix(&index, suffix));
            }
            for suffix in ["", "-wal"] {
                let _ = std::fs::copy(with_suffix(&copy, suffix), with_suffix(&index, suffix));
            }
        }
        let mut luck = match crash {
            Crash::Kill => return,
            Crash::PowerCut => None,
            Crash::TornPowerCut(seed) => Some(seed),
        };
        let mut stays = || {
            luck.as_mut().is_some_and(|seed| {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *seed >> 63 == 1
            })
        };
        for (path, synced) in std::mem::take(&mut state.unsynced) {
            let path = state.names.iter().fold(path, |path, change| match change {
                NameChange::Renamed { from, to, .. } if *from == path => to.clone(),
                _ => path,
            });
            if !stays()
                && let Ok(file) = std::fs::OpenOptions::new().write(true).open(&path)
            {
                file.set_len(synced).expect("a shorter file");
            }
        }
        for change in std::mem::take(&mut state.names).into_iter().rev() {
            if !stays() {
                change.take_back();
            }
        }
    }
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Created(path) | Self::Renamed { to: path, .. } | Self::Removed { path, .. } => {
                path.parent()
            }
        }
    }

    fn take_back(self) {
        match self {
            Self::Created(path) => {
                let _ = std::fs::remove_file(path);
            }
            Self::Renamed { from, to, replaced } => {
                let _ = std::fs::rename(&to, from);
                if let Some(content) = replaced {
                    std::fs::write(to, content).expect("the replaced file");
                }
            }
            Self::Removed { path, content } => {
                std::fs::write(path, content).expect("the removed file");
            }
        }
    }
}

impl State {
    // Counts a change, or refuses it.
    fn change(&mut self) -> io::Result<()> {
        let number = self.changes;
        self.changes += 1;
        let Some(at) = self.crash_at else { return Ok(()) };
        if number == at
            && let Some((index, copy)) = &self.index
        {
            for suffix in ["", "-wal"] {
                let _ = std::fs::copy(with_suffix(index, suffix), with_suffix(copy, suffix));
            }
        }
        if number >= at { Err(io::Error::other("the power went")) } else { Ok(()) }
    }
}

impl DiskWrite for CrashingFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.change()?;
        state.unsynced.entry(self.path.clone()).or_insert(self.length);
        self.file.append(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.change()?;
        state.unsynced.remove(&self.path);
        Ok(())
    }
}

impl Disk for CrashingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskWrite>> {
        let mut state = lock(&self.state);
        state.change()?;
        let file = SystemDisk.create(path)?;
        state.names.push(NameChange::Created(path.to_path_buf()));
        let state = self.state.clone();
        Ok(Box::new(CrashingFile { path: path.to_path_buf(), length: 0, file, state }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskRead>> {
        SystemDisk.open(path)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        SystemDisk.read(path, limit)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.change()?;
        let replaced = std::fs::read(to).ok();
        SystemDisk.rename(from, to)?;
        if let Some(length) = state.unsynced.remove(from) {
            state.unsynced.insert(to.to_path_buf(), length);
        }
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        state.names.push(NameChange::Renamed { from, to, replaced });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        if !path.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change()?;
        let content = std::fs::read(path)?;
        SystemDisk.remove(path)?;
        state.unsynced.remove(path);
        state.names.push(NameChange::Removed { path: path.to_path_buf(), content });
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.change()?;
        // A file that moved to another directory is safe once its new name is; its old name goes with it.
        state.names.retain(|change| change.directory() != Some(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        lock(&self.state).change()?;
        // Directories are few and made ahead: they count as durable at once.
        SystemDisk.create_directory(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        SystemDisk.exists(path)
    }

    // Directories on one real disk would all have the same room: here each pack takes some of its own, so that packs spread.
    fn space(&self, path: &Path) -> io::Result<Space> {
        let mut packs = 0;
        for group in std::fs::read_dir(path.join("packs"))? {
            packs += std::fs::read_dir(group?.path())?.count() as u64;
        }
        let total = 1 << 40;
        Ok(Space { total, available: total - (packs << 20) })
    }

    fn allocate(&self, _path: &Path, _length: u64) -> io::Result<()> {
        // No ballast in tests: it would be copied with every pool.
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
