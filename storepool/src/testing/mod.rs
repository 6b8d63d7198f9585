//! Doubles and fixtures for the tests of this crate. A double is stricter than reality.

pub(crate) mod disk;
pub(crate) mod fixture;
