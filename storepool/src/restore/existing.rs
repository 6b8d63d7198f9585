//! What happens where the target has something already.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Stat, major, minor};

use crate::chunks::ChunkSource;
use crate::entry::{EntryPath, display_bytes};
use crate::error::{Error, Result};
use crate::restore::Conflict;
use crate::restore::batch::Way;
use crate::restore::desk::Desk;
use crate::restore::directories::remove_all;
use crate::restore::run::{Fault, Outcome, Run};
use crate::restore::selection::Choice;
use crate::target::attributes::{Attributes, time_of};
use crate::target::{kind_of, look_at};
use crate::tree::{Content, DEPTH_LIMIT, Entry, Node, TreeCursor};

/// In-place files from this size on are changed where they differ; smaller ones are not worth it.
const PATCH_LEAST: u64 = 1 << 20;

/// What to do for an entry that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Make it.
    Make(Way),
    /// What is there has the right content; look at its metadata.
    Retouch,
    /// Leave what is there.
    Skip,
}

/// Decides on an entry that is not a directory. `stat` is what is at its name.
pub(super) fn decide(
    run: &Run<'_>,
    parent: BorrowedFd<'_>,
    entry: &Entry,
    attributes: &Attributes,
    stat: &Stat,
) -> Outcome<Decision> {
    if !replaces(run.conflict, entry, stat)? {
        return Ok(Decision::Skip);
    }
    if kind_of(stat) == FileType::Directory {
        if !(run.options.in_place && run.options.delete) {
            return Err(Fault::Entry("a directory is in its place".to_string()));
        }
        remove_all(run, parent, &entry.name, true, 0)?;
        return Ok(Decision::Make(Way::Beside));
    }
    if !run.options.in_place {
        return Ok(Decision::Make(Way::Over));
    }
    Ok(match &entry.node {
        Node::File { size, content } if kind_of(stat) == FileType::RegularFile => {
            let same_size = stat.st_size as u64 == *size;
            let trusted = same_size && attributes.same_time(stat);
            let large = *size >= PATCH_LEAST && stat.st_nlink == 1;
            if trusted && !run.options.verify {
                Decision::Retouch
            } else if large {
                Decision::Make(Way::Patched)
            } else if same_size && run.options.verify && !matches!(content, Content::Listed(_)) {
                Decision::Make(Way::Compared)
            } else {
                Decision::Make(Way::Over)
            }
        }
        node if is_same(parent, entry, node, stat) => Decision::Retouch,
        _ => Decision::Make(Way::Over),
    })
}

/// Returns whether the point's entry takes the place of what is there.
pub(super) fn replaces(conflict: Conflict, entry: &Entry, stat: &Stat) -> Outcome<bool> {
    match conflict {
        // Looked at before the first write: it came meanwhile.
        Conflict::Fail => Err(Fault::Entry("it exists already".to_string())),
        Conflict::Skip => Ok(false),
        Conflict::Overwrite => Ok(true),
        Conflict::Newer => Ok(entry.metadata.mtime > time_of(stat)),
    }
}

fn is_same(parent: BorrowedFd<'_>, entry: &Entry, node: &Node, stat: &Stat) -> bool {
    let device = |wanted: FileType, numbers: (u32, u32)| {
        kind_of(stat) == wanted && (major(stat.st_rdev), minor(stat.st_rdev)) == numbers
    };
    match node {
        Node::Symlink { target } => {
            kind_of(stat) == FileType::Symlink
                && rustix::fs::readlinkat(parent, entry.name.as_slice(), Vec::new())
                    .is_ok_and(|there| there.as_bytes() == target.as_slice())
        }
        Node::Fifo => kind_of(stat) == FileType::Fifo,
        Node::Socket => kind_of(stat) == FileType::Socket,
        Node::CharDevice { major, minor } => device(FileType::CharacterDevice, (*major, *minor)),
        Node::BlockDevice { major, minor } => device(FileType::BlockDevice, (*major, *minor)),
        Node::File { .. } | Node::Directory { .. } => false,
    }
}

/// Refuses the restore if an entry would take the place of something. Only directories that both have are entered.
pub(super) fn refuse_conflicts(
    run: &Run<'_>,
    source: &dyn ChunkSource,
    entry: &Entry,
) -> Result<()> {
    let Some(target) = &run.target else { return Ok(()) };
    let reader = source.reader()?;
    let refuse = |path: &[u8]| Error::Target {
        path: target.path().to_path_buf(),
        reason: format!("\"{}\" exists already", display_bytes(path)),
    };
    let failed = |errno: rustix::io::Errno| Error::io("read", target.path())(errno.into());
    let Node::Directory { tree, .. } = &entry.node else {
        let root = target.directory(b"").map_err(failed)?;
        return match look_at(root.as_fd(), &entry.name).map_err(failed)? {
            None => Ok(()),
            Some(_) => Err(refuse(&entry.name)),
        };
    };
    // Paths below the target, with the decision on the directory.
    let mut levels =
        vec![(TreeCursor::new(&*reader, *tree), EntryPath::root(), run.selection.root())];
    let mut desk: Option<(EntryPath, Arc<std::os::fd::OwnedFd>)> = None;
    while let Some((cursor, path, parent_choice)) = levels.last_mut() {
        run.check()?;
        let (path, parent_choice) = (path.clone(), *parent_choice);
        let below = match cursor.next() {
            None => {
                levels.pop();
                continue;
            }
            // Told as a problem when it is restored.
            Some(Err(error)) if error.is_damage() => {
                levels.pop();
                continue;
            }
            Some(below) => below?,
        };
        let mut full = run.origin.as_bytes().to_vec();
        let below_path = path.join(&below.name);
        full.push(b'/');
        full.extend_from_slice(below_path.as_bytes());
        let full = EntryPath::parse(&full).expect("names of a decoded tree are safe");
        let is_directory = matches!(below.node, Node::Directory { .. });
        let choice = run.selection.choose(&full, is_directory, parent_choice);
        if choice == Choice::LeftOut {
            continue;
        }
        let handle = match &desk {
            Some((of, handle)) if *of == path => handle.clone(),
            _ => {
                let handle = Arc::new(target.directory(path.as_bytes()).map_err(failed)?);
                desk = Some((path.clone(), handle.clone()));
                handle
            }
        };
        let Some(stat) = look_at(handle.as_fd(), &below.name).map_err(failed)? else { continue };
        match &below.node {
            Node::Directory { tree, .. } if kind_of(&stat) == FileType::Directory => {
                if levels.len() < DEPTH_LIMIT {
                    levels.push((TreeCursor::new(&*reader, *tree), below_path, choice));
                }
            }
            _ => return Err(refuse(below_path.as_bytes())),
        }
    }
    Ok(())
}

/// Looks at what is at a name in a directory of the target.
pub(super) fn look(
    desk: &mut Desk<'_>,
    directory: &Arc<crate::restore::batch::TargetDirectory>,
    name: &[u8],
) -> rustix::io::Result<(Arc<std::os::fd::OwnedFd>, Option<Stat>)> {
    let parent = desk.handle(directory)?;
    let stat = look_at(parent.as_fd(), name)?;
    Ok((parent, stat))
}
