//! The simulated machine: processes that take turns at every look at the world, and the moment at which one or all of them die.
//!
//! A process is whatever holds one [`Process`]: its files, its randomness. With several of them on a schedule only one moves at a time, and who is next
//! is drawn from the seed. When all die, the index and what else lies on the real file system is copied in that instant: what the dying code still does to
//! it was never done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storepool::disk::{Disk, DiskRead, DiskWrite, Space};
use storepool::entropy::Entropy;

use crate::chance::Chance;
use crate::disk::FileSystem;

/// Longest wait for a turn; nothing in a simulation takes so long.
const TURN_LIMIT: Duration = Duration::from_secs(100);

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The process alone; the others go on.
    One,
    /// Every process.
    All,
}

/// What happens to a process, counted in changes that it makes to the disk (or, for reads, in reads).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Lives,
    /// It dies instead of making this change.
    Dies { at: u64, scope: Scope },
    /// This change fails, and with `lasting` every later one.
    CannotChange { at: u64, kind: ErrorKind, lasting: bool },
    /// This read fails.
    CannotRead { at: u64 },
}

#[derive(Default)]
struct State {
    files: FileSystem,
    // On a schedule: who moves now, and who is on it.
    turn: Option<u32>,
    // Whether whoever has the turn has taken it: a process that arrives late must not give away what it never used.
    is_moving: bool,
    scheduled: BTreeSet<u32>,
    order: Option<Chance>,
    fates: BTreeMap<u32, (Fate, u64, u64)>,
    dead: BTreeSet<u32>,
    all_dead: bool,
    trace: String,
}

/// A machine with its disks.
pub(crate) struct Machine {
    home: PathBuf,
    state: Mutex<State>,
    turned: Condvar,
}

