//! The planner: walks the point, makes its directories, decides on every entry and gathers what is to be done into batches of bounded size.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::io::Errno;

use crate::entry::{EntryPath, is_safe_name};
use crate::error::Result;
use crate::monitor::Event;
use crate::restore::batch::{
    Batch, Comparison, FileTask, LinkAnchor, LinkTask, Other, OtherTask, Piece, RetouchTask, Slot,
    Spot, TargetDirectory, Way,
};
use crate::restore::desk::Desk;
use crate::restore::directories::make_directory;
use crate::restore::existing::{Decision, decide, look};
use crate::restore::layout::{Layout, Stretch};
use crate::restore::run::{Outcome, Run};
use crate::restore::selection::Choice;
use crate::restore::tally::add;
use crate::target::attributes::Attributes;
use crate::tree::{
    ChunkFetch, Content, DEPTH_LIMIT, Entry, Extents, ListRef, Node, TreeCursor, read_list,
};

/// Entries of the first batch: small, so that the workers begin soon. Each further one has twice as many.
const ENTRIES_FIRST: usize = 2 << 10;
/// Entries of a batch at most: bounds memory. Large, because a frame that two batches need is decoded twice.
const ENTRIES_MOST: usize = 32 << 10;
/// Pieces of a batch at most, for each of its entries.
const PIECES_PER_ENTRY: usize = 4;

/// Walks the point; belongs to one thread.
pub(super) struct Planner<'a> {
    run: &'a Run<'a>,
    fetch: &'a dyn ChunkFetch,
    desk: Desk<'a>,
    levels: Vec<Level<'a>>,
    // Set until the root's level, or the single entry, is begun.
    start: Option<(Entry, Arc<TargetDirectory>)>,
    large: Option<LargeFile>,
    anchors: HashMap<(u64, u64), Arc<LinkAnchor>>,
    batch: Batch,
    entries_most: usize,
}

struct Level<'a> {
    cursor: TreeCursor<'a>,
    path: EntryPath,
    choice: Choice,
    place: Place,
}

// Whether the directory of a level is there.
enum Place {
    // Made when the first entry below is wanted.
    Unmade(Box<Entry>),
    Made(Arc<TargetDirectory>),
    // Something is in its place and stays; everything below is passed over.
    Blocked,
}

/// A file whose windows are planned one after the other, maybe over several batches.
struct LargeFile {
    file: Arc<FileTask>,
    windows: std::vec::IntoIter<ListRef>,
    offset: u64,
}

impl<'a> Planner<'a> {
    /// Creates the planner of the entry, which belongs into `root` or is it.
    pub(super) fn new(
        run: &'a Run<'a>,
        fetch: &'a dyn ChunkFetch,
        entry: Entry,
        root: Arc<TargetDirectory>,
    ) -> Self {
        Self {
            run,
            fetch,
            desk: Desk::new(run),
            levels: Vec::new(),
            start: Some((entry, root)),
            large: None,
            anchors: HashMap::new(),
            batch: Batch::default(),
            entries_most: ENTRIES_FIRST,
        }
    }

    /// Returns the next batch; `None` when everything is planned.
    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>> {
        if let Some((entry, root)) = self.start.take() {
            self.begin(entry, root)?;
        }
        while !self.is_full() {
            self.run.check()?;
            if self.large.is_some() {
                self.plan_window()?;
                continue;
            }
            let Some(level) = self.levels.last_mut() else { break };
            match level.cursor.next() {
                Some(Ok(entry)) => self.plan(&entry)?,
                Some(Err(error)) if error.is_damage() => {
                    let path = level.path.clone();
                    self.run.problem(path, format!("entries of the directory are lost: {error}"));
                    self.close_level();
                }
                Some(Err(error)) => return Err(error),
                None => self.close_level(),
            }
        }
        self.desk.report_done();
        if self.batch.is_empty() {
            return Ok(None);
        }
        self.entries_most = (self.entries_most * 2).min(ENTRIES_MOST);
        Ok(Some(std::mem::take(&mut self.batch)))
    }

    fn is_full(&self) -> bool {
        self.batch.entries() >= self.entries_most
            || self.batch.pieces.len() >= self.entries_most * PIECES_PER_ENTRY
    }

    fn begin(&mut self, entry: Entry, root: Arc<TargetDirectory>) -> Result<()> {
        let run = self.run;
        if let Node::Directory { tree, .. } = &entry.node {
            if run.options.dry_run && root.attributes.is_some() {
                add(&run.tally.directories, 1);
            }
            self.levels.push(Level {
                cursor: TreeCursor::new(self.fetch, *tree),
                path: run.origin.clone(),
                choice: run.selection.root(),
                place: Place::Made(root),
            });
            return Ok(());
        }
        let path = run.origin.join(&entry.name);
        if run.selection.choose(&path, false, run.selection.root()) == Choice::Wanted {
            let planned = self.plan_entry(&entry, &root);
            run.settle(|| path, planned)?;
        }
        self.batch.closed.push(root);
        Ok(())
    }

