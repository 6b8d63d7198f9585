//! Directories: made first, closed to others; in the end what the point does not have is swept out, then they get their metadata. Frozen things are frozen
//! last of all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::entry::display_bytes;
use crate::error::Result;
use crate::restore::Conflict;
use crate::restore::batch::{Batch, Spot, TargetDirectory};
use crate::restore::desk::Desk;
use crate::restore::existing::replaces;
use crate::restore::run::{Fault, Outcome, Run};
use crate::restore::selection::Choice;
use crate::restore::tally::add;
use crate::restore::workers::{Stage, Worker};
use crate::target::attributes::{
    Attributes, Shortfalls, Subject, freeze, has_default_acl, remove_acl,
};
use crate::target::{identity_of, kind_of, look_at, names_in};
use crate::tree::{ChunkFetch, DEPTH_LIMIT, Entry, Node, TreeCursor};

/// An entry that becomes immutable or append-only when everything else is done.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) spot: Spot,
    pub(super) flags: u32,
    pub(super) identity: (u64, u64),
}

/// Makes a directory of the point, or takes over the one that is there. `None`: what is there stays.
pub(super) fn make_directory(
    desk: &mut Desk<'_>,
    entry: &Entry,
    parent: &Arc<TargetDirectory>,
) -> Outcome<Option<TargetDirectory>> {
    let run = desk.run;
    let Node::Directory { tree, .. } = &entry.node else { return Ok(None) };
    let fault = |errno| run.fault("make the directory", errno);
    let mut directory = TargetDirectory {
        parent: Some(parent.clone()),
        name: entry.name.as_slice().into(),
        depth: parent.depth + 1,
        fresh: true,
        gives_acl: false,
        attributes: Some(run.owners.attributes(&entry.metadata)),
        tree: Some(*tree),
        swept: false,
    };
    if run.options.dry_run && parent.fresh {
        add(&run.tally.directories, 1);
        return Ok(Some(directory));
    }
    let handle = desk.handle(parent).map_err(fault)?;
    let there = match parent.fresh {
        true => None,
        false => look_at(handle.as_fd(), &entry.name).map_err(fault)?,
    };
    if let Some(stat) = &there {
        if kind_of(stat) == FileType::Directory {
            merge(run, &mut directory, entry, handle.as_fd(), stat)?;
            return Ok(Some(directory));
        }
        if !replaces(run.conflict, entry, stat)? {
            return Ok(None);
        }
    }
    if run.options.dry_run {
        add(&run.tally.directories, 1);
        return Ok(Some(directory));
    }
    if there.is_some() {
        rustix::fs::unlinkat(&handle, entry.name.as_slice(), AtFlags::empty()).map_err(fault)?;
    }
    // Closed to others until its own mode is set.
    rustix::fs::mkdirat(&handle, entry.name.as_slice(), Mode::RWXU).map_err(fault)?;
    if parent.gives_acl {
        remove_acl(open(run, &directory).map_err(fault)?.as_fd());
    }
    Ok(Some(directory))
}

fn merge(
    run: &Run<'_>,
    directory: &mut TargetDirectory,
    entry: &Entry,
    parent: BorrowedFd<'_>,
    stat: &Stat,
) -> Outcome<()> {
    directory.fresh = false;
    directory.swept = run.options.in_place && run.options.delete;
    let keeps = match run.conflict {
        Conflict::Fail | Conflict::Skip => true,
        Conflict::Overwrite | Conflict::Newer => !replaces(run.conflict, entry, stat)?,
    };
    if keeps {
        directory.attributes = None;
    }
    let own = stat.st_mode & 0o7777;
    if !run.privileged && !run.options.dry_run && own & 0o700 != 0o700 {
        // Its owner may write into it again for as long as this takes.
        let subject = Subject::Named { parent, name: &entry.name };
        if subject.chmod(FileType::Directory, own | 0o700).is_ok() && keeps {
            directory.attributes = Some(Attributes::of(stat));
        }
    }
    let handle = open(run, directory).map_err(|errno| run.fault("open the directory", errno))?;
    directory.gives_acl = has_default_acl(handle.as_fd());
    Ok(())
}

fn open(run: &Run<'_>, directory: &TargetDirectory) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    run.target().open_beneath(&directory.path(), flags, Mode::empty())
}

/// Finishes the directories of a batch.
pub(super) struct DirectoryStage<'a> {
    run: &'a Run<'a>,
    deepest_first: Vec<Arc<TargetDirectory>>,
    next: AtomicUsize,
}

impl<'a> DirectoryStage<'a> {
    pub(super) fn new(run: &'a Run<'a>, batch: Arc<Batch>) -> Self {
        let mut deepest_first = batch.closed.clone();
        deepest_first.sort_by_key(|directory| std::cmp::Reverse(directory.depth));
        Self { run, deepest_first, next: AtomicUsize::new(0) }
    }
}

impl Stage for DirectoryStage<'_> {
    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        // Without privilege a finished parent may be closed to us: one worker keeps the order.
        if !self.run.privileged && worker.number != 0 {
            return Ok(());
        }
        let Worker { reader, desk, .. } = worker;
        while let Some(directory) =
            self.deepest_first.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            self.run.check()?;
            sweep(desk, &**reader, directory)?;
            finish(desk, directory)?;
        }
        Ok(())
    }
}