impl Machine {
    /// Creates a machine whose real files are below `home`.
    pub(crate) fn new(home: &Path) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self { home: home.to_path_buf(), state, turned: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the files from outside.
    pub(crate) fn files<T>(&self, action: impl FnOnce(&mut FileSystem) -> T) -> T {
        action(&mut self.state().files)
    }

    /// Starts a process with this number, which no other one has had.
    pub(crate) fn start(self: &Arc<Self>, pid: u32, fate: Fate) -> Process {
        self.state().fates.insert(pid, (fate, 0, 0));
        let stream = blake3::Hasher::new().update(&u64::from(pid).to_le_bytes()).finalize_xof();
        Process { machine: self.clone(), pid, stream: Arc::new(Mutex::new(stream)) }
    }

    /// From now on these processes move one at a time.
    pub(crate) fn schedule(&self, pids: &[u32], seed: u64) {
        let mut state = self.state();
        state.scheduled = pids.iter().copied().collect();
        state.turn = pids.first().copied();
        state.is_moving = false;
        state.order = Some(Chance::new(seed));
    }

    /// Takes a process off the schedule: it has ended.
    pub(crate) fn end(&self, pid: u32) {
        let mut state = self.state();
        state.scheduled.remove(&pid);
        state.give_turn(pid);
        self.turned.notify_all();
    }

    /// Returns whether a process died.
    pub(crate) fn has_died(&self, pid: u32) -> bool {
        let state = self.state();
        state.all_dead || state.dead.contains(&pid)
    }

    /// Returns whether all processes died.
    pub(crate) fn is_dead(&self) -> bool {
        self.state().all_dead
    }

    /// Starts the machine again after all its processes died: everything on the real file system is as it was in that moment.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.all_dead) {
            let copy = self.copy_path();
            fs::remove_dir_all(&self.home).expect("the old home");
            fs::rename(copy, &self.home).expect("the home as it was");
        }
        state.fates.clear();
        state.scheduled.clear();
        state.turn = None;
    }

    /// Returns everything that was done so far.
    pub(crate) fn trace(&self) -> String {
        self.state().trace.clone()
    }

    /// Adds a line to what was done.
    pub(crate) fn note(&self, line: &str) {
        let mut state = self.state();
        state.trace.push_str(line);
        state.trace.push('\n');
    }

    fn copy_path(&self) -> PathBuf {
        self.home.with_extension("died")
    }

    // Lets others come first, and waits until the process may move: it does so until it comes here again.
    fn await_turn(&self, pid: u32) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.give_turn(pid);
        self.turned.notify_all();
        while state.scheduled.contains(&pid) && state.turn != Some(pid) {
            let (woken, waited) =
                self.turned.wait_timeout(state, TURN_LIMIT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            assert!(!waited.timed_out(), "process {pid} waits for ever for its turn");
        }
        state.is_moving = true;
        state
    }

    /// Waits until a process that was put on the schedule may begin.
    pub(crate) fn await_first_turn(&self, pid: u32) {
        drop(self.await_turn(pid));
    }

    /// Lets a process look at the world: others may come first.
    pub(crate) fn look(&self, pid: u32) -> io::Result<()> {
        self.await_turn(pid).require_alive(pid)
    }

    /// Lets a process die now.
    pub(crate) fn die(&self, pid: u32, scope: Scope) {
        let mut state = self.await_turn(pid);
        self.kill(&mut state, pid, scope);
    }

    fn kill(&self, state: &mut State, pid: u32, scope: Scope) {
        state.dead.insert(pid);
        if scope == Scope::All && !state.all_dead {
            state.all_dead = true;
            copy_tree(&self.home, &self.copy_path());
        }
    }

    // Makes a change of the files, unless fate has it otherwise.
    fn change<T>(
        &self,
        pid: u32,
        what: &str,
        path: &Path,
        action: impl FnOnce(&mut FileSystem, Option<ErrorKind>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.await_turn(pid);
        state.require_alive(pid)?;
        let (fate, changes, _) = state.fates.get_mut(&pid).expect("started");
        let number = *changes;
        *changes += 1;
        let failure = match *fate {
            Fate::Dies { at, scope } if at == number => {
                self.kill(&mut state, pid, scope);
                return Err(io::Error::other("the process is dead"));
            }
            Fate::CannotChange { at, kind, lasting }
                if at == number || (lasting && number > at) =>
            {
                Some(kind)
            }
            _ => None,
        };
        // Where it is differs from run to run.
        let place = path.strip_prefix(&self.home).unwrap_or(path).display();
        let note = format!("{pid} {what} {place} {failure:?}\n");
        state.trace.push_str(&note);
        action(&mut state.files, failure)
    }

    fn read<T>(
        &self,
        pid: u32,
        action: impl FnOnce(&mut FileSystem) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.await_turn(pid);
        state.require_alive(pid)?;
        let (fate, _, reads) = state.fates.get_mut(&pid).expect("started");
        let number = *reads;
        *reads += 1;
        if matches!(*fate, Fate::CannotRead { at } if at == number) {
            return Err(io::Error::from_raw_os_error(5));
        }
        action(&mut state.files)
    }
}

impl State {
    fn require_alive(&self, pid: u32) -> io::Result<()> {
        match self.all_dead || self.dead.contains(&pid) {
            true => Err(io::Error::other("the process is dead")),
            false => Ok(()),
        }
    }

    // Half of the time whoever moves goes on.
    fn give_turn(&mut self, pid: u32) {
        let Some(order) = &mut self.order else { return };
        let has_turn = self.turn == Some(pid) && self.is_moving;
        if !has_turn || (self.scheduled.contains(&pid) && order.coin()) {
            return;
        }
        let next = order.below(self.scheduled.len() as u64) as usize;
        self.turn = self.scheduled.iter().nth(next).copied();
        self.is_moving = self.turn == Some(pid);
    }
}

/// A process: what it sees of the machine.
#[derive(Clone)]
pub(crate) struct Process {
    machine: Arc<Machine>,
    pid: u32,
    stream: Arc<Mutex<blake3::OutputReader>>,
}

