//! Restoring: a point, or a part of it, back into a directory.
//!
//! A planner walks the trees, makes directories and hands over batches of bounded size; workers locate the chunks of a batch, decode each frame once, in
//! pack order, and write what it holds to all files that need it. The source is told of a batch's frames before they are read, so that one that is far away
//! can read ahead. Metadata of directories comes last, deepest first. A file gets its time last of all, so an unfinished one is never taken for finished;
//! what replaces something is written beside it and renamed. Every call starts at a handle of the target ([`crate::target`]).

mod batch;
mod compare;
mod content;
mod desk;
mod directories;
mod entries;
mod existing;
mod layout;
mod locate;
mod open_files;
mod owners;
mod plan;
mod reading;
mod run;
mod selection;
mod tally;
mod workers;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use crate::chunks::ChunkSource;
use crate::entry::EntryPath;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::monitor::Monitor;
pub use crate::restore::content::{find_path, read_file};
use crate::restore::run::Run;

/// Problems that a report lists; the count goes on.
pub const PROBLEMS_LIMIT: usize = 10_000;

/// What happens where the target has something already. Directories that both have are merged, that is no conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// The restore is refused before anything is written.
    #[default]
    Fail,
    /// What is there stays as it is.
    Skip,
    /// What is there is replaced.
    Overwrite,
    /// What is there is replaced if the point's entry was changed later.
    Newer,
}

/// How a restore is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// What happens where the target has something already.
    pub conflict: Conflict,
    /// Only entries that one of these gitignore-style patterns matches, and what is below them; empty for all.
    pub include: Vec<String>,
    /// Not the entries that these gitignore-style patterns match, nor what is below them.
    pub exclude: Vec<String>,
    /// Of what is no directory only these entries, by their paths in the point; directories all the same. `None` for all.
    pub only: Option<BTreeSet<EntryPath>>,
    /// Only what differs is written: entries of equal kind, size and time are trusted, large files are changed where they differ. [`Conflict::Fail`] then means
    /// [`Conflict::Overwrite`]. A large file is changed in place, not atomically; its time is set when it is complete.
    pub in_place: bool,
    /// With `in_place`: content is compared chunk by chunk and not trusted.
    pub verify: bool,
    /// With `in_place`: entries of restored directories that the point does not have are removed, unless a pattern leaves them out.
    pub delete: bool,
    /// Nothing is changed; the report says what would have been (without comparing content).
    pub dry_run: bool,
    /// Worker threads; 0 for one a processor.
    pub threads: usize,
    /// Owners get the numbers they had; else names of the point that exist on this machine get the numbers they have here.
    pub numeric_owner: bool,
}

/// One entry that is not in the target as it was in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreProblem {
    /// Which entry of the point.
    pub path: EntryPath,
    /// What happened.
    pub message: String,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Regular files restored, hard links included.
    pub files: u64,
    /// Directories made or given metadata.
    pub directories: u64,
    /// Symlinks, pipes, sockets and devices restored.
    pub others: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that were there already as they should be.
    pub unchanged: u64,
    /// Entries left as they were because of [`RestoreOptions::conflict`].
    pub skipped: u64,
    /// Entries removed because the point does not have them.
    pub deleted: u64,
    /// What went wrong for single entries, the first [`PROBLEMS_LIMIT`].
    pub problems: Vec<RestoreProblem>,
    /// How many problems there were.
    pub problem_count: u64,
}

/// Restores what is at `path` of a point into the directory `target`: of the root or another directory the entries go directly below the target, anything
/// else becomes `target/<its name>`. The target is made if it does not exist; a directory that was made or was empty (with `in_place`: any) gets the
/// metadata of the restored directory itself.
///
/// Run again after an interruption, with `in_place` or [`Conflict::Overwrite`], it finishes the work. Nothing is synced to disk.
///
/// # Errors
/// [`crate::Error::PathNotFound`]; [`crate::Error::Target`] if entries exist and that is refused, or a pattern is wrong;
/// [`crate::Error::TargetFull`]; [`crate::Error::Interrupted`]; failures of the source as a whole. Damaged or missing chunks are problems of the files
/// that need them.
pub fn restore(
    source: &dyn ChunkSource,
    manifest: &Manifest,
    path: &EntryPath,
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    Run::execute(source, manifest, path, target, options, monitor)
}
