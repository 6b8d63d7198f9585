//! What a batch of a restore consists of: plain descriptions, made by the planner and worked off by the workers.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::chunks::Placement;
use crate::id::TreeId;
use crate::restore::reading::Reading;
use crate::target::attributes::Attributes;
use crate::tree::ChunkRef;

/// A directory of the target. The root has no parent and no name.
#[derive(Debug)]
pub(super) struct TargetDirectory {
    pub(super) parent: Option<Arc<TargetDirectory>>,
    pub(super) name: Box<[u8]>,
    /// Steps from the root.
    pub(super) depth: usize,
    /// It was empty when this run reached it, so what belongs into it is created without looking.
    pub(super) fresh: bool,
    /// What is made in it inherits an ACL that it must lose.
    pub(super) gives_acl: bool,
    /// What it gets in the end; `None` leaves it as it is.
    pub(super) attributes: Option<Attributes>,
    /// Its entries in the point.
    pub(super) tree: Option<TreeId>,
    /// Entries that the point does not have are removed.
    pub(super) swept: bool,
}

impl TargetDirectory {
    /// Appends the path below the root of the target.
    pub(super) fn append_path(&self, path: &mut Vec<u8>) {
        if let Some(parent) = &self.parent {
            parent.append_path(path);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&self.name);
        }
    }

    /// Returns the path below the root of the target.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        self.append_path(&mut path);
        path
    }
}

/// Where an entry of the target is.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) directory: Arc<TargetDirectory>,
    pub(super) name: Box<[u8]>,
}

impl Spot {
    /// Returns the name under which a replacement is written: the same in every run, so that the next one removes what an interrupted one left.
    pub(super) fn temporary_name(&self) -> Vec<u8> {
        let hash = blake3::hash(&self.name);
        format!(".keepwell-{}.part", crate::id::hex(&hash.as_bytes()[..8])).into_bytes()
    }
}

/// How an entry gets to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Made under its name, which nobody has.
    New,
    /// Made beside, renamed to a name that nobody has.
    Beside,
    /// Made beside, renamed over what is there.
    Over,
    /// The file that is there is changed where it differs.
    Patched,
    /// The file that is there is compared; if it differs, as [`Way::Over`].
    Compared,
}

/// The first of several names of one file.
#[derive(Debug)]
pub(super) struct LinkAnchor {
    pub(super) spot: Spot,
    /// Device and inode, once the file is there complete.
    pub(super) identity: OnceLock<(u64, u64)>,
}

/// A regular file to be written.
#[derive(Debug)]
pub(super) struct FileTask {
    pub(super) spot: Spot,
    pub(super) size: u64,
    pub(super) attributes: Attributes,
    pub(super) way: Way,
    /// Set if all pieces are in one batch: how many.
    pub(super) pieces: u32,
    /// Pieces not written yet, and one as long as the planner may add more.
    pub(super) outstanding: AtomicU64,
    pub(super) anchor: Option<Arc<LinkAnchor>>,
    pub(super) slot: Mutex<Slot>,
    /// What was there differs in size, a hole or a chunk.
    pub(super) differs: AtomicBool,
}

/// How far a file is.
#[derive(Debug)]
pub(super) enum Slot {
    Waiting,
    Open(Arc<OwnedFd>),
    /// Closed for want of handles; its identity, so that no other file is taken for it.
    Parked((u64, u64)),
    Finished,
    Failed,
}

impl FileTask {
    pub(super) fn differs(&self) -> bool {
        self.differs.load(Ordering::Acquire)
    }
}

/// A stretch of a file that one chunk, or a part of it, fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) file: u32,
    pub(super) chunk: u32,
    pub(super) chunk_offset: u32,
    pub(super) length: u32,
    pub(super) offset: u64,
}

/// Anything but a regular file or a directory.
#[derive(Debug)]
pub(super) struct OtherTask {
    pub(super) spot: Spot,
    pub(super) what: Other,
    pub(super) attributes: Attributes,
    pub(super) way: Way,
    pub(super) anchor: Option<Arc<LinkAnchor>>,
}

/// What kinds of others there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Other {
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// An entry whose content is there already; its metadata is compared and mended.
#[derive(Debug)]
pub(super) struct RetouchTask {
    pub(super) spot: Spot,
    pub(super) is_file: bool,
    pub(super) size: u64,
    pub(super) attributes: Attributes,
    pub(super) anchor: Option<Arc<LinkAnchor>>,
}

/// One more name for a file.
#[derive(Debug)]
pub(super) struct LinkTask {
    pub(super) spot: Spot,
    pub(super) first: Arc<LinkAnchor>,
    pub(super) way: Way,
    pub(super) is_file: bool,
}

/// Pieces of a file that may be in the target already, and holes that may not be holes there.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) file: u32,
    pub(super) pieces: std::ops::Range<u32>,
    pub(super) holes: Vec<(u64, u64)>,
}

/// A piece in the order in which it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlacedPiece {
    pub(super) pack: u64,
    pub(super) frame: u32,
    pub(super) piece: u32,
}

/// A bounded part of a restore.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) files: Vec<Arc<FileTask>>,
    pub(super) chunks: Vec<ChunkRef>,
    pub(super) pieces: Vec<Piece>,
    /// Where each chunk lies; `None`: it is asked for by name.
    pub(super) placements: Vec<Option<Placement>>,
    /// The pieces that have a placement, sorted.
    pub(super) order: Vec<PlacedPiece>,
    /// The pieces that have none.
    pub(super) unplaced: Vec<u32>,
    /// How they are read, if that is known before anything is compared.
    pub(super) reading: Option<Reading>,
    pub(super) comparisons: Vec<Comparison>,
    /// For each piece, if there are comparisons: whether it is in the target already.
    pub(super) present: Vec<AtomicBool>,
    /// Files to which the planner adds no more pieces; it gives up its hold on them.
    pub(super) planned: Vec<Arc<FileTask>>,
    pub(super) others: Vec<OtherTask>,
    pub(super) retouches: Vec<RetouchTask>,
    pub(super) links: Vec<LinkTask>,
    /// Directories in which nothing more will be made, once this batch is done.
    pub(super) closed: Vec<Arc<TargetDirectory>>,
}

impl Batch {
    /// Returns how many entries it has, as a measure of its memory.
    pub(super) fn entries(&self) -> usize {
        self.files.len()
            + self.others.len()
            + self.retouches.len()
            + self.links.len()
            + self.closed.len()
    }

    /// Returns whether a comparison found the piece in the target.
    pub(super) fn is_present(&self, piece: u32) -> bool {
        self.present.get(piece as usize).is_some_and(|present| present.load(Ordering::Acquire))
    }

    /// Returns whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.entries() == 0 && self.pieces.is_empty() && self.planned.is_empty()
    }
}
