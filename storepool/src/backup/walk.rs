//! The walk: workers, their jobs, and what they decide about each entry.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backup::BackupOptions;
use crate::backup::assembly::{DirectoryState, Outcome};
use crate::backup::content::{ContentReader, ReadError, WindowRead, held_still};
use crate::backup::push_bounded;
use crate::chunks::{PoolChunks, PoolReader};
use crate::clock::Timestamp;
use crate::entry::{EntryPath, FileTime, Metadata};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, TreeId};
use crate::index::PackNo;
use crate::manifest::{Manifest, Problem, ProblemKind, Totals};
use crate::monitor::{Event, Monitor};
use crate::pool::Session;
use crate::source::{
    SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile, SourceKind, SourceStat,
};
use crate::tree::{
    ChunkRef, Content, DEPTH_LIMIT, Entry, ListRef, Node, TreeCursor, TreeSink, read_list,
    window_length,
};
use crate::writer::{ChunkWriter, PoolWriter};

/// Files handled as one job; enough to keep neighbours together, few enough to share a large directory.
const BATCH_FILES: usize = 128;
/// A job of files ends early when they have so many bytes.
const BATCH_BYTES: u64 = 8 << 20;
/// How often a file that changes under the reader is read.
const READS_MOST: u32 = 4;
/// Chunks that stand in an entry itself; more go to a list, so that trees stay small.
const INLINE_CHUNKS: usize = 64;
/// Runs that stand in an entry itself.
const INLINE_RUNS: usize = 256;
/// Hard-linked files remembered, so that their content is read once.
const HARD_LINKS_MOST: usize = 1 << 20;
/// A change in the same tick of the file system's clock as the look at the entry is invisible to the next run. Linux stamps
/// inodes with the time of its last timer interrupt, at most 10 ms ago; this leaves room for late interrupts.
const FINE_TICK: Duration = Duration::from_millis(100);
/// The same for file systems that keep whole seconds or less; the coarsest in use tick every two seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);
/// A time that is a multiple of this may come from a file system with a coarse clock.
const COARSE_NANOS: u32 = 10_000_000;
/// Work is reported to the monitor after so many entries or bytes.
const REPORT_ITEMS: u64 = 256;
const REPORT_BYTES: u64 = 4 << 20;

/// One run over a source.
pub(crate) struct Run<'a> {
    session: &'a Session,
    writer: &'a PoolWriter,
    options: &'a BackupOptions,
    base: Option<&'a Manifest>,
    // When the base looked at its first entry; none if it is not to be trusted.
    base_started: Option<Timestamp>,
    // The base's chunks are known to be there without looking.
    base_is_whole: bool,
    monitor: &'a dyn Monitor,
    queue: Queue,
    hard_links: Mutex<HashMap<(u64, u64), Arc<LinkedFile>>>,
    root: Mutex<Option<Entry>>,
}

struct LinkedFile {
    stat: SourceStat,
    content: Content,
    detail: SourceDetail,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) root: Entry,
    pub(crate) totals: Totals,
    pub(crate) entries_new: u64,
    pub(crate) entries_changed: u64,
    pub(crate) entries_unchanged: u64,
    pub(crate) problems: Vec<Problem>,
    pub(crate) problem_count: u64,
    pub(crate) users: BTreeSet<u32>,
    pub(crate) groups: BTreeSet<u32>,
    pub(crate) relied_on: HashSet<PackNo>,
}

enum Job {
    Scan(ScanJob),
    Files(Arc<DirectoryState>, Vec<FileJob>),
    Window(Arc<LargeFile>, usize),
}

struct ScanJob {
    parent: Option<(Arc<DirectoryState>, usize)>,
    source: Option<Arc<dyn SourceDirectory>>,
    stat: SourceStat,
    base: Option<Box<Entry>>,
}

struct FileJob {
    ordinal: usize,
    base: Option<Box<Content>>,
}

struct LargeFile {
    directory: Arc<DirectoryState>,
    ordinal: usize,
    base: Option<Box<Content>>,
    file: Box<dyn SourceFile>,
    attempt: Attempt,
    windows: Mutex<LargeWindows>,
}

struct LargeWindows {
    read: Vec<Option<WindowRead>>,
    left: usize,
    failure: Option<SourceError>,
}

/// One try to read a file that should hold still.
struct Attempt {
    stat: SourceStat,
    number: u32,
    // What an earlier try found in the same bytes.
    before: Option<Vec<WindowRead>>,
}

/// What to do after a try.
enum Verdict {
    Accept(SourceStat),
    Again(Attempt),
    GiveUp,
}

impl Attempt {
    fn first(stat: SourceStat) -> Self {
        Self { stat, number: 1, before: None }
    }

