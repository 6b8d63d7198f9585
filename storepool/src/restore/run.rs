//! One restore from beginning to end: planner on one thread, workers on others, this one between them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded};
use rustix::io::Errno;

use crate::chunks::ChunkSource;
use crate::entry::EntryPath;
use crate::error::{Error, Result};
use crate::filetree::OwnerNames;
use crate::manifest::Manifest;
use crate::monitor::{Event, Monitor};
use crate::restore::batch::{Batch, Spot, TargetDirectory};
use crate::restore::compare::CompareStage;
use crate::restore::desk::Desk;
use crate::restore::directories::{DirectoryStage, Frozen, freeze_all};
use crate::restore::entries::LinkStage;
use crate::restore::existing::refuse_conflicts;
use crate::restore::open_files::OpenFiles;
use crate::restore::owners::OwnerMap;
use crate::restore::plan::Planner;
use crate::restore::reading::Reading;
use crate::restore::selection::Selection;
use crate::restore::tally::Tally;
use crate::restore::workers::Crew;
use crate::restore::write::WriteStage;
use crate::restore::{Conflict, RestoreOptions, RestoreReport, find_path};
use crate::target::attributes::Shortfalls;
use crate::target::{DirectoryTarget, TargetState};
use crate::tree::{Entry, Node};

/// Batches planned ahead of the one being worked off.
const BATCHES_AHEAD: usize = 1;

/// What all threads of one restore share.
pub(super) struct Run<'a> {
    /// `None` in a dry run into a directory that does not exist.
    pub(super) target: Option<DirectoryTarget>,
    pub(super) options: &'a RestoreOptions,
    pub(super) conflict: Conflict,
    pub(super) selection: Selection<'a>,
    pub(super) owners: OwnerMap,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) tally: Tally,
    /// The path in the point that the target's root stands for.
    pub(super) origin: EntryPath,
    pub(super) privileged: bool,
    pub(super) open_files: OpenFiles,
    frozen: Mutex<Vec<Frozen>>,
    target_path: &'a Path,
    stopped: AtomicBool,
}

/// Why something was not done: the whole restore has to end, or one entry is lost.
#[derive(Debug)]
pub(super) enum Fault {
    Stop(Error),
    Entry(String),
}

/// What comes of work on one entry.
pub(super) type Outcome<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if error.is_damage() { Self::Entry(error.to_string()) } else { Self::Stop(error) }
    }
}

impl<'a> Run<'a> {
    pub(super) fn execute(
        source: &dyn ChunkSource,
        manifest: &Manifest,
        path: &EntryPath,
        target: &Path,
        options: &RestoreOptions,
        monitor: &dyn Monitor,
    ) -> Result<RestoreReport> {
        let reader = source.reader()?;
        let entry = find_path(&*reader, manifest, path)?;
        drop(reader);
        let run = Run::prepare(manifest, path, &entry, target, options, monitor)?;
        let root = run.root_directory(&entry);
        if run.conflict == Conflict::Fail && !root.fresh {
            refuse_conflicts(&run, source, &entry)?;
        }
        monitor.event(Event::Stage("restoring files"));
        if run.selection.is_everything() {
            monitor.event(expected(&entry));
            if let Node::Directory { files, .. } = &entry.node {
                source.expect_trees(*files);
            }
        }
        let result = run.transfer(source, entry, root);
        if result.is_err() {
            run.discard_unfinished();
        }
        result?;
        for refused in run.tally.refused() {
            run.problem(run.origin.clone(), refused);
        }
        Ok(run.tally.into_report())
    }

