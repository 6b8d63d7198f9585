//! Reading ahead: what a restore is going to read is fetched in large pieces, each once, before its threads ask for it.
//!
//! A restore tells batch by batch which frames it will read. They are fetched in the order of the packs, so far ahead as memory allows; a piece is
//! forgotten when all that was wanted of it was taken. Nothing depends on this: whoever does not find a frame here reads it alone, and so learns what is
//! wrong with it. See `docs/decisions/0026-reading-ahead.md`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use storepool::chunks::Expectation;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::recovery::pieces::{Cut, Piece, cut};
use crate::store::ObjectStore;
use crate::vault::pack::{PackReader, SealedStretch};

/// Bytes that are fetched or being fetched, and still wanted: four packs, so that two threads have one each and one more besides.
pub(super) const ROOM_BYTES: u64 = 104 << 20;
/// A thread that has begun a piece lets so many of the length of one be fetched behind it.
const PIECES_AHEAD: u64 = 2;
/// Pieces that are fetched side by side before anybody waits for them.
const FETCHES_AT_ONCE: usize = 4;

/// Fetches what is expected.
pub(super) struct ReadAhead {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    // In the order in which they will be read.
    plans: Vec<Plan>,
    plans_made: u64,
    room_bytes: u64,
    // Of pieces that are there or coming.
    bytes: u64,
    fetching: usize,
    tick: u64,
}

// The frames of one batch.
struct Plan {
    number: u64,
    // Sorted by pack and frame.
    pieces: Vec<PlannedPiece>,
    bytes_ahead: u64,
    // Whoever fetches for the plan stops when this is dropped.
    wanted: watch::Sender<()>,
}

struct PlannedPiece {
    piece: Piece,
    content: Content,
    // Of its frames that are expected: how many were not taken yet.
    left: u32,
    // When something was taken of it last; 0 for never.
    used: u64,
}

enum Content {
    Idle,
    Coming,
    There(Arc<SealedStretch>),
    Failed(Error),
    /// Taken, or no room for it any more.
    Gone,
}

// A plan and a piece of it, by their places in the lists.
type Place = (usize, usize);

// A piece that is to be fetched. Carried out without the lock, which its end takes.
struct Order {
    plan: u64,
    piece: usize,
    reader: Arc<PackReader>,
    frames: std::ops::Range<u32>,
    wanted: watch::Receiver<()>,
}