    /// Judges what was read: either the file held still, or two readings of the same bytes agree (a log that only grows), so that they were
    /// together in the file between the two.
    fn judge(self, windows: &[WindowRead], after: SourceStat) -> Verdict {
        if held_still(&self.stat, &after) || self.before.as_deref() == Some(windows) {
            return Verdict::Accept(self.stat);
        }
        if self.number >= READS_MOST || after.kind != SourceKind::File {
            return Verdict::GiveUp;
        }
        let number = self.number + 1;
        if after.size < self.stat.size {
            return Verdict::Again(Attempt { stat: after, number, before: None });
        }
        let again = SourceStat { size: self.stat.size, ..after };
        let before = windows
            .iter()
            .map(|window| WindowRead {
                extents: window.extents.clone(),
                data_bytes: window.data_bytes,
            })
            .collect();
        Verdict::Again(Attempt { stat: again, number, before: Some(before) })
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        session: &'a Session,
        writer: &'a PoolWriter,
        options: &'a BackupOptions,
        base: Option<&'a Manifest>,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let base_started = base.filter(|_| !options.force).map(|base| base.started);
        let pool = session.pool();
        let base_is_whole = pool.is_whole() && !pool.index().is_suspect()?;
        Ok(Self {
            session,
            writer,
            options,
            base,
            base_started,
            base_is_whole,
            monitor,
            queue: Queue::default(),
            hard_links: Mutex::default(),
            root: Mutex::default(),
        })
    }

    /// Runs the workers until everything is read and every tree is stored.
    pub(crate) fn walk(&self, stat: SourceStat, root: Arc<dyn SourceDirectory>) -> Result<Walked> {
        let base = self.base.map(|base| Box::new(base.root_entry.clone()));
        self.queue.push(Job::Scan(ScanJob { parent: None, source: Some(root), stat, base }));
        let threads = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut tallies = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            let mut workers = Vec::new();
            for _ in 0..threads {
                let worker = Worker::new(self)?;
                let spawned = std::thread::Builder::new()
                    .name("reader".to_string())
                    .spawn_scoped(scope, move || worker.work());
                match spawned {
                    Ok(handle) => workers.push(handle),
                    Err(cause) => {
                        self.queue.stop();
                        return Err(Error::io("start a thread for", Path::new("reading"))(cause));
                    }
                }
            }
            let mut failure = None;
            for worker in workers {
                match worker.join() {
                    Ok(Ok(tally)) => tallies.push(tally),
                    Ok(Err(error)) => {
                        // An interruption caused by another worker's failure is not the story.
                        if failure.is_none() || matches!(failure, Some(Error::Interrupted)) {
                            failure = Some(error);
                        }
                    }
                    Err(_) => failure = Some(Error::WorkerPanicked { stage: "reading files" }),
                }
            }
            failure.map_or(Ok(()), Err)
        })?;
        let root = lock(&self.root).take().ok_or(Error::Interrupted)?;
        Ok(gather(root, tallies))
    }

    fn looks_unchanged(&self, stat: &SourceStat, base: &Entry) -> bool {
        let metadata = &base.metadata;
        let Some(base_started) = self.base_started else { return false };
        u32::from(stat.mode) == metadata.mode
            && stat.uid == metadata.uid
            && stat.gid == metadata.gid
            && stat.mtime == metadata.mtime
            && stat.ctime == metadata.ctime
            && stat.inode == metadata.inode
            && settled_before(stat.ctime, base_started)
            && match &base.node {
                Node::File { size, .. } => stat.kind == SourceKind::File && stat.size == *size,
                Node::Directory { .. } => stat.kind == SourceKind::Directory,
                Node::Symlink { .. } => stat.kind == SourceKind::Symlink,
                Node::Fifo => stat.kind == SourceKind::Fifo,
                Node::Socket => stat.kind == SourceKind::Socket,
                Node::CharDevice { major, minor } => {
                    stat.kind == SourceKind::CharDevice && stat.special == (*major, *minor)
                }
                Node::BlockDevice { major, minor } => {
                    stat.kind == SourceKind::BlockDevice && stat.special == (*major, *minor)
                }
            }
    }
}

// An entry changed in the same tick as the base looked at it may have changed again unseen.
fn settled_before(ctime: FileTime, base_started: Timestamp) -> bool {
    let tick = if ctime.nanos.is_multiple_of(COARSE_NANOS) { COARSE_TICK } else { FINE_TICK };
    let limit = base_started.minus(tick).0;
    (ctime.seconds, i64::from(ctime.nanos))
        < (limit.div_euclid(1_000_000_000), limit.rem_euclid(1_000_000_000))
}

#[cfg(test)]
mod settled {
    use super::*;

    const STARTED: Timestamp = Timestamp(1_000_000_000_000);

    fn at(seconds: i64, nanos: u32) -> FileTime {
        FileTime { seconds, nanos }
    }

