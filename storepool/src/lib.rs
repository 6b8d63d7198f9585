//! The local pool of Keepwell: deduplicated, compressed, verified.
//!
//! Invariant: **data before reference, reference before name; deletion in the reverse order.**

pub mod backup;
pub mod catalog;
pub mod check;
pub mod chunker;
pub mod chunks;
pub mod clock;
pub mod disk;
pub mod entropy;
pub mod entry;
pub mod error;
pub mod filetree;
pub mod id;
pub mod index;
mod locator;
pub mod lock;
pub mod manifest;
pub mod marker;
pub mod marks;
pub mod members;
pub mod monitor;
pub mod pack;
pub mod point;
pub mod pool;
pub mod prune;
pub mod reach;
pub mod repair;
pub mod restore;
pub mod selftest;
mod sieve;
pub mod simulated;
pub mod size;
pub mod source;
pub mod space;
pub mod sqlite;
pub mod stats;
pub mod target;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod wire;
pub mod writer;

pub use error::{Error, Result};
