//! The walk: workers, their jobs, and what they decide about each entry.

mod attempt;
mod base;
mod blocks;
mod cutting;
mod files;
mod large;
mod pieces;
mod queue;
mod sink;
mod streams;
mod tally;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::BackupOptions;
use crate::backup::assembly::{DirectoryState, Outcome};
use crate::backup::content::ContentReader;
use crate::backup::walk::files::{LinkedFile, batches};
use crate::backup::walk::queue::{FileJob, Job, Queue, ScanJob, StopOnFailure, StreamJob};
use crate::backup::walk::sink::Sink;
use crate::backup::walk::tally::{Tally, data_bytes, gather};
use crate::chunks::{PoolChunks, PoolReader};
use crate::clock::Timestamp;
use crate::entry::{EntryPath, Metadata};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::manifest::{Manifest, ProblemKind};
use crate::monitor::Monitor;
use crate::pool::Session;
use crate::source::{
    SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceKind, SourceStat,
};
use crate::tree::{Content, DEPTH_LIMIT, Entry, Node};
use crate::writer::{ChunkWriter, PoolWriter};

pub(crate) use crate::backup::walk::tally::Walked;

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
    // Held by whoever reads streams: a source may hand over one at a time only.
    stream_turn: Mutex<()>,
    threads: usize,
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
            stream_turn: Mutex::default(),
            threads: match options.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
        })
    }

    /// Runs the workers until everything is read and every tree is stored.
    pub(crate) fn walk(&self, stat: SourceStat, root: Arc<dyn SourceDirectory>) -> Result<Walked> {
        let base = self.base.map(|base| Box::new(base.root_entry.clone()));
        self.queue.push(Job::Scan(ScanJob { parent: None, source: Some(root), stat, base }));
        let mut tallies = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            let mut workers = Vec::new();
            for _ in 0..self.threads {
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
                Job::Streams(directory, streams) => self.read_streams(&directory, streams)?,
                Job::Piece(pieces) => self.take_ticket(&pieces)?,
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
        let mut streams = Vec::new();
        let base = self.base_entries(state)?;
        let mut base = base.into_iter().peekable();
        for (ordinal, entry) in state.entries.iter().enumerate() {
            while base.next_if(|other| *other.name < *entry.name).is_some() {}
            let base_entry = base.next_if(|other| *other.name == *entry.name);
            match entry.stat.kind {
                SourceKind::Directory => directories.push((ordinal, base_entry.map(Box::new))),
                SourceKind::Stream => {
                    streams.push(StreamJob { ordinal, base: base_entry.map(Box::new) });
                }
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
        if !streams.is_empty() {
            self.run.queue.push(Job::Streams(state.clone(), streams));
        }
        let mut batches = batches(state, files);
        let first = if batches.is_empty() { None } else { Some(batches.remove(0)) };
        for batch in batches.into_iter().rev() {
            self.run.queue.push(Job::Files(state.clone(), batch));
        }
        if let Some(files) = first {
            self.read_files(state, files)?;
        }
        if state.listed() { self.close(state.clone()) } else { Ok(()) }
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
            SourceKind::File | SourceKind::Directory | SourceKind::Stream => {
                unreachable!("handled before")
            }
        };
        let kept = new_entry(entry.name.to_vec(), &entry.stat, detail, node);
        Ok(Unread::Settled(Outcome::of(&kept)))
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
}

enum Unread {
    Settled(Outcome),
    Read(Option<Box<Content>>),
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