    #[test]
    fn a_fine_clock_is_trusted_after_a_tenth_of_a_second() {
        assert!(settled_before(at(999, 899_999_999), STARTED));
        assert!(!settled_before(at(999, 900_000_001), STARTED));
        assert!(!settled_before(at(1_000, 1), STARTED));
        assert!(!settled_before(at(2_000, 1), STARTED));
    }

    #[test]
    fn a_clock_of_whole_seconds_or_hundredths_needs_two_seconds() {
        assert!(settled_before(at(997, 0), STARTED));
        assert!(!settled_before(at(998, 0), STARTED));
        assert!(!settled_before(at(999, 0), STARTED));
        assert!(!settled_before(at(998, 750_000_000), STARTED));
    }
}

fn gather(root: Entry, tallies: Vec<Tally>) -> Walked {
    let mut walked = Walked {
        root,
        totals: Totals::default(),
        entries_new: 0,
        entries_changed: 0,
        entries_unchanged: 0,
        problems: Vec::new(),
        problem_count: 0,
        users: BTreeSet::new(),
        groups: BTreeSet::new(),
        relied_on: HashSet::new(),
    };
    for tally in tallies {
        walked.totals.files += tally.totals.files;
        walked.totals.directories += tally.totals.directories;
        walked.totals.others += tally.totals.others;
        walked.totals.bytes += tally.totals.bytes;
        walked.totals.bytes_read += tally.totals.bytes_read;
        walked.entries_new += tally.entries_new;
        walked.entries_changed += tally.entries_changed;
        walked.entries_unchanged += tally.entries_unchanged;
        walked.problem_count += tally.problem_count;
        for problem in tally.problems {
            push_bounded(&mut walked.problems, problem);
        }
        walked.users.extend(tally.users);
        walked.groups.extend(tally.groups);
        walked.relied_on.extend(tally.relied_on);
    }
    walked.problems.sort_by(|one, other| one.path.cmp(&other.path));
    walked
}

/// What one worker has counted.
#[derive(Default)]
struct Tally {
    totals: Totals,
    entries_new: u64,
    entries_changed: u64,
    entries_unchanged: u64,
    problems: Vec<Problem>,
    problem_count: u64,
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
    last_owner: Option<(u32, u32)>,
    relied_on: HashSet<PackNo>,
    unreported_items: u64,
    unreported_bytes: u64,
}

struct Worker<'r, 'a> {
    run: &'r Run<'a>,
    writer: ChunkWriter,
    base: PoolReader<'a>,
    content: ContentReader,
    tally: Tally,
}

impl<'r, 'a> Worker<'r, 'a> {
    fn new(run: &'r Run<'a>) -> Result<Self> {
        Ok(Self {
            run,
            writer: run.writer.chunk_writer()?,
            base: PoolChunks::new(run.session).pool_reader()?,
            content: ContentReader::new(),
            tally: Tally::default(),
        })
    }

    fn work(mut self) -> Result<Tally> {
        // However this worker ends, the others must not wait for it for ever.
        let guard = StopOnFailure { queue: &self.run.queue, armed: true };
        while let Some(job) = self.run.queue.pop() {
            if self.run.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            match job {
                Job::Scan(scan) => self.scan(scan)?,
                Job::Files(directory, files) => self.read_files(&directory, files)?,
                Job::Window(file, window) => self.read_large_window(&file, window)?,
            }
            self.run.queue.done();
        }
        if self.run.queue.was_stopped() {
            return Err(Error::Interrupted);
        }
        self.report_work();
        self.tally.relied_on = self.writer.finish()?;
        let mut guard = guard;
        guard.armed = false;
        Ok(self.tally)
    }

    fn scan(&mut self, job: ScanJob) -> Result<()> {
        let path = match &job.parent {
            None => EntryPath::root(),
            Some((parent, ordinal)) => parent.path.join(&parent.entries[*ordinal].name),
        };
        let name: &[u8] = match &job.parent {
            None => b".",
            Some((parent, ordinal)) => &parent.entries[*ordinal].name,
        };
        let name = name.to_vec();
        let opened = match (&job.source, &job.parent) {
            (Some(source), _) => Ok(source.clone()),
            (None, Some((parent, ordinal))) => parent.source.directory(&parent.entries[*ordinal]),
            (None, None) => unreachable!("the root comes open"),
        };
        let (source, listing) = match opened.and_then(|source| Ok((source.list()?, source))) {
            Ok((listing, source)) => (source, listing),
            Err(error) => return self.leave_out_directory(&job, &path, name, error),
        };
        if path.components().count() >= DEPTH_LIMIT {
            let error = SourceError {
                kind: ProblemKind::Unsupported,
                message: format!("lies deeper than {DEPTH_LIMIT} directories"),
            };
            return self.leave_out_directory(&job, &path, name, error);
        }
        for (name, error) in listing.problems {
            self.problem(path.join(&name), &error);
        }
        self.tally.totals.directories += 1;
        self.count_owner(&job.stat);
        let own = self.directory_entry(&job, &path, name, source.as_ref());
        let base_tree = match job.base.as_deref() {
            Some(Entry { node: Node::Directory { tree, .. }, .. }) => Some(*tree),
            _ => None,
        };
        let state = Arc::new(DirectoryState::new(
            path,
            job.parent,
            own,
            base_tree,
            source,
            listing.entries,
        ));
        self.compare_entries(&state)
    }

