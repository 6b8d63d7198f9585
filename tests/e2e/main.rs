//! The real program, as its users meet it: one file per story.

mod changing_source;
mod cloud;
mod damage;
mod excludes;
mod exit_codes;
mod first_backup;
mod full_disk;
mod groups;
mod harness;
mod home;
mod index_lost;
mod kill;
mod large_index;
mod many_files;
mod memory;
mod metadata_torture;
mod mount;
mod output;
mod protected;
mod quickstart;
mod servers;
mod several_disks;
mod signals;
mod stores;
mod tree;
mod two_processes;