    fn prepare<'b>(
        manifest: &Manifest,
        path: &EntryPath,
        entry: &Entry,
        target: &'b Path,
        options: &'b RestoreOptions,
        monitor: &'b dyn Monitor,
    ) -> Result<Run<'b>> {
        let selection = Selection::new(options)
            .map_err(|reason| Error::Target { path: target.to_path_buf(), reason })?;
        // Closed to others until its own mode is set, if it will be.
        let is_directory = matches!(entry.node, Node::Directory { .. });
        let mode = if is_directory { 0o700 } else { 0o777 };
        let opened = if options.dry_run && !target.exists() {
            None
        } else if options.dry_run {
            Some(DirectoryTarget::open(target)?)
        } else {
            Some(DirectoryTarget::create(target, mode)?)
        };
        let conflict = match options.conflict {
            Conflict::Fail if options.in_place => Conflict::Overwrite,
            conflict => conflict,
        };
        let owners = if options.numeric_owner {
            OwnerMap::default()
        } else {
            OwnerMap::new(&manifest.owners, &OwnerNames::load())
        };
        Ok(Run {
            target: opened,
            options,
            conflict,
            selection,
            owners,
            monitor,
            tally: Tally::default(),
            origin: if is_directory { path.clone() } else { parent_of(path) },
            privileged: rustix::process::geteuid().is_root(),
            open_files: OpenFiles::new(),
            frozen: Mutex::default(),
            target_path: target,
            stopped: AtomicBool::new(false),
        })
    }

    fn root_directory(&self, entry: &Entry) -> Arc<TargetDirectory> {
        let state = self.target.as_ref().map_or(TargetState::Created, DirectoryTarget::state);
        let fresh = state != TargetState::Occupied;
        let tree = match &entry.node {
            Node::Directory { tree, .. } => Some(*tree),
            _ => None,
        };
        let restored = tree.is_some() && (fresh || self.options.in_place);
        let handle = self.target.as_ref().and_then(|target| {
            target.open_beneath(b"", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).ok()
        });
        Arc::new(TargetDirectory {
            parent: None,
            name: Box::default(),
            depth: 0,
            fresh,
            gives_acl: handle.is_some_and(|handle| {
                crate::target::attributes::has_default_acl(std::os::fd::AsFd::as_fd(&handle))
            }),
            attributes: restored.then(|| self.owners.attributes(&entry.metadata)),
            tree,
            swept: restored && !fresh && self.options.delete,
        })
    }

    fn transfer(
        &self,
        source: &dyn ChunkSource,
        entry: Entry,
        root: Arc<TargetDirectory>,
    ) -> Result<()> {
        if self.options.dry_run {
            let reader = source.reader()?;
            let mut planner = Planner::new(self, &*reader, entry, root);
            while let Some(batch) = planner.next_batch()? {
                self.check()?;
                let mut desk = Desk::new(self);
                for directory in &batch.closed {
                    crate::restore::directories::sweep(&mut desk, &*reader, directory)?;
                }
            }
            return Ok(());
        }
        let threads = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        std::thread::scope(|scope| {
            let (sender, batches) = bounded(BATCHES_AHEAD);
            let planner = scope.spawn(move || self.plan(source, entry, root, threads, &sender));
            let crew = Crew::start(scope, self, source, threads);
            let mut result = Ok(());
            for batch in &batches {
                result = self.check().and_then(|()| self.work_off(source, batch, &crew));
                if result.is_err() {
                    self.stop();
                    break;
                }
            }
            // A planner that waits to hand over a batch is let go.
            drop(batches);
            let planned = planner
                .join()
                .unwrap_or(Err(Error::WorkerPanicked { stage: "planning a restore" }));
            result?;
            planned?;
            self.check()?;
            freeze_all(self)
        })
    }

    fn plan(
        &self,
        source: &dyn ChunkSource,
        entry: Entry,
        root: Arc<TargetDirectory>,
        workers: usize,
        batches: &Sender<Batch>,
    ) -> Result<()> {
        let reader = source.reader()?;
        // Trees are read by one reader while chunks are located by another.
        let mut locator = source.reader()?;
        let mut planner = Planner::new(self, &*reader, entry, root);
        while let Some(mut batch) = planner.next_batch()? {
            crate::restore::locate::locate(&mut batch, &mut *locator)?;
            if batch.comparisons.is_empty() {
                batch.reading = Some(Reading::plan(source, &batch, workers));
            }
            if batches.send(batch).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn work_off(
        &'a self,
        source: &dyn ChunkSource,
        mut batch: Batch,
        crew: &Crew<'a>,
    ) -> Result<()> {
        let reading = batch.reading.take();
        let batch = Arc::new(batch);
        if !batch.comparisons.is_empty() {
            crew.perform(Arc::new(CompareStage::new(self, batch.clone())))?;
        }
        // Only now is it known what has to be read where files are compared.
        let reading = reading.unwrap_or_else(|| Reading::plan(source, &batch, crew.count()));
        let write = WriteStage::new(self, batch.clone(), reading, crew.count());
        crew.perform(Arc::new(write))?;
        if !batch.links.is_empty() {
            crew.perform(Arc::new(LinkStage::new(self, batch.clone())))?;
        }
        if !batch.closed.is_empty() {
            crew.perform(Arc::new(DirectoryStage::new(self, batch)))?;
        }
        self.open_files.forget_finished();
        Ok(())
    }

    /// Returns the target; there is one whenever something is to be done.
    pub(super) fn target(&self) -> &DirectoryTarget {
        self.target.as_ref().expect("only a dry run goes without a target")
    }

    /// Makes all threads end soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Fails if the restore is to end: cancelled from outside or failed on another thread.
    pub(super) fn check(&self) -> Result<()> {
        if self.stopped.load(Ordering::Acquire) || self.monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Sorts a failed call on the target: some make all others fail too.
    pub(super) fn fault(&self, action: &str, errno: Errno) -> Fault {
        let path = self.target_path.to_path_buf();
        let cause = std::io::Error::from(errno);
        match errno {
            Errno::NOSPC | Errno::DQUOT => Fault::Stop(Error::TargetFull { path }),
            Errno::ROFS | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
                Fault::Stop(Error::Target { path, reason: format!("cannot {action}: {cause}") })
            }
            _ => Fault::Entry(format!("cannot {action}: {cause}")),
        }
    }

    /// Ends work on one entry: a fault of its own becomes a problem.
    pub(super) fn settle(
        &self,
        path: impl FnOnce() -> EntryPath,
        outcome: Outcome<()>,
    ) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Stop(error)) => Err(error),
            Err(Fault::Entry(message)) => {
                self.problem(path(), message);
                Ok(())
            }
        }
    }

    /// Records that an entry of the point, by its path, is not as it should be.
    pub(super) fn problem(&self, path: EntryPath, message: String) {
        self.monitor.event(Event::Problem { path: path.clone(), message: message.clone() });
        self.tally.problem(path, message);
    }

    /// Records a problem of what belongs at `spot`.
    pub(super) fn spot_problem(&self, spot: &Spot, message: String) {
        self.problem(self.entry_path(&spot.directory, Some(&spot.name)), message);
    }

    /// Records what an entry did not get.
    pub(super) fn note_shortfalls(
        &self,
        directory: &TargetDirectory,
        name: Option<&[u8]>,
        shortfalls: Shortfalls,
    ) {
        self.tally.refusals(&shortfalls);
        for failure in shortfalls.failures {
            self.problem(self.entry_path(directory, name), failure);
        }
    }

    /// Remembers an entry that is to be frozen when everything else is done.
    pub(super) fn freeze_later(&self, frozen: Frozen) {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner).push(frozen);
    }

    /// Takes out what is to be frozen.
    pub(super) fn take_frozen(&self) -> Vec<Frozen> {
        std::mem::take(&mut *self.frozen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the path in the point of a directory of the target, or of an entry of it.
    pub(super) fn entry_path(&self, directory: &TargetDirectory, name: Option<&[u8]>) -> EntryPath {
        let mut path = self.origin.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(&directory.path());
        path.push(b'/');
        path.extend_from_slice(name.unwrap_or_default());
        EntryPath::parse(&path).expect("names of a decoded tree are safe")
    }

    // What was begun under its final name is not to be taken for the whole.
    fn discard_unfinished(&self) {
        let mut desk = Desk::new(self);
        for file in self.open_files.take() {
            desk.discard(&file);
        }
    }
}

fn expected(entry: &Entry) -> Event {
    match &entry.node {
        Node::Directory { files, bytes, .. } => Event::Expected { items: *files, bytes: *bytes },
        Node::File { size, .. } => Event::Expected { items: 1, bytes: *size },
        _ => Event::Expected { items: 1, bytes: 0 },
    }
}

fn parent_of(path: &EntryPath) -> EntryPath {
    let bytes = path.as_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    EntryPath::parse(&bytes[..end]).expect("a part of a path is a path")
}