    // Compares a listing with the base, settles what needs no reading, and makes jobs of the rest.
    fn compare_entries(&mut self, state: &Arc<DirectoryState>) -> Result<()> {
        let mut settled = Vec::new();
        let mut directories = Vec::new();
        let mut files = Vec::new();
        let base = self.base_entries(state)?;
        let mut base = base.into_iter().peekable();
        for (ordinal, entry) in state.entries.iter().enumerate() {
            while base.next_if(|other| *other.name < *entry.name).is_some() {}
            let base_entry = base.next_if(|other| *other.name == *entry.name);
            match entry.stat.kind {
                SourceKind::Directory => directories.push((ordinal, base_entry.map(Box::new))),
                _ => match self.settle_unread(state, entry, base_entry)? {
                    Unread::Settled(outcome) => settled.push((ordinal, outcome)),
                    Unread::Read(base) => files.push(FileJob { ordinal, base }),
                },
            }
        }
        drop(base);
        let mut sink = Sink::new(&mut self.writer, self.run, state.base_tree);
        state.settle_all(settled.into_iter(), &mut sink)?;
        for (ordinal, base) in directories.into_iter().rev() {
            let stat = state.entries[ordinal].stat;
            let parent = Some((state.clone(), ordinal));
            self.run.queue.push(Job::Scan(ScanJob { parent, source: None, stat, base }));
        }
        let mut batches = self.batches(state, files);
        let first = if batches.is_empty() { None } else { Some(batches.remove(0)) };
        for batch in batches.into_iter().rev() {
            self.run.queue.push(Job::Files(state.clone(), batch));
        }
        if let Some(files) = first {
            self.read_files(state, files)?;
        }
        if state.listed() { self.close(state.clone()) } else { Ok(()) }
    }

