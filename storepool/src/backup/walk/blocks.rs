//! Blocks of a stream: read ahead by a thread of its own, so that a program that gives nothing keeps no run from being stopped.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::chunker::CHUNK_MOST;
use crate::error::{Error, Result};
use crate::source::{SourceStream, Texture};

/// Bytes read at once.
const BLOCK_LENGTH: usize = 1 << 20;
/// What is left of one block after the cutting goes before the content of the next: less than a chunk.
const HEADROOM: usize = CHUNK_MOST;
/// Blocks read ahead of the cutting.
const BLOCKS_AHEAD: usize = 3;
/// How soon a stream that gives nothing is left when the run is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes of one texture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) length: usize,
    pub(super) texture: Texture,
}

/// What was read at once.
#[derive(Debug)]
pub(super) struct Block {
    room: Vec<u8>,
    start: usize,
    end: usize,
    runs: VecDeque<Run>,
}

impl Block {
    fn new(room: Vec<u8>) -> Self {
        Self { room, start: HEADROOM, end: HEADROOM, runs: VecDeque::new() }
    }

    #[cfg(test)]
    pub(super) fn of(parts: &[(&[u8], Texture)]) -> Self {
        let mut block = Self::new(vec![0; HEADROOM]);
        for (bytes, texture) in parts {
            block.room.extend_from_slice(bytes);
            block.end += bytes.len();
            block.add(Run { length: bytes.len(), texture: *texture });
        }
        block
    }

    // Reads until it is full, or the stream ends.
    fn read(&mut self, stream: &mut dyn SourceStream) -> io::Result<()> {
        while self.end < self.room.len() {
            match stream.read(&mut self.room[self.end..]) {
                Ok((0, _)) => break,
                Ok((length, texture)) => {
                    self.end += length;
                    self.add(Run { length, texture });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add(&mut self, run: Run) {
        match self.runs.back_mut() {
            Some(last) if last.texture == run.texture => last.length += run.length,
            _ => self.runs.push_back(run),
        }
    }

    /// Returns how many bytes are in it that were not taken.
    pub(super) fn length(&self) -> usize {
        self.end - self.start
    }

    /// Returns where in its room the bytes begin that were not taken.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Returns those bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// Returns the first of them that have one texture, and whether another texture follows in the block.
    pub(super) fn first_run(&self) -> Option<(Run, bool)> {
        self.runs.front().map(|run| (*run, self.runs.len() > 1))
    }

    /// Takes bytes of the first run away.
    pub(super) fn take(&mut self, length: usize) {
        self.start += length;
        if let Some(run) = self.runs.front_mut() {
            run.length -= length;
            if run.length == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Puts what was not taken of the block before in front.
    pub(super) fn begin_with(&mut self, before: &Self) {
        let left = before.bytes();
        let start = self.start - left.len();
        self.room[start..self.start].copy_from_slice(left);
        self.start = start;
        for run in before.runs.iter().rev() {
            match self.runs.front_mut() {
                Some(first) if first.texture == run.texture => first.length += run.length,
                _ => self.runs.push_front(*run),
            }
        }
    }

    /// Returns the memory it lies in.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.room
    }
}

/// What comes next of a stream.
pub(super) enum Next {
    /// Some of it.
    Block(Block),
    /// Nothing yet.
    Nothing,
    /// It failed.
    Failure(io::Error),
    /// There is no more.
    End,
}

/// A stream that is read ahead.
pub(super) struct Blocks {
    received: Receiver<io::Result<Block>>,
    // Back to whoever reads, for the next block: memory that comes and goes costs more than the copying.
    returned: SyncSender<Vec<u8>>,
    ended: bool,
}

impl Blocks {
    /// Starts the reading.
    pub(super) fn start(mut stream: Box<dyn SourceStream>) -> Result<Self> {
        let (sender, received) = sync_channel(BLOCKS_AHEAD);
        let (returned, used) = sync_channel(BLOCKS_AHEAD);
        let pump = move || {
            let end = loop {
                let room = used.try_recv().unwrap_or_else(|_| vec![0; HEADROOM + BLOCK_LENGTH]);
                let mut block = Block::new(room);
                let read = block.read(&mut *stream);
                // An empty block is the end that the stream itself declared.
                if block.length() == 0 || read.is_err() {
                    break read.map(|()| Block::new(Vec::new()));
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

    /// Gives back the memory of a block.
    pub(super) fn give_back(&self, room: Vec<u8>) {
        // Nobody wants it any more at the end.
        let _ = self.returned.try_send(room);
    }

    /// Waits a moment for what comes next.
    pub(super) fn next(&mut self) -> Next {
        if self.ended {
            return Next::End;
        }
        match self.received.recv_timeout(LOOK_EVERY) {
            Ok(Ok(block)) if block.length() == 0 => {
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
