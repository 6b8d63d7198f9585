//! The first day with Keepwell.