    fn batches(&self, state: &DirectoryState, files: Vec<FileJob>) -> Vec<Vec<FileJob>> {
        let mut batches: Vec<Vec<FileJob>> = Vec::new();
        let mut bytes = u64::MAX;
        for file in files {
            let size = state.entries[file.ordinal].stat.size;
            let full = batches.last().is_none_or(|batch| batch.len() >= BATCH_FILES);
            if full || bytes.saturating_add(size) > BATCH_BYTES {
                batches.push(Vec::new());
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            batches.last_mut().expect("a batch was pushed").push(file);
        }
        batches
    }

    // The base's entries of a directory. A base that cannot be read is worth as much as none: everything is read again.
    fn base_entries(&self, state: &DirectoryState) -> Result<Vec<Entry>> {
        let Some(tree) = state.base_tree else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for entry in TreeCursor::new(&self.base, tree) {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) if error.is_damage() => {
                    tracing::warn!(path = %state.path, %error, "the base's directory is damaged");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn settle_unread(
        &mut self,
        state: &DirectoryState,
        entry: &SourceEntry,
        base: Option<Entry>,
    ) -> Result<Unread> {
        let unchanged = match &base {
            Some(base) => {
                self.run.looks_unchanged(&entry.stat, base) && self.content_is_there(base)?
            }
            None => false,
        };
        if unchanged {
            let base = base.expect("unchanged from something");
            self.tally.entries_unchanged += 1;
            self.count_entry(&entry.stat, data_bytes(&base.node, entry.stat.size));
            return Ok(Unread::Settled(Outcome::of(&base)));
        }
        if base.is_some() {
            self.tally.entries_changed += 1;
        } else {
            self.tally.entries_new += 1;
        }
        if entry.stat.kind == SourceKind::File {
            let content = base.and_then(|base| match base.node {
                Node::File { content, .. } => Some(Box::new(content)),
                _ => None,
            });
            return Ok(Unread::Read(content));
        }
        let detail = match state.source.detail(entry) {
            Ok(detail) => detail,
            Err(error) => {
                self.problem(state.path.join(&entry.name), &error);
                if entry.stat.kind == SourceKind::Symlink || error.kind == ProblemKind::Vanished {
                    return Ok(Unread::Settled(Outcome::LeftOut));
                }
                SourceDetail::default()
            }
        };
        self.count_entry(&entry.stat, 0);
        let (major, minor) = entry.stat.special;
        let node = match entry.stat.kind {
            SourceKind::Symlink => Node::Symlink { target: detail.target.clone() },
            SourceKind::Fifo => Node::Fifo,
            SourceKind::Socket => Node::Socket,
            SourceKind::CharDevice => Node::CharDevice { major, minor },
            SourceKind::BlockDevice => Node::BlockDevice { major, minor },
            SourceKind::File | SourceKind::Directory => unreachable!("handled before"),
        };
        let kept = new_entry(entry.name.to_vec(), &entry.stat, detail, node);
        Ok(Unread::Settled(Outcome::of(&kept)))
    }

    // With a part of the pool missing, an unchanged file counts as unchanged only if its chunks are there; else it is read and stored again.
    fn content_is_there(&mut self, base: &Entry) -> Result<bool> {
        if self.run.base_is_whole {
            return Ok(true);
        }
        let Node::File { content, .. } = &base.node else { return Ok(true) };
        match content {
            Content::None => Ok(true),
            Content::Inline(extents) => self.chunks_are_there(&extents.chunks),
            Content::Listed(lists) => {
                for list in lists {
                    match read_list(&self.base, *list) {
                        Ok(extents) => {
                            if !self.writer.has(list.id)?
                                || !self.chunks_are_there(&extents.chunks)?
                            {
                                return Ok(false);
                            }
                        }
                        Err(error) if error.is_damage() => return Ok(false),
                        Err(error) => return Err(error),
                    }
                }
                Ok(true)
            }
        }
    }

    fn chunks_are_there(&mut self, chunks: &[ChunkRef]) -> Result<bool> {
        for chunk in chunks {
            if !self.writer.has(chunk.id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_files(&mut self, directory: &Arc<DirectoryState>, files: Vec<FileJob>) -> Result<()> {
        for file in files {
            if self.run.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            self.read_file(directory, file)?;
        }
        Ok(())
    }

    fn read_file(&mut self, directory: &Arc<DirectoryState>, job: FileJob) -> Result<()> {
        let entry = &directory.entries[job.ordinal];
        let mut stat = entry.stat;
        if self.run.options.dry_run {
            self.count_entry(&stat, stat.size);
            self.tally.totals.bytes_new += stat.size;
            return self.settle(directory, job.ordinal, Outcome::LeftOut);
        }
        if let Some(linked) = self.linked(&stat) {
            let node = Node::File { size: stat.size, content: linked.content.clone() };
            self.count_entry(&stat, data_bytes(&node, stat.size));
            let kept = new_entry(entry.name.to_vec(), &stat, linked.detail.clone(), node);
            return self.settle(directory, job.ordinal, Outcome::of(&kept));
        }
        let file = match directory.source.file(entry) {
            Ok(file) => file,
            Err(error) => return self.leave_out(directory, job.ordinal, &error),
        };
        if stat.size > crate::tree::WINDOW_LENGTH {
            self.run.monitor.event(Event::Current(directory.path.join(&entry.name)));
            self.start_large(directory, job, file, Attempt::first(stat));
            return Ok(());
        }
        let known = match job.base.as_deref() {
            Some(Content::Inline(extents)) => extents.chunks.clone(),
            Some(Content::Listed(lists)) => self.known_of_list(lists.first()),
            _ => Vec::new(),
        };
        let mut attempt = Attempt::first(stat);
        let window = loop {
            let read = self.read_window(&*file, &attempt.stat, 0, attempt.stat.size, &known);
            let read = match read {
                Ok(read) => read,
                Err(ReadError::Pool(error)) => return Err(error),
                Err(ReadError::Source(error)) => {
                    // Shorter than it was: look again, unless it happens over and over.
                    match file.stat() {
                        Ok(after)
                            if error.kind == ProblemKind::Changed
                                && attempt.number < READS_MOST =>
                        {
                            attempt =
                                Attempt { stat: after, number: attempt.number + 1, before: None };
                            continue;
                        }
                        _ => return self.leave_out(directory, job.ordinal, &error),
                    }
                }
            };
            let after = match file.stat() {
                Ok(after) => after,
                Err(cause) => {
                    let error = SourceError::io("examine", &cause);
                    return self.leave_out(directory, job.ordinal, &error);
                }
            };
            match attempt.judge(std::slice::from_ref(&read), after) {
                Verdict::Accept(accepted) => {
                    stat = accepted;
                    break read;
                }
                Verdict::Again(next) => attempt = next,
                Verdict::GiveUp => return self.leave_out(directory, job.ordinal, &kept_changing()),
            }
        };
        self.keep_file(directory, job.ordinal, &*file, stat, vec![window])
    }

    fn linked(&self, stat: &SourceStat) -> Option<Arc<LinkedFile>> {
        if stat.links < 2 {
            return None;
        }
        let linked = lock(&self.run.hard_links).get(&(stat.device, stat.inode)).cloned()?;
        held_still(&linked.stat, stat).then_some(linked)
    }

    fn known_of_list(&self, list: Option<&ListRef>) -> Vec<ChunkRef> {
        // Only a shortcut: without it each chunk is looked up.
        if !self.run.base_is_whole {
            return Vec::new();
        }
        list.and_then(|list| read_list(&self.base, *list).ok())
            .map(|extents| extents.chunks)
            .unwrap_or_default()
    }

    fn read_window(
        &mut self,
        file: &dyn SourceFile,
        stat: &SourceStat,
        start: u64,
        end: u64,
        known: &[ChunkRef],
    ) -> std::result::Result<WindowRead, ReadError> {
        let known = if self.run.base_is_whole { known } else { &[] };
        let read = self.content.read_window(file, stat, start, end, known, &mut self.writer)?;
        self.tally.totals.bytes_read += read.data_bytes;
        Ok(read)
    }

    fn start_large(
        &mut self,
        directory: &Arc<DirectoryState>,
        job: FileJob,
        file: Box<dyn SourceFile>,
        attempt: Attempt,
    ) {
        let length = window_length(attempt.stat.size);
        let count = attempt.stat.size.div_ceil(length) as usize;
        let large = Arc::new(LargeFile {
            directory: directory.clone(),
            ordinal: job.ordinal,
            base: job.base,
            file,
            attempt,
            windows: Mutex::new(LargeWindows {
                read: (0..count).map(|_| None).collect(),
                left: count,
                failure: None,
            }),
        });
        for window in (0..count).rev() {
            self.run.queue.push(Job::Window(large.clone(), window));
        }
    }

    fn read_large_window(&mut self, large: &Arc<LargeFile>, window: usize) -> Result<()> {
        let stat = large.attempt.stat;
        let length = window_length(stat.size);
        let start = window as u64 * length;
        let end = (start + length).min(stat.size);
        let failed_already = lock(&large.windows).failure.is_some();
        let outcome = if failed_already {
            Ok(None)
        } else {
            let known = match large.base.as_deref() {
                Some(Content::Listed(lists)) => {
                    // The same window of the base, if its windows were as long.
                    let list = lists
                        .get(window)
                        .filter(|list| list.span == end - start || list.span == length);
                    self.known_of_list(list)
                }
                _ => Vec::new(),
            };
            match self.read_window(&*large.file, &stat, start, end, &known) {
                Ok(read) => {
                    self.work_done(0, read.data_bytes);
                    Ok(Some(read))
                }
                Err(ReadError::Pool(error)) => return Err(error),
                Err(ReadError::Source(error)) => Err(error),
            }
        };
        let mut windows = lock(&large.windows);
        match outcome {
            Ok(read) => windows.read[window] = read,
            Err(error) => windows.failure = Some(error),
        }
        windows.left -= 1;
        if windows.left > 0 {
            return Ok(());
        }
        let failure = windows.failure.take();
        let read = std::mem::take(&mut windows.read);
        drop(windows);
        self.finish_large(large, failure, read.into_iter().flatten().collect())
    }

    fn finish_large(
        &mut self,
        large: &Arc<LargeFile>,
        failure: Option<SourceError>,
        read: Vec<WindowRead>,
    ) -> Result<()> {
        if let Some(error) = failure.as_ref().filter(|error| error.kind != ProblemKind::Changed) {
            return self.leave_out(&large.directory, large.ordinal, error);
        }
        let after = match large.file.stat() {
            Ok(after) => after,
            Err(cause) => {
                let error = SourceError::io("examine", &cause);
                return self.leave_out(&large.directory, large.ordinal, &error);
            }
        };
        let attempt = &large.attempt;
        let attempt = Attempt {
            stat: attempt.stat,
            number: attempt.number,
            before: attempt.before.as_ref().map(|windows| {
                windows
                    .iter()
                    .map(|window| WindowRead {
                        extents: window.extents.clone(),
                        data_bytes: window.data_bytes,
                    })
                    .collect()
            }),
        };
        match attempt.judge(&read, after) {
            Verdict::Accept(stat) if failure.is_none() => {
                self.keep_file(&large.directory, large.ordinal, &*large.file, stat, read)
            }
            Verdict::Again(next) => {
                let entry = &large.directory.entries[large.ordinal];
                match large.directory.source.file(entry) {
                    Ok(file) => {
                        let job = FileJob { ordinal: large.ordinal, base: large.base.clone() };
                        self.start_large(&large.directory, job, file, next);
                        Ok(())
                    }
                    Err(error) => self.leave_out(&large.directory, large.ordinal, &error),
                }
            }
            _ => self.leave_out(&large.directory, large.ordinal, &kept_changing()),
        }
    }

    // The content is stored; the entry follows.
    fn keep_file(
        &mut self,
        directory: &Arc<DirectoryState>,
        ordinal: usize,
        file: &dyn SourceFile,
        stat: SourceStat,
        windows: Vec<WindowRead>,
    ) -> Result<()> {
        let entry = &directory.entries[ordinal];
        let detail = match file.detail() {
            Ok(detail) => detail,
            Err(error) => {
                let error = SourceError { kind: ProblemKind::Metadata, ..error };
                self.problem(directory.path.join(&entry.name), &error);
                SourceDetail::default()
            }
        };
        let bytes: u64 = windows.iter().map(|window| window.data_bytes).sum();
        let content = self.content_of(windows, stat.size)?;
        if stat.links > 1 {
            let mut linked = lock(&self.run.hard_links);
            if linked.len() < HARD_LINKS_MOST {
                let file = LinkedFile { stat, content: content.clone(), detail: detail.clone() };
                linked.insert((stat.device, stat.inode), Arc::new(file));
            }
        }
        let is_large = stat.size > crate::tree::WINDOW_LENGTH;
        self.count_owner(&stat);
        self.tally.totals.files += 1;
        self.tally.totals.bytes += bytes;
        self.work_done(1, if is_large { 0 } else { bytes });
        let node = Node::File { size: stat.size, content };
        let kept = new_entry(entry.name.to_vec(), &stat, detail, node);
        self.settle(directory, ordinal, Outcome::of(&kept))
    }

    fn content_of(&mut self, mut windows: Vec<WindowRead>, size: u64) -> Result<Content> {
        if windows.iter().all(|window| window.extents.chunks.is_empty()) {
            return Ok(Content::None);
        }
        let small = windows.len() == 1
            && windows[0].extents.chunks.len() <= INLINE_CHUNKS
            && windows[0].extents.runs.len() <= INLINE_RUNS;
        if small {
            return Ok(Content::Inline(windows.remove(0).extents));
        }
        let length = window_length(size);
        let mut lists = Vec::with_capacity(windows.len());
        for (window, start) in windows.iter().zip((0..).step_by(length as usize)) {
            let (id, _) = self.writer.put(ChunkKind::List, &window.extents.encode_list())?;
            lists.push(ListRef { id, span: length.min(size - start) });
        }
        Ok(Content::Listed(lists))
    }

    fn settle(
        &mut self,
        directory: &Arc<DirectoryState>,
        ordinal: usize,
        outcome: Outcome,
    ) -> Result<()> {
        let mut sink = Sink::new(&mut self.writer, self.run, directory.base_tree);
        if directory.settle(ordinal, outcome, &mut sink)? {
            self.close(directory.clone())?;
        }
        Ok(())
    }

    // Closes a directory and every parent that waited for nothing else.
    fn close(&mut self, directory: Arc<DirectoryState>) -> Result<()> {
        let mut directory = directory;
        loop {
            let mut sink = Sink::new(&mut self.writer, self.run, directory.base_tree);
            let entry = directory.close(&mut sink)?;
            let Some((parent, ordinal)) = directory.parent.clone() else {
                *lock(&self.run.root) = Some(entry);
                return Ok(());
            };
            let mut sink = Sink::new(&mut self.writer, self.run, parent.base_tree);
            if !parent.settle(ordinal, Outcome::of(&entry), &mut sink)? {
                return Ok(());
            }
            directory = parent;
        }
    }

    fn leave_out(
        &mut self,
        directory: &Arc<DirectoryState>,
        ordinal: usize,
        error: &SourceError,
    ) -> Result<()> {
        self.problem(directory.path.join(&directory.entries[ordinal].name), error);
        self.settle(directory, ordinal, Outcome::LeftOut)
    }

    // A directory that cannot be read is kept, empty; one that is gone is left out.
    fn leave_out_directory(
        &mut self,
        job: &ScanJob,
        path: &EntryPath,
        name: Vec<u8>,
        error: SourceError,
    ) -> Result<()> {
        let Some((parent, ordinal)) = &job.parent else {
            return Err(Error::SourceFailed {
                name: self.run.options.source.clone(),
                cause: std::io::Error::other(error),
            });
        };
        self.problem(path.clone(), &error);
        if error.kind == ProblemKind::Vanished {
            return self.settle(parent, *ordinal, Outcome::LeftOut);
        }
        let mut sink = Sink::new(&mut self.writer, self.run, None);
        let tree = crate::tree::TreeBuilder::default().finish(&mut sink)?;
        let node = Node::Directory { tree, files: 0, bytes: 0 };
        let kept = new_entry(name, &job.stat, SourceDetail::default(), node);
        self.tally.totals.directories += 1;
        self.count_owner(&job.stat);
        self.settle(parent, *ordinal, Outcome::of(&kept))
    }

    fn directory_entry(
        &mut self,
        job: &ScanJob,
        path: &EntryPath,
        name: Vec<u8>,
        source: &dyn SourceDirectory,
    ) -> Entry {
        let node = Node::Directory { tree: ChunkId([0; 32]), files: 0, bytes: 0 };
        if let Some(base) = &job.base
            && self.run.looks_unchanged(&job.stat, base)
        {
            return Entry { name, metadata: base.metadata.clone(), node };
        }
        let detail = source.own_detail().unwrap_or_else(|error| {
            self.problem(path.clone(), &SourceError { kind: ProblemKind::Metadata, ..error });
            SourceDetail::default()
        });
        new_entry(name, &job.stat, detail, node)
    }

    fn problem(&mut self, path: EntryPath, error: &SourceError) {
        let message = error.message.clone();
        self.run.monitor.event(Event::Problem { path: path.clone(), message: message.clone() });
        self.tally.problem_count += 1;
        push_bounded(&mut self.tally.problems, Problem { path, kind: error.kind, message });
    }

    fn count_entry(&mut self, stat: &SourceStat, bytes: u64) {
        self.count_owner(stat);
        if stat.kind == SourceKind::File {
            self.tally.totals.files += 1;
            self.tally.totals.bytes += bytes;
        } else {
            self.tally.totals.others += 1;
        }
        self.work_done(1, bytes);
    }

    fn count_owner(&mut self, stat: &SourceStat) {
        if self.tally.last_owner != Some((stat.uid, stat.gid)) {
            self.tally.last_owner = Some((stat.uid, stat.gid));
            self.tally.users.insert(stat.uid);
            self.tally.groups.insert(stat.gid);
        }
    }

    fn work_done(&mut self, items: u64, bytes: u64) {
        self.tally.unreported_items += items;
        self.tally.unreported_bytes += bytes;
        if self.tally.unreported_items >= REPORT_ITEMS
            || self.tally.unreported_bytes >= REPORT_BYTES
        {
            self.report_work();
        }
    }

    fn report_work(&mut self) {
        let items = std::mem::take(&mut self.tally.unreported_items);
        let bytes = std::mem::take(&mut self.tally.unreported_bytes);
        self.run.monitor.event(Event::Done { items, bytes });
    }
}

enum Unread {
    Settled(Outcome),
    Read(Option<Box<Content>>),
}

fn kept_changing() -> SourceError {
    SourceError {
        kind: ProblemKind::Changed,
        message: format!("changed each of the {READS_MOST} times it was read"),
    }
}

fn data_bytes(node: &Node, size: u64) -> u64 {
    match node {
        Node::File { content: Content::None, .. } => 0,
        Node::File { content: Content::Inline(extents), .. } => {
            extents.chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
        }
        // The windows' holes are not known without reading their lists.
        Node::File { .. } => size,
        _ => 0,
    }
}

fn new_entry(name: Vec<u8>, stat: &SourceStat, detail: SourceDetail, node: Node) -> Entry {
    let has_other_names = stat.links > 1 && stat.kind != SourceKind::Directory;
    Entry {
        name,
        metadata: Metadata {
            mode: u32::from(stat.mode),
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            ctime: stat.ctime,
            inode: stat.inode,
            hard_link_device: has_other_names.then_some(stat.device),
            inode_flags: detail.inode_flags,
            xattrs: detail.xattrs,
        },
        node,
    }
}

/// Stores tree nodes; the base's own root node of the directory needs no looking up.
struct Sink<'w> {
    writer: &'w mut ChunkWriter,
    base_tree: Option<TreeId>,
    dry_run: bool,
}

impl<'w> Sink<'w> {
    fn new(writer: &'w mut ChunkWriter, run: &Run<'_>, base_tree: Option<TreeId>) -> Self {
        let base_tree = base_tree.filter(|_| run.base_is_whole);
        Self { writer, base_tree, dry_run: run.options.dry_run }
    }
}

impl TreeSink for Sink<'_> {
    fn put_tree(&mut self, node: &[u8]) -> Result<TreeId> {
        let id = ChunkId::of(ChunkKind::Tree, node);
        if self.base_tree != Some(id) && !self.dry_run {
            self.writer.put_named(id, ChunkKind::Tree, node)?;
        }
        Ok(id)
    }
}

/// The stack of jobs. The newest job goes first, so that few directories are open at a time and neighbours stay together.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: Vec<Job>,
    active: usize,
    stopped: bool,
}

impl Queue {
    fn push(&self, job: Job) {
        lock(&self.state).jobs.push(job);
        self.changed.notify_one();
    }

    // Waits for a job; `None` when all are done or the run was stopped.
    fn pop(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.active += 1;
                return Some(job);
            }
            if state.active == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut state = lock(&self.state);
        state.active -= 1;
        if state.active == 0 && state.jobs.is_empty() {
            self.changed.notify_all();
        }
    }

    fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    fn was_stopped(&self) -> bool {
        lock(&self.state).stopped
    }
}

struct StopOnFailure<'q> {
    queue: &'q Queue,
    armed: bool,
}

impl Drop for StopOnFailure<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.queue.stop();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