    fn close_level(&mut self) {
        if let Some(Level { place: Place::Made(directory), .. }) = self.levels.pop() {
            self.batch.closed.push(directory);
        }
    }

    fn plan(&mut self, entry: &Entry) -> Result<()> {
        // The decoder lets no other name through; nothing may ever be made from one.
        assert!(is_safe_name(&entry.name), "names of a decoded tree are safe");
        let level = self.levels.last().expect("an entry comes from a level");
        let path = level.path.join(&entry.name);
        let is_directory = matches!(entry.node, Node::Directory { .. });
        let choice = self.run.selection.choose(&path, is_directory, level.choice);
        match (&entry.node, choice) {
            (_, Choice::LeftOut) => Ok(()),
            (Node::Directory { .. }, _) => self.enter(entry, path, choice),
            _ => {
                let planned = self.place(self.levels.len() - 1).and_then(|place| match place {
                    Some(directory) => self.plan_entry(entry, &directory),
                    None => {
                        add(&self.run.tally.skipped, 1);
                        Ok(())
                    }
                });
                self.run.settle(|| path, planned)
            }
        }
    }

    fn enter(&mut self, entry: &Entry, path: EntryPath, choice: Choice) -> Result<()> {
        let Node::Directory { tree, .. } = &entry.node else { return Ok(()) };
        if self.levels.len() >= DEPTH_LIMIT {
            self.run.problem(path, "directories are nested too deeply".to_string());
            return Ok(());
        }
        self.levels.push(Level {
            cursor: TreeCursor::new(self.fetch, *tree),
            path: path.clone(),
            choice,
            place: Place::Unmade(Box::new(entry.clone())),
        });
        if choice == Choice::Wanted {
            let made = self.place(self.levels.len() - 1).map(|_| ());
            self.run.settle(|| path, made)?;
        }
        Ok(())
    }

    // Returns the directory of a level, made with those above if need be; `None` if something is in the way.
    fn place(&mut self, index: usize) -> Outcome<Option<Arc<TargetDirectory>>> {
        let unmade = match &mut self.levels[index].place {
            Place::Made(directory) => return Ok(Some(directory.clone())),
            Place::Blocked => return Ok(None),
            unmade @ Place::Unmade(_) => std::mem::replace(unmade, Place::Blocked),
        };
        let Place::Unmade(entry) = unmade else { unreachable!("it was matched above") };
        // Blocked until it is made, so that a failure is told once.
        let Some(parent) = self.place(index - 1)? else { return Ok(None) };
        match make_directory(&mut self.desk, &entry, &parent)? {
            Some(directory) => {
                let directory = Arc::new(directory);
                self.levels[index].place = Place::Made(directory.clone());
                Ok(Some(directory))
            }
            None => {
                add(&self.run.tally.skipped, 1);
                Ok(None)
            }
        }
    }

    fn plan_entry(&mut self, entry: &Entry, directory: &Arc<TargetDirectory>) -> Outcome<()> {
        let run = self.run;
        let attributes = run.owners.attributes(&entry.metadata);
        let fault = |errno: Errno| run.fault("look at what is there", errno);
        let mut decision = Decision::Make(Way::New);
        if !directory.fresh {
            let (parent, stat) = look(&mut self.desk, directory, &entry.name).map_err(fault)?;
            decision = match stat {
                None => Decision::Make(Way::Beside),
                Some(stat) => decide(run, parent.as_fd(), entry, &attributes, &stat)?,
            };
        }
        let spot = Spot { directory: directory.clone(), name: entry.name.as_slice().into() };
        let is_file = matches!(entry.node, Node::File { .. });
        if decision == Decision::Skip {
            add(&run.tally.skipped, 1);
            run.monitor.event(Event::Done { items: 1, bytes: size_of(entry) });
            return Ok(());
        }
        let group = entry.metadata.hard_link_device.map(|device| (device, entry.metadata.inode));
        if let Some(first) = group.and_then(|group| self.anchors.get(&group)) {
            let way = match decision {
                Decision::Make(Way::New) => Way::New,
                Decision::Make(Way::Beside) => Way::Beside,
                _ => Way::Over,
            };
            let first = first.clone();
            if run.options.dry_run {
                add(if is_file { &run.tally.files } else { &run.tally.others }, 1);
            } else {
                self.desk.count_present(size_of(entry));
                self.batch.links.push(LinkTask { spot, first, way, is_file });
            }
            return Ok(());
        }
        let anchor = group.map(|group| {
            let anchor = Arc::new(LinkAnchor { spot: spot.clone(), identity: OnceLock::new() });
            self.anchors.insert(group, anchor.clone());
            anchor
        });
        match decision {
            Decision::Skip => Ok(()),
            Decision::Retouch if run.options.dry_run => {
                add(&run.tally.unchanged, 1);
                Ok(())
            }
            Decision::Retouch => {
                let size = size_of(entry);
                let task = RetouchTask { spot, is_file, size, attributes, anchor };
                self.batch.retouches.push(task);
                Ok(())
            }
            Decision::Make(way) => match &entry.node {
                Node::File { size, content } => {
                    self.plan_file(spot, attributes, way, anchor, *size, content)
                }
                node => self.plan_other(spot, attributes, way, anchor, node),
            },
        }
    }

