//! Streams: what a program or a server hands over once, from beginning to end. Nobody knows their length before, so nothing is compared with it
//! afterwards; instead an error of a stream ends the whole run: half a dump is never a file of a point.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::backup::assembly::{DirectoryState, Outcome};
use crate::backup::walk::files::INLINE_CHUNKS;
use crate::backup::walk::pieces::{Piece, Pieces};
use crate::backup::walk::queue::{Job, StreamJob};
use crate::backup::walk::{Worker, lock, new_entry};
use crate::chunker::{CHUNK_MOST, Chunker};
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::monitor::Event;
use crate::source::{SourceDetail, SourceStat};
use crate::tree::{ChunkRef, Content, Entry, Extents, ListRef, Node, WINDOW_LENGTH, WINDOWS_LIMIT};

/// Bytes read at once.
const BLOCK_LENGTH: usize = 256 << 10;
/// Blocks read ahead of the cutting.
const BLOCKS_AHEAD: usize = 8;
/// A piece is handed out when it has so many bytes.
const PIECE_LENGTH: usize = 1 << 20;
/// What lies in the buffer before a piece is cut, at most.
const BUFFER_LENGTH: usize = PIECE_LENGTH + CHUNK_MOST + BLOCK_LENGTH;
/// How soon a stream that gives nothing is left when the run is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Windows of the usual length come first; as many longer ones follow, so that a stream of any length keeps within the number of windows.
const USUAL_WINDOWS: u64 = WINDOWS_LIMIT / 2;
/// The length of the longer windows: the list of such a one fits a chunk however small its chunks are.
const LONG_WINDOW: u64 = 1 << 30;

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
        loop {
            match blocks.next() {
                Next::Block(block) => {
                    self.tally.totals.bytes_read += block.length as u64;
                    self.work_done(0, block.length as u64);
                    assembly.buffer.extend_from_slice(&block.bytes[..block.length]);
                    blocks.give_back(block);
                    while assembly.buffer.len() >= PIECE_LENGTH + CHUNK_MOST {
                        self.cut_piece(&mut assembly, false)?;
                    }
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
        while !assembly.buffer.is_empty() {
            self.cut_piece(&mut assembly, true)?;
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

    // Cuts about a piece off the buffer and has it stored. At the end of a stream everything may be cut.
    fn cut_piece(&mut self, stream: &mut StreamAssembly, at_end: bool) -> Result<()> {
        if self.run.monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        let left = stream.left_in_window()?;
        let mut done = 0;
        let mut lengths = Vec::new();
        while done < PIECE_LENGTH && done < stream.buffer.len() && (done as u64) < left {
            let window_end = stream.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let rest = &stream.buffer[done..window_end];
            let is_final = at_end || rest.len() >= CHUNK_MOST || window_end as u64 == left;
            if !is_final {
                break;
            }
            let length = stream.chunker.first(rest);
            lengths.push(length as u32);
            done += length;
        }
        // Room that another piece had: memory that comes and goes costs more than the copying.
        let mut others = stream.pieces.take_room(BUFFER_LENGTH);
        others.extend_from_slice(&stream.buffer[done..]);
        let mut bytes = std::mem::replace(&mut stream.buffer, others);
        bytes.truncate(done);
        let ends_window = done as u64 == left;
        let number = stream.next;
        stream.next += 1;
        stream.in_window = if ends_window { 0 } else { stream.in_window + done as u64 };
        stream.windows += u64::from(ends_window);
        let piece = Piece { number, bytes, lengths, ends_window };
        if stream.pieces.add(piece, self.run.threads) {
            self.run.queue.push(Job::Piece(stream.pieces.clone()));
        }
        self.make_room(&stream.pieces)?;
        self.gather(stream)
    }

    // Puts together what is stored; the chunks of whole windows go to their lists.
    fn gather(&mut self, stream: &mut StreamAssembly) -> Result<()> {
        while let Some(piece) = stream.pieces.take_stored(stream.gathered) {
            stream.gathered += 1;
            stream.chunks.extend(piece.chunks);
            if piece.ends_window {
                self.close_window(stream)?;
            }
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
    chunker: Chunker,
    // Read, not cut.
    buffer: Vec<u8>,
    pieces: Arc<Pieces>,
    // The number of the next piece to cut, and of the next to put together.
    next: u64,
    gathered: u64,
    // Windows cut, and bytes cut of the one after them.
    windows: u64,
    in_window: u64,
    // Chunks of the window that is being put together, and the windows before it.
    chunks: Vec<ChunkRef>,
    lists: Vec<ListRef>,
}

impl StreamAssembly {
    fn left_in_window(&self) -> Result<u64> {
        let length = stream_window(self.windows).ok_or_else(|| Error::SourceFailed {
            name: "a stream".to_string(),
            cause: io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than any file"),
        })?;
        Ok(length - self.in_window)
    }
}

/// Returns the length of a window of a stream, of which there is no total to reckon it from.
fn stream_window(ordinal: u64) -> Option<u64> {
    match ordinal {
        0..USUAL_WINDOWS => Some(WINDOW_LENGTH),
        USUAL_WINDOWS..WINDOWS_LIMIT => Some(LONG_WINDOW),
        _ => None,
    }
}

enum Next {
    Block(Block),
    // Not yet.
    Nothing,
    Failure(io::Error),
    End,
}

/// What was read at once.
struct Block {
    // As long as a block may be; only the first bytes were read.
    bytes: Vec<u8>,
    length: usize,
}

impl Block {
    // Reads until it is full, or the stream ends.
    fn read(&mut self, stream: &mut dyn Read) -> io::Result<()> {
        self.length = 0;
        while self.length < self.bytes.len() {
            match stream.read(&mut self.bytes[self.length..]) {
                Ok(0) => break,
                Ok(read) => self.length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A stream read ahead by a thread of its own, so that a program that gives nothing keeps no run from being stopped.
struct Blocks {
    received: Receiver<io::Result<Block>>,
    // Back to whoever reads, for the next block.
    returned: SyncSender<Vec<u8>>,
    ended: bool,
}

impl Blocks {
    fn start(mut stream: Box<dyn Read + Send>) -> Result<Self> {
        let (sender, received) = sync_channel(BLOCKS_AHEAD);
        let (returned, used) = sync_channel(BLOCKS_AHEAD);
        let pump = move || {
            let end = loop {
                let bytes = used.try_recv().unwrap_or_else(|_| vec![0; BLOCK_LENGTH]);
                let mut block = Block { bytes, length: 0 };
                let read = block.read(&mut stream);
                // An empty block is the end that the stream itself declared.
                if block.length == 0 || read.is_err() {
                    break read.map(|()| Block { bytes: Vec::new(), length: 0 });
                }
                if sender.send(Ok(block)).is_err() {
                    return;
                }
            };
            // Closed before its end is told: the next one may be opened then.
            drop(stream);
            // Nobody listens any more when the run was stopped.
            let _ = sender.send(end);
        };
        // Not joined: it may wait for a program that never says anything again.
        std::thread::Builder::new()
            .name("stream".to_string())
            .spawn(pump)
            .map_err(Error::io("start a thread for", Path::new("reading a stream")))?;
        Ok(Self { received, returned, ended: false })
    }

    fn give_back(&self, block: Block) {
        // Nobody wants it any more at the end.
        let _ = self.returned.try_send(block.bytes);
    }

    fn next(&mut self) -> Next {
        if self.ended {
            return Next::End;
        }
        match self.received.recv_timeout(LOOK_EVERY) {
            Ok(Ok(block)) if block.length == 0 => {
                self.ended = true;
                Next::End
            }
            Ok(Ok(block)) => Next::Block(block),
            Ok(Err(cause)) => Next::Failure(cause),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            // Without the declared end there is none.
            Err(RecvTimeoutError::Disconnected) => {
                Next::Failure(io::Error::other("the thread that read it died"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_of_a_stream_are_as_many_as_a_file_may_have() {
        let last = (0..WINDOWS_LIMIT).map(|ordinal| stream_window(ordinal).unwrap()).max();

        assert_eq!(last, Some(LONG_WINDOW));
        assert_eq!(stream_window(USUAL_WINDOWS - 1), Some(WINDOW_LENGTH));
        assert_eq!(stream_window(WINDOWS_LIMIT), None);
    }
}
