//! Pieces of a stream: cut by the one thread that reads it, hashed and stored by whoever has time, put together in their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::backup::walk::{Worker, lock};
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::tree::ChunkRef;

/// How soon a reader that waits for others notices that the run was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pieces in the making for each worker; they bound the memory that a stream takes.
const PIECES_A_WORKER: usize = 2;

/// Some neighbouring chunks of a stream.
pub(super) struct Piece {
    pub(super) number: u64,
    /// The memory they lie in.
    pub(super) bytes: Vec<u8>,
    /// Where in it they begin.
    pub(super) start: usize,
    pub(super) lengths: Vec<u32>,
    /// After how many of them a window of the file ends.
    pub(super) window_ends: Vec<usize>,
}

/// A piece whose chunks are in the pool.
pub(super) struct StoredPiece {
    pub(super) chunks: Vec<ChunkRef>,
    pub(super) window_ends: Vec<usize>,
}

/// The pieces of one stream that are on their way.
#[derive(Default)]
pub(super) struct Pieces {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Piece>,
    // Jobs in the queue that will look for a waiting piece.
    tickets: usize,
    // Taken, but not stored yet.
    in_work: usize,
    stored: BTreeMap<u64, StoredPiece>,
    // What stored pieces lay in.
    rooms: Vec<Vec<u8>>,
}

impl Pieces {
    /// Adds a piece. Returns whether somebody else should be asked to store one.
    pub(super) fn add(&self, piece: Piece, workers: usize) -> bool {
        let mut state = lock(&self.state);
        state.waiting.push_back(piece);
        let asks = workers > 1 && state.tickets < workers * PIECES_A_WORKER;
        state.tickets += usize::from(asks);
        asks
    }

    /// Takes the piece with this number, if it is stored.
    pub(super) fn take_stored(&self, number: u64) -> Option<StoredPiece> {
        lock(&self.state).stored.remove(&number)
    }

    /// Returns the memory of a piece that is stored, if there is one.
    pub(super) fn take_room(&self) -> Option<Vec<u8>> {
        lock(&self.state).rooms.pop()
    }

    fn take(&self) -> Option<Piece> {
        let mut state = lock(&self.state);
        let piece = state.waiting.pop_front()?;
        state.in_work += 1;
        Some(piece)
    }

    fn is_crowded(&self, workers: usize) -> bool {
        let state = lock(&self.state);
        let room = if workers > 1 { workers * PIECES_A_WORKER } else { 0 };
        state.waiting.len() + state.in_work > room
    }

    fn settle(&self, number: u64, piece: StoredPiece, room: Vec<u8>) {
        let mut state = lock(&self.state);
        state.in_work -= 1;
        state.rooms.push(room);
        state.stored.insert(number, piece);
        self.settled.notify_all();
    }
}

impl Worker<'_, '_> {
    /// Stores a waiting piece of somebody else's stream, unless its reader has done so already.
    pub(super) fn take_ticket(&mut self, pieces: &Pieces) -> Result<()> {
        lock(&pieces.state).tickets -= 1;
        self.store_waiting(pieces).map(drop)
    }

    /// Stores one waiting piece. Returns whether there was one.
    fn store_waiting(&mut self, pieces: &Pieces) -> Result<bool> {
        let Some(piece) = pieces.take() else { return Ok(false) };
        let mut chunks = Vec::with_capacity(piece.lengths.len());
        let mut rest = &piece.bytes[piece.start..];
        for length in &piece.lengths {
            let (bytes, others) = rest.split_at(*length as usize);
            let (id, _) = self.writer.put(ChunkKind::Data, bytes)?;
            chunks.push(ChunkRef { id, length: *length });
            rest = others;
        }
        let stored = StoredPiece { chunks, window_ends: piece.window_ends };
        pieces.settle(piece.number, stored, piece.bytes);
        Ok(true)
    }

    /// Helps with the pieces until there is room for more.
    pub(super) fn make_room(&mut self, pieces: &Pieces) -> Result<()> {
        while pieces.is_crowded(self.run.threads) {
            if !self.store_waiting(pieces)? {
                self.wait_for(pieces)?;
            }
        }
        Ok(())
    }

    /// Helps with the pieces until all are stored.
    pub(super) fn store_all(&mut self, pieces: &Pieces) -> Result<()> {
        while self.store_waiting(pieces)? {}
        while lock(&pieces.state).in_work > 0 {
            self.wait_for(pieces)?;
        }
        Ok(())
    }

    // Whoever has taken a piece and fails stops the queue, and settles nothing.
    fn wait_for(&self, pieces: &Pieces) -> Result<()> {
        if self.run.queue.was_stopped() || self.run.monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        let state = lock(&pieces.state);
        if state.in_work > 0 {
            let waited = pieces.settled.wait_timeout(state, LOOK_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }
}
