//! The local pool of Keepwell: deduplicated, compressed, verified.
//!
//! Invariant: **data before reference, reference before name; deletion in the reverse order.**

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod entry;
pub mod error;
pub mod id;
pub mod manifest;
pub mod monitor;
pub mod pack;
pub mod tree;
pub mod wire;

pub use error::{Error, Result};