impl ReadAhead {
    /// Creates one that holds so many bytes. `runtime` drives the store.
    pub(super) fn new(store: Arc<dyn ObjectStore>, runtime: Handle, room_bytes: u64) -> Arc<Self> {
        let state = State { room_bytes, ..State::default() };
        Arc::new(Self { store, runtime, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Takes note of frames that so many threads are going to read, and begins to fetch them if nothing is wanted before.
    pub(super) fn expect(
        self: &Arc<Self>,
        packs: &BTreeMap<u64, Arc<PackReader>>,
        frames: &[(u64, u32)],
        readers: usize,
    ) -> Expectation {
        let mut state = self.lock();
        let piece_length = state.room_bytes / (readers as u64 + PIECES_AHEAD);
        let Cut { pieces, stretches } = cut(packs, frames, piece_length);
        let pieces = pieces.into_iter().map(PlannedPiece::new).collect();
        state.plans_made += 1;
        let number = state.plans_made;
        let bytes_ahead = PIECES_AHEAD * piece_length;
        let plan = Plan { number, pieces, bytes_ahead, wanted: watch::Sender::new(()) };
        let is_next = state.plans.iter().all(Plan::is_begun);
        state.plans.push(plan);
        let first = (state.plans.len() - 1, 0);
        let orders = if is_next { state.read_on(first) } else { Vec::new() };
        drop(state);
        self.send(orders);
        Expectation { stretches, hold: Box::new(Hold { ahead: self.clone(), plan: number }) }
    }

    /// Returns a stretch with this frame, if it is expected; waits for it if it is on its way.
    ///
    /// # Errors
    /// Those of the store. Bytes that are wrong or gone are none: who reads the frame alone sees them.
    pub(super) fn take(
        self: &Arc<Self>,
        pack: u64,
        frame: u32,
    ) -> Result<Option<Arc<SealedStretch>>> {
        let mut state = self.lock();
        while let Some(place) = state.find(pack, frame) {
            let orders = match state.look_at(place) {
                Look::Coming => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Look::Taken(stretch) => {
                    let orders = state.read_on(place);
                    drop(state);
                    self.send(orders);
                    return Ok(Some(stretch));
                }
                Look::Failed(error) if error.is_gap() => {
                    tracing::debug!(%error, "a part of a pack did not come, and is read piecemeal");
                    return Ok(None);
                }
                Look::Failed(error) => return Err(error),
                Look::Idle => {
                    state.make_room(place);
                    let mut orders = vec![state.order(place)];
                    orders.extend(state.read_on(place));
                    orders
                }
            };
            drop(state);
            self.send(orders);
            state = self.lock();
        }
        Ok(None)
    }

    fn send(self: &Arc<Self>, orders: Vec<Order>) {
        for order in orders {
            let store = self.store.clone();
            let mut arrival = Arrival {
                ahead: self.clone(),
                plan: order.plan,
                piece: order.piece,
                result: Err(Error::Interrupted { stage: "reading ahead" }),
            };
            let Order { reader, frames, mut wanted, .. } = order;
            self.runtime.spawn(async move {
                tokio::select! {
                    result = reader.read_stretch(store.as_ref(), frames) => arrival.result = result,
                    // Only ever by its end.
                    _ = wanted.changed() => {}
                }
                drop(arrival);
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// What is found at a place; what can be taken is.
enum Look {
    Idle,
    Coming,
    Taken(Arc<SealedStretch>),
    Failed(Error),
}

impl State {
    // The first plan that still wants the frame, and the piece that has it.
    fn find(&self, pack: u64, frame: u32) -> Option<Place> {
        self.plans.iter().enumerate().find_map(|(number, plan)| {
            let before = |planned: &PlannedPiece| {
                (planned.piece.pack, planned.piece.frames.end) <= (pack, frame)
            };
            let piece = plan.pieces.partition_point(before);
            let planned = plan.pieces.get(piece)?;
            let fits = planned.piece.pack == pack && planned.piece.frames.contains(&frame);
            (fits && !matches!(planned.content, Content::Gone)).then_some((number, piece))
        })
    }

    fn look_at(&mut self, (plan, piece): Place) -> Look {
        self.tick += 1;
        let planned = &mut self.plans[plan].pieces[piece];
        match std::mem::replace(&mut planned.content, Content::Gone) {
            // `find` passes it over.
            Content::Idle | Content::Gone => {
                planned.content = Content::Idle;
                Look::Idle
            }
            Content::Coming => {
                planned.content = Content::Coming;
                Look::Coming
            }
            Content::Failed(error) => Look::Failed(error),
            Content::There(stretch) => {
                planned.used = self.tick;
                planned.left = planned.left.saturating_sub(1);
                match planned.left {
                    0 => self.bytes -= planned.piece.bytes,
                    _ => planned.content = Content::There(stretch.clone()),
                }
                Look::Taken(stretch)
            }
        }
    }

    // Begins to fetch an idle piece.
    fn order(&mut self, (plan, piece): Place) -> Order {
        let Plan { number, pieces, wanted, .. } = &mut self.plans[plan];
        let planned = &mut pieces[piece];
        planned.content = Content::Coming;
        self.bytes += planned.piece.bytes;
        self.fetching += 1;
        Order {
            plan: *number,
            piece,
            reader: planned.piece.reader.clone(),
            frames: planned.piece.frames.clone(),
            wanted: wanted.subscribe(),
        }
    }

    // Begins to fetch what comes at this place and after it, as far as there is room.
    fn read_on(&mut self, (first_plan, first_piece): Place) -> Vec<Order> {
        let mut orders = Vec::new();
        let mut reach = 0;
        for plan in first_plan..self.plans.len() {
            let from = if plan == first_plan { first_piece } else { 0 };
            for piece in from..self.plans[plan].pieces.len() {
                let planned = &self.plans[plan].pieces[piece];
                let bytes = planned.piece.bytes;
                match planned.content {
                    Content::Gone | Content::Failed(_) => continue,
                    // Where the reader is does not count as ahead.
                    _ if (plan, piece) != (first_plan, first_piece) => reach += bytes,
                    _ => {}
                }
                let is_idle = matches!(planned.content, Content::Idle);
                let too_far = reach > self.plans[plan].bytes_ahead;
                let is_full =
                    self.bytes + bytes > self.room_bytes || self.fetching >= FETCHES_AT_ONCE;
                if too_far || (is_idle && is_full) {
                    return orders;
                }
                if is_idle {
                    orders.push(self.order((plan, piece)));
                }
            }
        }
        orders
    }

    // Gives up what was taken of least recently: its readers have left it or have others to wait for. Whoever still misses it reads frames alone.
    fn make_room(&mut self, (plan, piece): Place) {
        let new = self.plans[plan].pieces[piece].piece.bytes;
        while self.bytes + new > self.room_bytes {
            let pieces = self.plans.iter_mut().flat_map(|plan| &mut plan.pieces);
            let left = pieces
                .filter(|it| matches!(it.content, Content::There(_)) && it.used > 0)
                .min_by_key(|it| it.used);
            // What nobody has begun is wanted for certain, and next.
            let Some(left) = left else { return };
            left.content = Content::Gone;
            self.bytes -= left.piece.bytes;
        }
    }

    // Returns what is to be dropped without the lock.
    fn forget(&mut self, plan: u64) -> Option<Plan> {
        let index = self.plans.iter().position(|it| it.number == plan)?;
        let plan = self.plans.remove(index);
        let held = plan.pieces.iter().filter(|it| it.is_held());
        self.bytes -= held.map(|it| it.piece.bytes).sum::<u64>();
        Some(plan)
    }

    fn arrived(&mut self, arrival: &mut Arrival) {
        self.fetching -= 1;
        let plan = self.plans.iter_mut().find(|plan| plan.number == arrival.plan);
        let Some(planned) = plan.and_then(|plan| plan.pieces.get_mut(arrival.piece)) else {
            return;
        };
        let nothing = Err(Error::Interrupted { stage: "reading ahead" });
        planned.content = match std::mem::replace(&mut arrival.result, nothing) {
            Ok(stretch) => Content::There(Arc::new(stretch)),
            Err(error) => {
                self.bytes -= planned.piece.bytes;
                Content::Failed(error)
            }
        };
    }
}

impl Plan {
    // Nothing of it waits to be fetched.
    fn is_begun(&self) -> bool {
        self.pieces.iter().all(|planned| !matches!(planned.content, Content::Idle))
    }
}

impl PlannedPiece {
    fn new(piece: Piece) -> Self {
        Self { left: piece.expected, piece, content: Content::Idle, used: 0 }
    }

    fn is_held(&self) -> bool {
        matches!(self.content, Content::Coming | Content::There(_))
    }
}

/// The end of a fetch, however it comes: also by the end of the runtime.
struct Arrival {
    ahead: Arc<ReadAhead>,
    plan: u64,
    piece: usize,
    result: Result<SealedStretch>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let ahead = self.ahead.clone();
        ahead.lock().arrived(self);
        ahead.changed.notify_all();
    }
}

/// A plan that somebody works on.
struct Hold {
    ahead: Arc<ReadAhead>,
    plan: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let plan = self.ahead.lock().forget(self.plan);
        drop(plan);
        self.ahead.changed.notify_all();
    }
}
