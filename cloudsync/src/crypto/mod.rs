//! Everything that knows a key: passphrases, slots, the ring, and the sealed container that all objects of a
//! realm share.
//!
//! Pure computation on bytes in memory; no store, no file, no clock. The formats are in
//! `docs/format-vault.md`, sections 3 to 5.

pub mod container;
pub mod padding;
pub mod passphrase;
pub mod ring;
pub mod slot;

#[cfg(test)]
mod vectors;

/// Compares two values in a time that does not depend on where they differ.
pub(crate) fn equal_in_constant_time(left: &[u8; 32], right: &[u8; 32]) -> bool {
    // The comparison of `blake3::Hash` is constant-time by contract.
    blake3::Hash::from_bytes(*left) == blake3::Hash::from_bytes(*right)
}
