//! Everything that is neither a directory nor a new file: symlinks, pipes, sockets, devices, further names, metadata of what is there already.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, makedev};
use rustix::io::{Errno, Result as SystemResult};

use crate::error::Result;
use crate::restore::batch::{Batch, LinkTask, Other, OtherTask, RetouchTask, Spot, Way};
use crate::restore::desk::Desk;
use crate::restore::run::{Fault, Outcome, Run};
use crate::restore::tally::add;
use crate::restore::workers::{Stage, Worker};
use crate::target::attributes::{Shortfalls, Subject};
use crate::target::{identity_of, look_at};

/// Makes a symlink, pipe, socket or device.
pub(super) fn make_other(desk: &mut Desk<'_>, task: &OtherTask) -> Result<()> {
    let made = try_make_other(desk, task);
    settle(desk, &task.spot, made)
}

/// Compares and mends the metadata of an entry whose content is trusted.
pub(super) fn make_retouch(desk: &mut Desk<'_>, task: &RetouchTask) -> Result<()> {
    let run = desk.run;
    let retouched = desk
        .retouch(&task.spot, task.is_file, &task.attributes, task.anchor.as_deref())
        .map(|changed| match (changed, task.is_file) {
            (false, _) => add(&run.tally.unchanged, 1),
            (true, true) => add(&run.tally.files, 1),
            (true, false) => add(&run.tally.others, 1),
        });
    desk.count_present(task.size);
    settle(desk, &task.spot, retouched)
}

fn settle(desk: &mut Desk<'_>, spot: &Spot, outcome: Outcome<()>) -> Result<()> {
    desk.count(1, 0);
    let run = desk.run;
    run.settle(|| run.entry_path(&spot.directory, Some(&spot.name)), outcome)
}

fn try_make_other(desk: &mut Desk<'_>, task: &OtherTask) -> Outcome<()> {
    let run = desk.run;
    let fault = |errno| run.fault(task.what.action(), errno);
    let spot = &task.spot;
    let parent = desk.handle(&spot.directory).map_err(fault)?;
    let beside = task.way != Way::New;
    let name = if beside { spot.temporary_name() } else { spot.name.to_vec() };
    let make = || task.what.make(parent.as_fd(), &name, task.attributes.mode);
    let made = match make() {
        // Left by an interrupted run.
        Err(Errno::EXIST) if beside => {
            rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty()).and_then(|()| make())
        }
        answer => answer,
    };
    made.map_err(fault)?;
    let stat = look_at(parent.as_fd(), &name).and_then(|stat| stat.ok_or(Errno::NOENT));
    let stat = stat.map_err(fault)?;
    let mut shortfalls = Shortfalls::default();
    let subject = Subject::Named { parent: parent.as_fd(), name: &name };
    let applied = task.attributes.apply(subject, &stat, spot.directory.gives_acl, &mut shortfalls);
    let finished = applied.map_err(fault).and_then(|_| match task.way {
        Way::New => Ok(()),
        way => desk.rename(spot, way == Way::Over),
    });
    if finished.is_err() {
        // The problem says that it is missing; half of it is no help.
        let _ = rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty());
    }
    finished?;
    desk.arrived(spot, &stat, &task.attributes, task.anchor.as_deref());
    run.note_shortfalls(&spot.directory, Some(&spot.name), shortfalls);
    add(&run.tally.others, 1);
    Ok(())
}

impl Other {
    fn action(&self) -> &'static str {
        match self {
            Self::Symlink(_) => "make the symlink",
            Self::Fifo => "make the pipe",
            Self::Socket => "make the socket",
            Self::CharDevice(..) | Self::BlockDevice(..) => "make the device node",
        }
    }

    fn make(
        &self,
        parent: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
        mode: u32,
    ) -> SystemResult<()> {
        let node = |kind, device| {
            // Without the bits that need the right owner first.
            let mode = Mode::from_bits_truncate(mode & 0o777);
            rustix::fs::mknodat(parent, name, kind, mode, device)
        };
        match self {
            Self::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), parent, name),
            Self::Fifo => node(FileType::Fifo, 0),
            Self::Socket => node(FileType::Socket, 0),
            Self::CharDevice(major, minor) => {
                node(FileType::CharacterDevice, makedev(*major, *minor))
            }
            Self::BlockDevice(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor)),
        }
    }
}

/// Makes further names of files, when the first ones are complete.
pub(super) struct LinkStage<'a> {
    run: &'a Run<'a>,
    batch: Arc<Batch>,
    next: AtomicUsize,
}

impl<'a> LinkStage<'a> {
    pub(super) fn new(run: &'a Run<'a>, batch: Arc<Batch>) -> Self {
        Self { run, batch, next: AtomicUsize::new(0) }
    }
}

impl Stage for LinkStage<'_> {
    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        let desk = &mut worker.desk;
        while let Some(task) = self.batch.links.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.run.check()?;
            let linked = make_link(desk, task);
            settle(desk, &task.spot, linked)?;
            desk.report_done();
        }
        Ok(())
    }
}

fn make_link(desk: &mut Desk<'_>, task: &LinkTask) -> Outcome<()> {
    let run = desk.run;
    let fault = |errno| run.fault("make the hard link", errno);
    let first = &task.first;
    let Some(identity) = first.identity.get() else {
        let path = run.entry_path(&first.spot.directory, Some(&first.spot.name));
        return Err(Fault::Entry(format!(
            "it is a hard link to \"{path}\", which is not restored"
        )));
    };
    let from = desk.handle(&first.spot.directory).map_err(fault)?;
    let parent = desk.handle(&task.spot.directory).map_err(fault)?;
    let is_first = |name: &[u8]| -> Outcome<bool> {
        let stat = look_at(parent.as_fd(), name).map_err(fault)?;
        Ok(stat.is_some_and(|stat| identity_of(&stat) == *identity))
    };
    if task.way == Way::Over && is_first(&task.spot.name)? {
        add(&run.tally.unchanged, 1);
        return Ok(());
    }
    let beside = task.way != Way::New;
    let name = if beside { task.spot.temporary_name() } else { task.spot.name.to_vec() };
    // A symlink in the place of the first is linked itself, never what it points to.
    let link =
        || rustix::fs::linkat(&from, &*first.spot.name, &parent, name.as_slice(), AtFlags::empty());
    let linked = match link() {
        Err(Errno::EXIST) if beside => {
            rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty()).and_then(|()| link())
        }
        answer => answer,
    };
    linked.map_err(fault)?;
    if !is_first(&name)? {
        let _ = rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::empty());
        return Err(Fault::Entry("another file took the place of its first name".to_string()));
    }
    if beside {
        desk.rename(&task.spot, task.way == Way::Over)?;
    }
    add(if task.is_file { &run.tally.files } else { &run.tally.others }, 1);
    Ok(())
}
