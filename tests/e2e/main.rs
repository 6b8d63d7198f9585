//! The real program, as its users meet it: one file per story.

mod exit_codes;
mod first_backup;
mod full_disk;
mod harness;
mod home;
mod index_lost;
mod kill;
mod large_index;
mod metadata_torture;
mod mount;
mod output;
mod signals;
mod tree;
