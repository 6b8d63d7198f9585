//! What one thread does to files of the target: begin, write, finish, discard.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, Result as SystemResult};

use crate::error::Result;
use crate::monitor::Event;
use crate::restore::batch::{FileTask, LinkAnchor, Slot, Spot, TargetDirectory, Way};
use crate::restore::directories::Frozen;
use crate::restore::run::{Fault, Outcome, Run};
use crate::restore::tally::add;
use crate::target::attributes::{Attributes, Shortfalls, Subject};
use crate::target::parts::{Part, write_parts};
use crate::target::{identity_of, kind_of, look_at};

/// Directory handles kept by each thread; neighbours in a pack are neighbours in the tree.
const HANDLES_KEPT: usize = 16;
/// Files from this size on are announced to the monitor.
const ANNOUNCED_LEAST: u64 = 64 << 20;

/// One thread's access to the target.
pub(super) struct Desk<'a> {
    pub(super) run: &'a Run<'a>,
    // The most recently used last.
    handles: Vec<(Arc<TargetDirectory>, Arc<OwnedFd>)>,
    path: Vec<u8>,
    path_of: Option<(Arc<TargetDirectory>, usize)>,
    done_items: u64,
    written_bytes: u64,
    present_bytes: u64,
}

impl<'a> Desk<'a> {
    pub(super) fn new(run: &'a Run<'a>) -> Self {
        Self {
            run,
            handles: Vec::new(),
            path: Vec::new(),
            path_of: None,
            done_items: 0,
            written_bytes: 0,
            present_bytes: 0,
        }
    }

    /// Returns a handle of the directory, for calls relative to it.
    pub(super) fn handle(
        &mut self,
        directory: &Arc<TargetDirectory>,
    ) -> SystemResult<Arc<OwnedFd>> {
        let known = self.handles.iter().position(|(kept, _)| Arc::ptr_eq(kept, directory));
        let kept = match known {
            Some(index) => self.handles.remove(index),
            None => {
                let handle = self.run.target().directory(&directory.path())?;
                if self.handles.len() == HANDLES_KEPT {
                    self.handles.remove(0);
                }
                (directory.clone(), Arc::new(handle))
            }
        };
        let handle = kept.1.clone();
        self.handles.push(kept);
        Ok(handle)
    }

    /// Opens what is at `spot`, never through a symlink.
    pub(super) fn open(&mut self, spot: &Spot, flags: OFlags, mode: Mode) -> SystemResult<OwnedFd> {
        let known = match &self.path_of {
            Some((directory, length)) if Arc::ptr_eq(directory, &spot.directory) => Some(*length),
            _ => None,
        };
        match known {
            Some(length) => self.path.truncate(length),
            None => {
                self.path.clear();
                spot.directory.append_path(&mut self.path);
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path_of = Some((spot.directory.clone(), self.path.len()));
            }
        }
        self.path.extend_from_slice(&spot.name);
        self.run.target().open_beneath(&self.path, flags, mode)
    }

