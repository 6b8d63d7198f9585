//! The local pool.
