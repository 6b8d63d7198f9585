//! What only a simulation may ask of this code: to take one step after the other, and to make one chosen mistake.
//!
//! A simulation is worth what it finds, so it is tried on mistakes that are planted here. Without the feature `simulated`, which test targets alone turn on,
//! every answer is a constant and the question costs nothing.

/// A mistake that can be planted: each breaks one rule that the promises of pool or vault rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mistake {
    /// The content of a pack is not synced before the pack gets its name.
    PackUnsynced = 1,
    /// The directory of a new pack is not synced.
    PackNameUnsynced,
    /// A point's file is written before everything that the point needs is durable.
    PointBeforePacks,
    /// A prune takes every other session for dead.
    PruneIgnoresSessions,
    /// A backup relies on packs that a prune is about to remove.
    CondemnedReused,
    /// A point is forgotten without a mark that outlives an interruption or an absent disk.
    ForgottenUnmarked,
    /// Chunks are not compared with their names.
    UnverifiedChunks,
    /// Opening a pool believes its index.
    IndexIsTruth,
    /// What a killed run left without a sync is taken over as it is.
    LeftoversUnsynced,
    /// A sync believes its ledger about what the vault holds.
    LedgerIsTruth,
    /// A prune of the vault deletes before the commit that gives the objects up.
    DeleteBeforeCommit,
    /// A prune of the vault goes by this machine's clock.
    OwnClock,
    /// A sync commits a point before its manifest is in the vault.
    CommitFirst,
    /// A put without an answer counts as done.
    TimeoutIsSuccess,
    /// Objects of the vault share the salt of their keys, and so keys and nonces.
    SaltReused,
}

#[cfg(feature = "simulated")]
mod switch {
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    use super::Mistake;

    static MISTAKE: AtomicU8 = AtomicU8::new(0);
    static LOCKSTEP: AtomicBool = AtomicBool::new(false);

    /// Plants a mistake in this process, in place of the one before; `None` plants none.
    pub fn plant(mistake: Option<Mistake>) {
        MISTAKE.store(mistake.map_or(0, |mistake| mistake as u8), Ordering::SeqCst);
    }

    /// From now on each operation in this process does one thing after the other, in an order that depends on its input alone.
    pub fn in_lockstep() {
        LOCKSTEP.store(true, Ordering::SeqCst);
    }

    /// Returns whether this mistake is to be made.
    pub fn makes(mistake: Mistake) -> bool {
        MISTAKE.load(Ordering::Relaxed) == mistake as u8
    }

    /// Returns whether one thing is to be done after the other.
    pub fn is_lockstep() -> bool {
        LOCKSTEP.load(Ordering::Relaxed)
    }
}

#[cfg(not(feature = "simulated"))]
mod switch {
    use super::Mistake;

    /// Returns whether this mistake is to be made: never.
    pub const fn makes(_mistake: Mistake) -> bool {
        false
    }

    /// Returns whether one thing is to be done after the other: as it comes.
    pub const fn is_lockstep() -> bool {
        false
    }
}

pub use switch::*;

/// Returns how many threads are to be used where this many would do.
pub fn threads(wanted: usize) -> usize {
    if is_lockstep() { 1 } else { wanted }
}
