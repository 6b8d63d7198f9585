//! Restored files opened as what they are, where no server is needed for that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use storepool::manifest::Manifest;

use super::record::Grade;
use crate::workload::azure_table::trial::count_restored;
use crate::workload::{WorkloadError, azure_table, sqlite};

/// Opens what was restored of a point, if its kind can be opened; returns how much that proves, and what was found.
///
/// # Errors
/// The first that is damaged, and what is wrong with it.
pub(super) fn check(
    manifest: &Manifest,
    restored: &Path,
) -> Result<Option<(Grade, String)>, WorkloadError> {
    match manifest.workload.as_str() {
        sqlite::WORKLOAD => check_sqlite(manifest, restored),
        azure_table::WORKLOAD => {
            let (tables, entities) = count_restored(&manifest.detail, restored)?;
            let text = format!("{entities} entities of {tables} tables were read");
            Ok((tables > 0).then_some((Grade::Compared, text)))
        }
        _ => Ok(None),
    }
}

fn check_sqlite(
    manifest: &Manifest,
    restored: &Path,
) -> Result<Option<(Grade, String)>, WorkloadError> {
    let mut checked = 0;
    for (file, known_as) in sqlite::databases(&manifest.detail) {
        let path = restored.join(OsStr::from_bytes(file.as_bytes()));
        if path.is_file() {
            sqlite::prove_restored(&path, &known_as)?;
            checked += 1;
        }
    }
    let text = match checked {
        1 => "SQLite opened it: its check found nothing wrong".to_string(),
        many => format!("SQLite opened all {many}: its check found nothing wrong"),
    };
    Ok((checked > 0).then_some((Grade::Working, text)))
}
