//! The real program, as its users meet it: one file per story.

mod first_backup;
mod harness;
mod metadata_torture;
mod large_index;
mod mount;
mod tree;