impl Process {
    /// Returns its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the machine.
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

impl Entropy for Process {
    fn fill(&self, buffer: &mut [u8]) {
        // Dead or not: nobody can be told here.
        let _ = self.machine.look(self.pid);
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).fill(buffer);
    }
}

struct OpenFile {
    process: Process,
    path: PathBuf,
    file: u64,
}

impl DiskWrite for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.process.machine.change(self.process.pid, "append", &self.path, |files, failure| {
            // A full disk takes what fits.
            let taken = if failure.is_some() { bytes.len() / 2 } else { bytes.len() };
            files.bytes(self.file).extend_from_slice(&bytes[..taken]);
            failure.map_or(Ok(()), |kind| Err(kind.into()))
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.process.machine.change(self.process.pid, "sync", &self.path, |files, failure| {
            match failure {
                Some(_) => files.lose(self.file),
                None => files.sync(self.file),
            }
            failure.map_or(Ok(()), |kind| Err(kind.into()))
        })
    }
}

impl DiskRead for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.process.machine.files(|files| files.bytes(self.file).len() as u64))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.process.machine.read(self.process.pid, |files| {
            let bytes = files.bytes(self.file);
            let start = (offset as usize).min(bytes.len());
            let found = bytes.get(start..start + buffer.len());
            buffer.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }
}

impl Disk for Process {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskWrite>> {
        let create = |files: &mut FileSystem, failure: Option<ErrorKind>| match failure {
            Some(kind) => Err(kind.into()),
            None => files.create(path),
        };
        let file = self.machine.change(self.pid, "create", path, create)?;
        Ok(Box::new(OpenFile { process: self.clone(), path: path.to_path_buf(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskRead>> {
        let file = self.machine.read(self.pid, |files| files.find(path))?;
        Ok(Arc::new(OpenFile { process: self.clone(), path: path.to_path_buf(), file }))
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let found = self.machine.read(self.pid, |files| {
            let file = files.find(path)?;
            Ok(files.bytes(file).clone())
        })?;
        match found.len() as u64 > limit {
            true => Err(ErrorKind::InvalidData.into()),
            false => Ok(found),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.machine.change(self.pid, "rename", to, |files, failure| match failure {
            Some(kind) => Err(kind.into()),
            None => files.rename(from, to),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.machine.look(self.pid)?;
        if self.machine.files(|files| files.find(path)).is_err() {
            return Err(ErrorKind::NotFound.into());
        }
        self.machine.change(self.pid, "remove", path, |files, failure| match failure {
            // Removing needs no room.
            Some(kind) if kind != ErrorKind::StorageFull => Err(kind.into()),
            _ => files.remove(path),
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.machine.change(self.pid, "sync directory", path, |files, failure| match failure {
            Some(kind) => Err(kind.into()),
            None => files.sync_folder(path),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if !path.parent().is_some_and(|parent| parent.ends_with("packs")) {
            self.machine.look(self.pid)?;
        }
        self.machine.files(|files| files.list(path))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.machine.files(|files| files.create_folder(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.machine.look(self.pid)?;
        Ok(self.machine.files(|files| files.exists(path)))
    }

    // Each pack takes some room of its directory, so that they spread.
    fn space(&self, path: &Path) -> io::Result<Space> {
        let packs = self.machine.files(|files| files.below(&path.join("packs"), ".pack").len());
        let total = 1 << 40;
        Ok(Space { total, available: total - ((packs as u64) << 20) })
    }

    fn allocate(&self, _path: &Path, _length: u64) -> io::Result<()> {
        // No ballast: there is no size of the disk to speak of.
        Err(ErrorKind::Unsupported.into())
    }
}

/// Copies a folder of the real file system with everything in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder for the copy");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), target) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "only a lock may go meanwhile");
        }
    }
}