    fn plan_other(
        &mut self,
        spot: Spot,
        attributes: Attributes,
        way: Way,
        anchor: Option<Arc<LinkAnchor>>,
        node: &Node,
    ) -> Outcome<()> {
        let what = match node {
            Node::Symlink { target } => Other::Symlink(target.clone()),
            Node::Fifo => Other::Fifo,
            Node::Socket => Other::Socket,
            Node::CharDevice { major, minor } => Other::CharDevice(*major, *minor),
            Node::BlockDevice { major, minor } => Other::BlockDevice(*major, *minor),
            Node::File { .. } | Node::Directory { .. } => return Ok(()),
        };
        if self.run.options.dry_run {
            add(&self.run.tally.others, 1);
        } else {
            self.batch.others.push(OtherTask { spot, what, attributes, way, anchor });
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn plan_file(
        &mut self,
        spot: Spot,
        attributes: Attributes,
        way: Way,
        anchor: Option<Arc<LinkAnchor>>,
        size: u64,
        content: &Content,
    ) -> Outcome<()> {
        if self.run.options.dry_run {
            add(&self.run.tally.files, 1);
            add(&self.run.tally.bytes, size);
            return Ok(());
        }
        let number = self.batch.files.len() as u32;
        let first = self.batch.pieces.len();
        let holes = match content {
            Content::Inline(extents) => self.add_pieces(number, extents, 0, size),
            Content::None if size > 0 => {
                self.desk.count_present(size);
                vec![(0, size)]
            }
            Content::None | Content::Listed(_) => Vec::new(),
        };
        let pieces = (self.batch.pieces.len() - first) as u32;
        let known = matches!(content, Content::Inline(_)) && pieces > 0;
        let file = Arc::new(FileTask {
            spot,
            size,
            attributes,
            way,
            pieces: if known { pieces } else { 0 },
            outstanding: AtomicU64::new(if known { pieces.into() } else { 1 }),
            anchor,
            slot: Mutex::new(Slot::Waiting),
            differs: AtomicBool::new(false),
        });
        self.batch.files.push(file.clone());
        self.add_comparison(&file, number, first, holes);
        match content {
            Content::Listed(windows) => {
                let windows = windows.clone().into_iter();
                self.large = Some(LargeFile { file, windows, offset: 0 });
            }
            _ if !known => self.batch.planned.push(file),
            _ => {}
        }
        Ok(())
    }

    fn plan_window(&mut self) -> Result<()> {
        let Some(mut large) = self.large.take() else { return Ok(()) };
        let Some(window) = large.windows.next() else {
            self.batch.planned.push(large.file);
            return Ok(());
        };
        match read_list(self.fetch, window) {
            Ok(extents) => {
                let known =
                    self.batch.files.last().is_some_and(|last| Arc::ptr_eq(last, &large.file));
                if !known {
                    self.batch.files.push(large.file.clone());
                }
                let number = self.batch.files.len() as u32 - 1;
                let first = self.batch.pieces.len();
                let holes = self.add_pieces(number, &extents, large.offset, window.span);
                let pieces = (self.batch.pieces.len() - first) as u64;
                large.file.outstanding.fetch_add(pieces, std::sync::atomic::Ordering::AcqRel);
                self.add_comparison(&large.file, number, first, holes);
                large.offset += window.span;
                self.large = Some(large);
                Ok(())
            }
            Err(error) if error.is_damage() => {
                // The pieces planned so far find it failed; no more are planned.
                self.desk.fail(&large.file, error.to_string());
                self.batch.planned.push(large.file);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn add_comparison(
        &mut self,
        file: &FileTask,
        number: u32,
        first: usize,
        holes: Vec<(u64, u64)>,
    ) {
        let pieces = first as u32..self.batch.pieces.len() as u32;
        if matches!(file.way, Way::Patched | Way::Compared)
            && !(pieces.is_empty() && holes.is_empty())
        {
            self.batch.present.resize_with(self.batch.pieces.len(), AtomicBool::default);
            self.batch.comparisons.push(Comparison { file: number, pieces, holes });
        }
    }

    // Returns the holes.
    fn add_pieces(
        &mut self,
        file: u32,
        extents: &Extents,
        offset: u64,
        span: u64,
    ) -> Vec<(u64, u64)> {
        let base = self.batch.chunks.len() as u32;
        self.batch.chunks.extend_from_slice(&extents.chunks);
        let mut holes = Vec::new();
        for stretch in Layout::new(extents, offset, span) {
            match stretch {
                Stretch::Hole { offset, length } => {
                    self.desk.count_present(length);
                    holes.push((offset, length));
                }
                Stretch::Data { chunk, chunk_offset, offset, length } => {
                    self.batch.pieces.push(Piece {
                        file,
                        chunk: base + chunk as u32,
                        chunk_offset,
                        length,
                        offset,
                    });
                }
            }
        }
        holes
    }
}

fn size_of(entry: &Entry) -> u64 {
    match &entry.node {
        Node::File { size, .. } => *size,
        _ => 0,
    }
}
