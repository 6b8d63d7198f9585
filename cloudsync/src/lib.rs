//! The second copy.
