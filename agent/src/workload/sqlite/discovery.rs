//! Finding SQLite databases by what they begin with.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::workload::WorkloadError;

/// What every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The smallest page; the length of a database is a multiple of it.
const PAGE_LEAST: u64 = 512;
/// Folders that are open for looking at the same time, one below the other.
const DEPTH_MOST: usize = 256;

/// Returns whether a file of this length may be a database.
pub(crate) fn may_be(length: u64) -> bool {
    length >= PAGE_LEAST && length.is_multiple_of(PAGE_LEAST)
}

/// Returns whether a file begins as a database does. One that cannot be read does not.
pub(crate) fn is_database(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *MAGIC
}

/// Returns the databases in `folder` and below, in order, without those in folders that are `never` looked into. Symbolic links are not followed.
///
/// # Errors
/// The folder itself cannot be read; folders below it that cannot be read are left out and told to the log.
pub(crate) fn find(folder: &Path, never: &[PathBuf]) -> Result<Vec<PathBuf>, WorkloadError> {
    let failed = |cause: std::io::Error| {
        WorkloadError::failed(format!("cannot look for databases in {}", folder.display()))
            .because(cause)
    };
    let metadata = std::fs::metadata(folder).map_err(failed)?;
    if !metadata.is_dir() {
        return Ok(Vec::from_iter(is_database(folder).then(|| folder.to_path_buf())));
    }
    std::fs::read_dir(folder).map_err(failed)?;
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "not looked into for databases");
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && depth < DEPTH_MOST && !never.contains(&path) {
                folders.push((path, depth + 1));
            } else if metadata.is_file() && may_be(metadata.len()) && is_database(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
