//! Sessions: while one lives, prune leaves alone what it may rely on.

use std::sync::Arc;

use super::Pool;
use crate::error::Result;
use crate::id::PointId;
use crate::index::SessionNo;
use crate::lock::HeldLock;

/// A claim on the pool by one run of an operation; see [`Pool::begin_session`]. Ends when dropped or when the process dies.
#[derive(Debug)]
pub struct Session {
    no: SessionNo,
    pool: Arc<Pool>,
    _lock: HeldLock,
}

impl Session {
    /// Returns the session's number.
    pub fn no(&self) -> SessionNo {
        self.no
    }

    /// Returns the pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Relies on all chunks of the point `base` from now on. Returns whether the point still exists; if not, nothing may be taken from it.
    pub fn rely_on(&self, base: PointId) -> Result<bool> {
        self.pool.index.rely_on(self.no, base)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.pool.index.end_sessions(&[self.no]) {
            // The lock is released all the same; the row is removed by the next prune.
            tracing::debug!(%error, "session row stays until the next prune");
        }
    }
}

impl Pool {
    /// Begins a session: until it is dropped, no pack condemned from now on loses its file.
    pub fn begin_session(self: &Arc<Self>) -> Result<Session> {
        let (name, lock) = self.locks.begin_session(&*self.world.entropy)?;
        let no = self.index.begin_session(&name)?;
        // After the row: what was condemned before this session must be seen as condemned.
        self.refresh_packs()?;
        self.keep_ballast();
        Ok(Session { no, pool: self.clone(), _lock: lock })
    }
}
