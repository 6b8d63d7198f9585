//! Large files, read in windows by several workers at once.

use std::sync::{Arc, Mutex};

use crate::backup::assembly::DirectoryState;
use crate::backup::content::{ReadError, WindowRead};
use crate::backup::walk::attempt::{Attempt, Verdict, kept_changing};
use crate::backup::walk::queue::{FileJob, Job};
use crate::backup::walk::{Worker, lock};
use crate::error::Result;
use crate::manifest::ProblemKind;
use crate::source::{SourceError, SourceFile};
use crate::tree::{Content, window_length};

pub(super) struct LargeFile {
    pub(super) directory: Arc<DirectoryState>,
    pub(super) ordinal: usize,
    pub(super) base: Option<Box<Content>>,
    pub(super) file: Box<dyn SourceFile>,
    pub(super) attempt: Attempt,
    windows: Mutex<LargeWindows>,
}

struct LargeWindows {
    read: Vec<Option<WindowRead>>,
    left: usize,
    failure: Option<SourceError>,
}

impl Worker<'_, '_> {
    pub(super) fn start_large(
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

    pub(super) fn read_large_window(
        &mut self,
        large: &Arc<LargeFile>,
        window: usize,
    ) -> Result<()> {
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

    pub(super) fn finish_large(
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
        match large.attempt.clone().judge(&read, after) {
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
}
