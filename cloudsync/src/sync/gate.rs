//! The bound on memory: a pack is begun only when one of a few places is free, and keeps it until it is in the vault.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A fixed number of places.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    places: usize,
    free: usize,
    closed: bool,
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(super) struct GatePlace(Arc<Gate>);

impl Gate {
    /// Opens a gate with so many places; it is closed when the keeper is dropped, however that comes about.
    pub(super) fn open(places: usize) -> GateKeeper {
        let state = Mutex::new(State { places, free: places, closed: false });
        GateKeeper(Arc::new(Self { state, freed: Condvar::new() }))
    }

    /// Waits for a place; nothing once the gate is closed.
    pub(super) fn enter(self: &Arc<Self>) -> Option<GatePlace> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.free == 0 && !state.closed {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        state.free -= 1;
        Some(GatePlace(self.clone()))
    }

    /// Waits until only so many places are taken, or the gate is closed.
    pub(super) fn await_taken(&self, taken: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.places - state.free > taken && !state.closed {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns whether nobody is let in any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    // Lets nobody in any more, and those who wait go.
    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.freed.notify_all();
    }
}

/// Whoever takes what comes through the gate. Without it nobody needs to build anything.
#[derive(Debug)]
pub(super) struct GateKeeper(Arc<Gate>);

impl GateKeeper {
    /// Returns the gate, for those who enter.
    pub(super) fn gate(&self) -> Arc<Gate> {
        self.0.clone()
    }
}

impl Drop for GateKeeper {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for GatePlace {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).free += 1;
        self.0.freed.notify_all();
    }
}
