//! Doubles for tests of this crate and of its users: stricter than reality.

pub mod conformance;
mod faulty;
mod memory;
#[cfg(test)]
pub(crate) mod server;

use std::sync::Mutex;

use storepool::entropy::Entropy;

pub use faulty::{Fault, FaultyStore};
pub use memory::{MemoryStore, Requests};

/// Bytes that look random and are the same in every run.
#[derive(Debug)]
pub struct SeededEntropy {
    stream: Mutex<blake3::OutputReader>,
}

impl SeededEntropy {
    /// Creates a stream of bytes that depends on the seed alone.
    pub fn new(seed: u64) -> Self {
        let stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        Self { stream: Mutex::new(stream) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.stream.lock().expect("no test panics while drawing").fill(buffer);
    }
}
