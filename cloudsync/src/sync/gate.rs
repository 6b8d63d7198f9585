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
    free: usize,
    closed: bool,
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(super) struct GatePlace(Arc<Gate>);

impl Gate {
    /// Creates a gate with so many places.
    pub(super) fn new(places: usize) -> Arc<Self> {
        let state = Mutex::new(State { free: places, closed: false });
        Arc::new(Self { state, freed: Condvar::new() })
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

    /// Lets nobody in any more, and those who wait go.
    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.freed.notify_all();
    }
}

impl Drop for GatePlace {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).free += 1;
        self.0.freed.notify_all();
    }
}