    /// Writes parts of a file, in order of their offsets, and finishes it with its last.
    pub(super) fn put(&mut self, file: &Arc<FileTask>, parts: &[Part<'_>]) -> Result<()> {
        let at_once = matches!(file.way, Way::New | Way::Beside | Way::Over)
            && file.pieces as usize == parts.len();
        let result = if at_once {
            file.outstanding.store(0, Ordering::Release);
            self.put_whole(file, parts)
        } else {
            let written = self.put_shared(file, parts);
            self.settle(file, written)?;
            return self.release(file, parts.len() as u64);
        };
        self.settle(file, result)
    }

    /// Gives up `count` pieces of a file; the last one finishes it.
    pub(super) fn release(&mut self, file: &Arc<FileTask>, count: u64) -> Result<()> {
        if file.outstanding.fetch_sub(count, Ordering::AcqRel) == count {
            let finished = self.finish_shared(file);
            self.settle(file, finished)?;
        }
        Ok(())
    }

    /// Records that a file cannot be restored, and removes what there is of it.
    pub(super) fn fail(&mut self, file: &Arc<FileTask>, message: String) {
        let before = std::mem::replace(&mut *lock(file), Slot::Failed);
        match before {
            Slot::Failed | Slot::Finished => return,
            Slot::Open(_) => self.run.open_files.closed(),
            Slot::Waiting | Slot::Parked(_) => {}
        }
        if !matches!(before, Slot::Waiting) {
            self.remove_begun(file);
        }
        self.run.spot_problem(&file.spot, message);
        self.count(1, 0);
    }

    /// Removes what there is of an unfinished file, because the restore ends here.
    pub(super) fn discard(&mut self, file: &Arc<FileTask>) {
        let before = std::mem::replace(&mut *lock(file), Slot::Failed);
        if matches!(before, Slot::Open(_) | Slot::Parked(_)) {
            self.remove_begun(file);
        }
    }

    /// Counts entries that are finished and bytes that were written.
    pub(super) fn count(&mut self, items: u64, bytes: u64) {
        self.done_items += items;
        self.written_bytes += bytes;
    }

    /// Counts bytes that did not have to be written.
    pub(super) fn count_present(&mut self, bytes: u64) {
        self.present_bytes += bytes;
    }

    /// Tells the monitor what was counted.
    pub(super) fn report_done(&mut self) {
        let (items, bytes) = (self.done_items, self.written_bytes + self.present_bytes);
        if items > 0 || bytes > 0 {
            self.run.monitor.event(Event::Done { items, bytes });
            add(&self.run.tally.bytes, self.written_bytes);
            (self.done_items, self.written_bytes, self.present_bytes) = (0, 0, 0);
        }
    }

    fn settle(&mut self, file: &Arc<FileTask>, outcome: Outcome<()>) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Stop(error)) => Err(error),
            Err(Fault::Entry(message)) => {
                self.fail(file, message);
                Ok(())
            }
        }
    }

    // The whole file in one go: nobody else knows of it, so nothing is locked.
    fn put_whole(&mut self, file: &Arc<FileTask>, parts: &[Part<'_>]) -> Outcome<()> {
        let handle = self.begin(file, file.attributes.mode & 0o777)?;
        let written = self.fill(file, handle.as_fd(), parts);
        drop(handle);
        match written {
            Ok(()) => *lock(file) = Slot::Finished,
            Err(_) => self.remove_begun(file),
        }
        written
    }

    fn fill(&mut self, file: &FileTask, handle: BorrowedFd<'_>, parts: &[Part<'_>]) -> Outcome<()> {
        let length = self.write(handle, parts)?;
        let end = parts.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
        if end < file.size {
            self.set_length(handle, file.size)?;
        }
        self.finish(file, handle)?;
        self.count(1, length);
        Ok(())
    }

    fn put_shared(&mut self, file: &Arc<FileTask>, parts: &[Part<'_>]) -> Outcome<()> {
        let Some(handle) = self.shared_handle(file)? else { return Ok(()) };
        let length = self.write(handle.as_fd(), parts)?;
        self.count(0, length);
        Ok(())
    }

    // Opens the file at its first piece. `None`: it has failed, its pieces are of no use.
    fn shared_handle(&mut self, file: &Arc<FileTask>) -> Outcome<Option<Arc<OwnedFd>>> {
        let (handle, begun) = {
            let mut slot = lock(file);
            let (handle, begun) = match &*slot {
                Slot::Open(handle) => return Ok(Some(handle.clone())),
                Slot::Failed | Slot::Finished => return Ok(None),
                Slot::Waiting => (Arc::new(self.begin(file, 0o600)?), true),
                Slot::Parked(identity) => (Arc::new(self.reopen(file, *identity)?), false),
            };
            *slot = Slot::Open(handle.clone());
            (handle, begun)
        };
        self.run.open_files.opened(file);
        if begun {
            self.prepare_shared(file, handle.as_fd())?;
        }
        Ok(Some(handle))
    }

    fn prepare_shared(&self, file: &FileTask, handle: BorrowedFd<'_>) -> Outcome<()> {
        if file.size >= ANNOUNCED_LEAST {
            let path = self.run.entry_path(&file.spot.directory, Some(&file.spot.name));
            self.run.monitor.event(Event::Current(path));
        }
        // Even without effect the call would change the time of a file that needs no change.
        let fits = |stat: Stat| stat.st_size as u64 == file.size;
        if rustix::fs::fstat(handle).is_ok_and(fits) {
            return Ok(());
        }
        self.set_length(handle, file.size)
    }

    fn finish_shared(&mut self, file: &Arc<FileTask>) -> Outcome<()> {
        if file.way == Way::Compared && !file.differs() {
            return self.finish_compared(file);
        }
        let Some(handle) = self.shared_handle(file)? else { return Ok(()) };
        self.finish(file, handle.as_fd())?;
        *lock(file) = Slot::Finished;
        self.run.open_files.closed();
        self.count(1, 0);
        Ok(())
    }

    // The content is there: only the metadata may not be.
    fn finish_compared(&mut self, file: &Arc<FileTask>) -> Outcome<()> {
        let changed = self.retouch(&file.spot, true, &file.attributes, file.anchor.as_deref())?;
        let tally = &self.run.tally;
        add(if changed { &tally.files } else { &tally.unchanged }, 1);
        *lock(file) = Slot::Finished;
        self.count(1, 0);
        Ok(())
    }

    fn begin(&mut self, file: &FileTask, mode: u32) -> Outcome<OwnedFd> {
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let created = match file.way {
            Way::New => self.open(&file.spot, create, Mode::from_bits_truncate(mode)),
            Way::Beside | Way::Over | Way::Compared => self.create_beside(&file.spot, create),
            Way::Patched => self.open_to_patch(&file.spot),
        };
        let handle = created.map_err(|errno| self.run.fault("create the file", errno))?;
        file.attributes.prepare(handle.as_fd());
        Ok(handle)
    }

    fn create_beside(&mut self, spot: &Spot, create: OFlags) -> SystemResult<OwnedFd> {
        let parent = self.handle(&spot.directory)?;
        let name = spot.temporary_name();
        let flags = create | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Open to the owner alone until it is complete.
        let mode = Mode::from_bits_truncate(0o600);
        match rustix::fs::openat(&parent, name.as_slice(), flags, mode) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty())?;
                rustix::fs::openat(&parent, name.as_slice(), flags, mode)
            }
            answer => answer,
        }
    }

    // A file with other names would change under those too, and they may be anywhere.
    fn open_to_patch(&mut self, spot: &Spot) -> SystemResult<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let handle = self.open(spot, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        if kind_of(&stat) != FileType::RegularFile || stat.st_nlink != 1 {
            return Err(Errno::MLINK);
        }
        Ok(handle)
    }

    fn reopen(&mut self, file: &FileTask, identity: (u64, u64)) -> Outcome<OwnedFd> {
        let opened = match file.way {
            Way::New | Way::Patched => self.open(&file.spot, OFlags::WRONLY, Mode::empty()),
            Way::Beside | Way::Over | Way::Compared => {
                self.handle(&file.spot.directory).and_then(|parent| {
                    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let name = file.spot.temporary_name();
                    rustix::fs::openat(&parent, name.as_slice(), flags, Mode::empty())
                })
            }
        };
        let fault = |errno| self.run.fault("open the file again", errno);
        let handle = opened.map_err(fault)?;
        if identity_of(&rustix::fs::fstat(&handle).map_err(fault)?) != identity {
            return Err(Fault::Entry(
                "another file took its place while it was written".to_string(),
            ));
        }
        Ok(handle)
    }

    fn finish(&mut self, file: &FileTask, handle: BorrowedFd<'_>) -> Outcome<()> {
        let run = self.run;
        let fault = |errno| run.fault("set the metadata", errno);
        let stat = rustix::fs::fstat(handle).map_err(fault)?;
        let used = file.spot.directory.gives_acl || file.way == Way::Patched;
        let mut shortfalls = Shortfalls::default();
        let applied = file
            .attributes
            .apply(Subject::Open(handle), &stat, used, &mut shortfalls)
            .map_err(fault)?;
        match file.way {
            Way::New | Way::Patched => {}
            Way::Beside => self.rename(&file.spot, false)?,
            Way::Over | Way::Compared => self.rename(&file.spot, true)?,
        }
        self.arrived(&file.spot, &stat, &file.attributes, file.anchor.as_deref());
        run.note_shortfalls(&file.spot.directory, Some(&file.spot.name), shortfalls);
        let unchanged = file.way == Way::Patched && !file.differs() && !applied;
        add(if unchanged { &run.tally.unchanged } else { &run.tally.files }, 1);
        Ok(())
    }

    /// Takes notice that an entry is complete at its name.
    pub(super) fn arrived(
        &mut self,
        spot: &Spot,
        stat: &Stat,
        attributes: &Attributes,
        anchor: Option<&LinkAnchor>,
    ) {
        if let Some(anchor) = anchor {
            // Set once: an anchor belongs to one task.
            let _ = anchor.identity.set(identity_of(stat));
        }
        let flags = attributes.freezing_flags();
        if flags != 0 {
            self.run.freeze_later(Frozen {
                spot: spot.clone(),
                flags,
                identity: identity_of(stat),
            });
        }
    }

    /// Compares the metadata of what is at `spot` and mends it. Returns whether anything was changed.
    pub(super) fn retouch(
        &mut self,
        spot: &Spot,
        is_file: bool,
        attributes: &Attributes,
        anchor: Option<&LinkAnchor>,
    ) -> Outcome<bool> {
        let run = self.run;
        let fault = |errno| run.fault("set the metadata", errno);
        let parent = self.handle(&spot.directory).map_err(fault)?;
        let mut shortfalls = Shortfalls::default();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let opened =
            is_file.then(|| self.open(spot, flags, Mode::empty())).and_then(SystemResult::ok);
        let (subject, stat) = match &opened {
            Some(handle) => {
                (Subject::Open(handle.as_fd()), rustix::fs::fstat(handle).map_err(fault)?)
            }
            // Not to be opened, or not for us to read.
            None => {
                let stat =
                    look_at(parent.as_fd(), &spot.name).and_then(|stat| stat.ok_or(Errno::NOENT));
                let subject = Subject::Named { parent: parent.as_fd(), name: &spot.name };
                (subject, stat.map_err(fault)?)
            }
        };
        let changed = attributes.apply(subject, &stat, true, &mut shortfalls).map_err(fault)?;
        self.arrived(spot, &stat, attributes, anchor);
        run.note_shortfalls(&spot.directory, Some(&spot.name), shortfalls);
        Ok(changed)
    }

    /// Gives what was made beside `spot` its name.
    pub(super) fn rename(&mut self, spot: &Spot, over: bool) -> Outcome<()> {
        let run = self.run;
        let fault = |errno| run.fault("rename to the final name", errno);
        let parent = self.handle(&spot.directory).map_err(fault)?;
        let (from, to) = (spot.temporary_name(), &*spot.name);
        let keep = RenameFlags::NOREPLACE;
        let renamed = if over {
            rustix::fs::renameat(&parent, from.as_slice(), &parent, to)
        } else {
            match rustix::fs::renameat_with(&parent, from.as_slice(), &parent, to, keep) {
                // The file system cannot promise it: looked at just before.
                Err(Errno::INVAL | Errno::NOSYS) => match look_at(parent.as_fd(), to) {
                    Ok(None) => rustix::fs::renameat(&parent, from.as_slice(), &parent, to),
                    Ok(Some(_)) => Err(Errno::EXIST),
                    Err(errno) => Err(errno),
                },
                answer => answer,
            }
        };
        renamed.map_err(fault)
    }

    fn remove_begun(&mut self, file: &FileTask) {
        let spot = &file.spot;
        let Ok(parent) = self.handle(&spot.directory) else { return };
        // Best effort: what stays has the wrong time, so the next run does not trust it.
        let _ = match file.way {
            Way::New => rustix::fs::unlinkat(&parent, &*spot.name, AtFlags::empty()),
            Way::Patched => Ok(()),
            Way::Beside | Way::Over | Way::Compared => {
                rustix::fs::unlinkat(&parent, spot.temporary_name(), AtFlags::empty())
            }
        };
    }

    fn set_length(&self, handle: BorrowedFd<'_>, length: u64) -> Outcome<()> {
        rustix::fs::ftruncate(handle, length)
            .map_err(|errno| self.run.fault("set the length", errno))
    }

    fn write(&self, handle: BorrowedFd<'_>, parts: &[Part<'_>]) -> Outcome<u64> {
        write_parts(handle, parts).map_err(|errno| self.run.fault("write the file", errno))
    }
}

fn lock(file: &FileTask) -> MutexGuard<'_, Slot> {
    file.slot.lock().unwrap_or_else(PoisonError::into_inner)
}
