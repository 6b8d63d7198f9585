//! Streams: what a program or a server hands over once, from beginning to end. Nobody knows their length before, so nothing is compared with it
//! afterwards; instead an error of a stream ends the whole run: half a dump is never a file of a point.

use std::io;
use std::sync::Arc;

use crate::backup::assembly::{DirectoryState, Outcome};
use crate::backup::walk::blocks::{Block, Blocks, Next};
use crate::backup::walk::cutting::Cutting;
use crate::backup::walk::files::INLINE_CHUNKS;
use crate::backup::walk::pieces::{Piece, Pieces};
use crate::backup::walk::queue::{Job, StreamJob};
use crate::backup::walk::{Worker, lock, new_entry};
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::monitor::Event;
use crate::source::{SourceDetail, SourceStat};
use crate::tree::{ChunkRef, Content, Entry, Extents, ListRef, Node};

impl Worker<'_, '_> {
    pub(super) fn read_streams(
        &mut self,
        directory: &Arc<DirectoryState>,
        streams: Vec<StreamJob>,
    ) -> Result<()> {
        let run = self.run;
        let turn = lock(&run.stream_turn);
        for stream in streams {
            if run.monitor.cancelled() || run.queue.was_stopped() {
                return Err(Error::Interrupted);
            }
            self.read_stream(directory, stream)?;
        }
        drop(turn);
        Ok(())
    }

    fn read_stream(&mut self, directory: &Arc<DirectoryState>, job: StreamJob) -> Result<()> {
        let entry = &directory.entries[job.ordinal];
        if self.run.options.dry_run {
            self.count_entry(&entry.stat, 0);
            self.count_difference(job.base.as_deref(), None);
            return self.settle(directory, job.ordinal, Outcome::LeftOut);
        }
        let path = directory.path.join(&entry.name);
        let failed = |cause| Error::SourceFailed { name: path.to_string(), cause };
        self.run.monitor.event(Event::Current(path.clone()));
        let stream = match directory.source.stream(entry) {
            Ok(stream) => stream,
            Err(error) => return self.leave_out(directory, job.ordinal, &error),
        };
        let mut assembly = StreamAssembly::default();
        let mut blocks = Blocks::start(stream)?;
        // The one before: what is left of it after the cutting is known when the next one is there, or none.
        let mut held: Option<Block> = None;
        loop {
            match blocks.next() {
                Next::Block(mut block) => {
                    self.tally.totals.bytes_read += block.length() as u64;
                    self.work_done(0, block.length() as u64);
                    if let Some(before) = held.take() {
                        self.cut(&mut assembly, before, Some(&mut block))?;
                    }
                    while let Some(room) = assembly.pieces.take_room() {
                        blocks.give_back(room);
                    }
                    held = Some(block);
                }
                Next::Nothing => {
                    if self.run.monitor.cancelled() || self.run.queue.was_stopped() {
                        return Err(Error::Interrupted);
                    }
                }
                Next::Failure(cause) => return Err(failed(cause)),
                Next::End => break,
            }
        }
        if let Some(last) = held {
            self.cut(&mut assembly, last, None)?;
        }
        self.store_all(&assembly.pieces)?;
        self.gather(&mut assembly)?;
        let (content, size) = self.content_of_stream(assembly)?;
        let node = Node::File { size, content };
        let stat = SourceStat { size, ..entry.stat };
        self.count_difference(job.base.as_deref(), Some(&node));
        self.count_owner(&stat);
        self.tally.totals.files += 1;
        self.tally.totals.bytes += size;
        self.work_done(1, 0);
        let kept = new_entry(entry.name.to_vec(), &stat, SourceDetail::default(), node);
        self.settle(directory, job.ordinal, Outcome::of(&kept))
    }

    fn count_difference(&mut self, base: Option<&Entry>, node: Option<&Node>) {
        match base {
            None => self.tally.entries_new += 1,
            Some(base) if Some(&base.node) == node => self.tally.entries_unchanged += 1,
            Some(_) => self.tally.entries_changed += 1,
        }
    }

    // Cuts a block and has it stored; what may still grow goes before the content of the next one. Without a next one everything is cut.
    fn cut(
        &mut self,
        stream: &mut StreamAssembly,
        mut block: Block,
        next: Option<&mut Block>,
    ) -> Result<()> {
        if self.run.monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        let cut = stream.cutting.cut(&mut block, next.is_none()).ok_or_else(too_long)?;
        if let Some(next) = next {
            next.begin_with(&block);
        }
        let number = stream.next;
        stream.next += 1;
        let piece = Piece {
            number,
            start: cut.start,
            bytes: block.into_room(),
            lengths: cut.lengths,
            window_ends: cut.window_ends,
        };
        if stream.pieces.add(piece, self.run.threads) {
            self.run.queue.push(Job::Piece(stream.pieces.clone()));
        }
        self.make_room(&stream.pieces)?;
        self.gather(stream)
    }

    // Puts together what is stored; the chunks of whole windows go to their lists.
    fn gather(&mut self, stream: &mut StreamAssembly) -> Result<()> {
        while let Some(mut piece) = stream.pieces.take_stored(stream.gathered) {
            stream.gathered += 1;
            let mut before = 0;
            for end in piece.window_ends {
                stream.chunks.extend(piece.chunks.drain(..end - before));
                before = end;
                self.close_window(stream)?;
            }
            stream.chunks.extend(piece.chunks);
        }
        Ok(())
    }

    fn close_window(&mut self, stream: &mut StreamAssembly) -> Result<()> {
        let chunks = std::mem::take(&mut stream.chunks);
        let span = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let extents = Extents { runs: Vec::new(), chunks };
        let (id, _) = self.writer.put(ChunkKind::List, &extents.encode_list())?;
        stream.lists.push(ListRef { id, span });
        Ok(())
    }

    fn content_of_stream(&mut self, mut stream: StreamAssembly) -> Result<(Content, u64)> {
        if stream.lists.is_empty() && stream.chunks.len() <= INLINE_CHUNKS {
            let size = stream.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
            let extents = Extents { runs: Vec::new(), chunks: stream.chunks };
            let content = if size == 0 { Content::None } else { Content::Inline(extents) };
            return Ok((content, size));
        }
        if !stream.chunks.is_empty() {
            self.close_window(&mut stream)?;
        }
        let size = stream.lists.iter().map(|list| list.span).sum();
        Ok((Content::Listed(stream.lists), size))
    }
}

/// A stream on its way into the pool.
#[derive(Default)]
struct StreamAssembly {
    cutting: Cutting,
    pieces: Arc<Pieces>,
    // The number of the next piece to cut, and of the next to put together.
    next: u64,
    gathered: u64,
    // Chunks of the window that is being put together, and the windows before it.
    chunks: Vec<ChunkRef>,
    lists: Vec<ListRef>,
}

fn too_long() -> Error {
    Error::SourceFailed {
        name: "a stream".to_string(),
        cause: io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than any file"),
    }
}