fn finish(desk: &mut Desk<'_>, directory: &Arc<TargetDirectory>) -> Result<()> {
    let run = desk.run;
    let Some(attributes) = &directory.attributes else { return Ok(()) };
    let fault = |errno| run.fault("set the metadata", errno);
    let finish = || -> Outcome<bool> {
        let mut shortfalls = Shortfalls::default();
        let handle = open(run, directory).map_err(fault)?;
        let stat = rustix::fs::fstat(&handle).map_err(fault)?;
        let used = !directory.fresh;
        let subject = Subject::Open(handle.as_fd());
        let changed = attributes.apply(subject, &stat, used, &mut shortfalls).map_err(fault)?;
        let flags = attributes.freezing_flags();
        if flags != 0 {
            let spot = Spot { directory: directory.clone(), name: Box::default() };
            run.freeze_later(Frozen { spot, flags, identity: identity_of(&stat) });
        }
        run.note_shortfalls(directory, None, shortfalls);
        Ok(changed || directory.fresh)
    };
    let finished = finish().map(|changed| {
        add(if changed { &run.tally.directories } else { &run.tally.unchanged }, 1);
    });
    run.settle(|| run.entry_path(directory, None), finished)
}

/// Removes from a directory what the point does not have, if that is wanted. If the point's entries cannot all be read, nothing is removed.
pub(super) fn sweep(
    desk: &mut Desk<'_>,
    fetch: &dyn ChunkFetch,
    directory: &Arc<TargetDirectory>,
) -> Result<()> {
    let run = desk.run;
    let Some(tree) = directory.tree.filter(|_| directory.swept) else { return Ok(()) };
    let fault = |errno| run.fault("remove what the point does not have", errno);
    let sweep = || -> Outcome<()> {
        let handle = open(run, directory).map_err(fault)?;
        let mut names = names_in(handle.as_fd()).map_err(fault)?;
        names.sort_unstable();
        let mut kept = vec![false; names.len()];
        for entry in TreeCursor::new(fetch, tree) {
            let wanted = entry?.name;
            if let Ok(index) = names.binary_search_by(|name| (**name).cmp(&wanted)) {
                kept[index] = true;
            }
        }
        for (name, _) in names.iter().zip(kept).filter(|(_, kept)| !kept) {
            remove_unwanted(desk, directory, handle.as_fd(), name)?;
        }
        Ok(())
    };
    run.settle(|| run.entry_path(directory, None), sweep())
}

fn remove_unwanted(
    desk: &Desk<'_>,
    directory: &TargetDirectory,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Outcome<()> {
    let run = desk.run;
    let fault = |errno| run.fault("remove what the point does not have", errno);
    let Some(stat) = look_at(parent, name).map_err(fault)? else { return Ok(()) };
    let path = run.entry_path(directory, Some(name));
    let is_directory = kind_of(&stat) == FileType::Directory;
    // What patterns keep from being restored they keep from being removed.
    if run.selection.choose(&path, is_directory, Choice::Wanted) != Choice::Wanted {
        return Ok(());
    }
    let removed = remove_all(run, parent, name, is_directory, 0);
    run.settle(|| path, removed).map_err(Fault::Stop)
}

/// Removes an entry with everything below, never leaving the directory it is in; counts what goes.
pub(super) fn remove_all(
    run: &Run<'_>,
    parent: BorrowedFd<'_>,
    name: &[u8],
    is_directory: bool,
    depth: usize,
) -> Outcome<()> {
    let fault = |errno| run.fault("remove", errno);
    run.check().map_err(Fault::Stop)?;
    if is_directory {
        if depth == DEPTH_LIMIT {
            return Err(Fault::Entry(format!("{} is nested too deeply", display_bytes(name))));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(fault)?;
        for below in names_in(handle.as_fd()).map_err(fault)? {
            let Some(stat) = look_at(handle.as_fd(), &below).map_err(fault)? else { continue };
            let is_directory = kind_of(&stat) == FileType::Directory;
            remove_all(run, handle.as_fd(), &below, is_directory, depth + 1)?;
        }
    }
    if !run.options.dry_run {
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(parent, name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fault(errno)),
        }
    }
    add(&run.tally.deleted, 1);
    Ok(())
}

/// Freezes what has to be, files before the directories that hold them.
pub(super) fn freeze_all(run: &Run<'_>) -> Result<()> {
    let mut frozen = run.take_frozen();
    frozen.sort_by_key(|frozen| {
        let is_directory = frozen.spot.name.is_empty();
        (is_directory, std::cmp::Reverse(frozen.spot.directory.depth))
    });
    let mut desk = Desk::new(run);
    for item in frozen {
        let fault = |errno: Errno| run.fault("set the inode flags", errno);
        let outcome = freeze_one(&mut desk, &item).map_err(fault);
        let name = Some(&*item.spot.name).filter(|name| !name.is_empty());
        run.settle(|| run.entry_path(&item.spot.directory, name), outcome)?;
    }
    Ok(())
}

fn freeze_one(desk: &mut Desk<'_>, item: &Frozen) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let handle = if item.spot.name.is_empty() {
        open(desk.run, &item.spot.directory)?
    } else {
        desk.open(&item.spot, flags, Mode::empty())?
    };
    if identity_of(&rustix::fs::fstat(&handle)?) != item.identity {
        return Err(Errno::STALE);
    }
    freeze(handle.as_fd(), item.flags)
}
