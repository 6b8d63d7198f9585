//! Reading files: batches of small ones, and what is kept of each.

use std::sync::Arc;

use crate::backup::assembly::{DirectoryState, Outcome};
use crate::backup::content::{ReadError, WindowRead, held_still};
use crate::backup::walk::attempt::{Attempt, READS_MOST, Verdict, kept_changing};
use crate::backup::walk::queue::FileJob;
use crate::backup::walk::tally::data_bytes;
use crate::backup::walk::{Worker, lock, new_entry};
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::manifest::ProblemKind;
use crate::monitor::Event;
use crate::source::{SourceDetail, SourceError, SourceFile, SourceStat};
use crate::tree::{ChunkRef, Content, ListRef, Node, WINDOW_LENGTH, window_length};

/// Chunks that stand in an entry itself; more go to a list, so that trees stay small.
pub(super) const INLINE_CHUNKS: usize = 64;
/// Runs that stand in an entry itself.
const INLINE_RUNS: usize = 256;
/// Hard-linked files remembered, so that their content is read once.
const HARD_LINKS_MOST: usize = 1 << 20;
/// Files handled as one job; enough to keep neighbours together, few enough to share a large directory.
const BATCH_FILES: usize = 128;
/// A job of files ends early when they have so many bytes.
const BATCH_BYTES: u64 = 8 << 20;

pub(super) struct LinkedFile {
    pub(super) stat: SourceStat,
    pub(super) content: Content,
    pub(super) detail: SourceDetail,
}

/// Cuts the files of a directory into jobs.
pub(super) fn batches(state: &DirectoryState, files: Vec<FileJob>) -> Vec<Vec<FileJob>> {
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

impl Worker<'_, '_> {
    pub(super) fn read_files(
        &mut self,
        directory: &Arc<DirectoryState>,
        files: Vec<FileJob>,
    ) -> Result<()> {
        for file in files {
            if self.run.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            self.read_file(directory, file)?;
        }
        Ok(())
    }

    pub(super) fn read_file(
        &mut self,
        directory: &Arc<DirectoryState>,
        job: FileJob,
    ) -> Result<()> {
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
        if stat.size > WINDOW_LENGTH {
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

    pub(super) fn linked(&self, stat: &SourceStat) -> Option<Arc<LinkedFile>> {
        if stat.links < 2 {
            return None;
        }
        let linked = lock(&self.run.hard_links).get(&(stat.device, stat.inode)).cloned()?;
        held_still(&linked.stat, stat).then_some(linked)
    }

    pub(super) fn read_window(
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

    // The content is stored; the entry follows.
    pub(super) fn keep_file(
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
        let is_large = stat.size > WINDOW_LENGTH;
        self.count_owner(&stat);
        self.tally.totals.files += 1;
        self.tally.totals.bytes += bytes;
        self.work_done(1, if is_large { 0 } else { bytes });
        let node = Node::File { size: stat.size, content };
        let kept = new_entry(entry.name.to_vec(), &stat, detail, node);
        self.settle(directory, ordinal, Outcome::of(&kept))
    }

    pub(super) fn content_of(
        &mut self,
        mut windows: Vec<WindowRead>,
        size: u64,
    ) -> Result<Content> {
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
}
