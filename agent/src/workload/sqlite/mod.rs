//! SQLite databases, copied with SQLite's own backup interface while others write to them.
//!
//! Each database is copied to a file beside the state, proved with `PRAGMA integrity_check`, and read from there; one copy exists at a time. Two
//! databases are two moments: only what one transaction changed in one file is sure to be together.

pub(super) mod aware;
mod copy;
pub(crate) mod discovery;
mod restore;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storepool::clock::{Clock, SystemClock};
use storepool::entry::{EntryPath, FileTime};
use storepool::source::DataSource;

pub(crate) use restore::SqliteRestore;

use super::streams::{LastStream, OpenStream, StreamLook, StreamTree};
use super::{Finding, Prepared, Surroundings, Workload, WorkloadError};
use crate::config::SqliteConfig;
use crate::error::Cause;

/// Version of [`SqliteDetail`].
const FORMAT: u32 = 1;

/// What a point of this kind keeps beside the databases; described in docs/format.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SqliteDetail {
    format: u32,
    databases: Vec<DatabaseDetail>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DatabaseDetail {
    /// Where it is in the point.
    file: String,
    /// Where it was.
    path: PathBuf,
}

/// The kind of these points.
pub(crate) const WORKLOAD: &str = "sqlite";

/// Returns the files of a point that are databases, with the names that people know them by; none if it does not describe itself.
pub(crate) fn databases(detail: &str) -> Vec<(EntryPath, PathBuf)> {
    let detail: Option<SqliteDetail> = serde_json::from_str(detail).ok();
    let databases = detail.map(|detail| detail.databases).unwrap_or_default();
    let one = |it: DatabaseDetail| Some((EntryPath::parse(it.file.as_bytes())?, it.path));
    databases.into_iter().filter_map(one).collect()
}

/// Has a restored database, which nobody else uses, check itself; `named` is what people know it as.
///
/// # Errors
/// It is damaged: the first faults are told.
pub(crate) fn prove_restored(path: &Path, named: &Path) -> Result<(), WorkloadError> {
    copy::prove(path, named)
}

/// A source of databases.
pub(crate) struct Sqlite {
    config: SqliteConfig,
}

impl Sqlite {
    pub(super) fn new(config: SqliteConfig) -> Self {
        Self { config }
    }

    fn databases(&self, never: &[PathBuf]) -> Result<Vec<PathBuf>, WorkloadError> {
        let mut databases = self.config.files.clone();
        for path in &self.config.files {
            if !discovery::is_database(path) {
                let message = format!("{} is no SQLite database that can be read", path.display());
                return Err(WorkloadError::failed(message)
                    .hint("see that it exists and that this user may read it"));
            }
        }
        for folder in &self.config.discover {
            databases.extend(discovery::find(folder, never)?);
        }
        databases.sort();
        databases.dedup();
        if databases.is_empty() {
            return Err(WorkloadError::failed("no SQLite database was found")
                .hint("\"keepwell discover --sqlite DIR\" shows where some are"));
        }
        Ok(databases)
    }
}

impl Workload for Sqlite {
    fn name(&self) -> String {
        self.config.name()
    }

    fn check(&self) -> Vec<Finding> {
        let id = format!("source {}", self.name());
        match self.databases(&[]) {
            Ok(found) => vec![Finding::good(id, format!("{} databases", found.len()))],
            Err(error) => {
                let fix = error.hint.clone().unwrap_or_default();
                vec![Finding::bad(id, super::streams::source_error(&error).message, fix)]
            }
        }
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
        let mut detail = SqliteDetail { format: FORMAT, databases: Vec::new() };
        let mut looks = BTreeMap::new();
        for path in self.databases(&surroundings.never)? {
            let Some(file) = path.to_str().map(|path| path.trim_start_matches('/').to_string())
            else {
                let message = format!("the name {} is not UTF-8", path.display());
                let hint = "rename it, or back it up with files = [...] and sqlite_aware = true";
                return Err(WorkloadError::failed(message).hint(hint).into());
            };
            looks.insert(file.clone(), look_of(&path)?);
            detail.databases.push(DatabaseDetail { file, path });
        }
        let text = serde_json::to_string(&detail).map_err(|cause| {
            WorkloadError::failed("the point cannot be described").because(cause)
        })?;
        let places: BTreeMap<String, PathBuf> =
            detail.databases.into_iter().map(|one| (one.file, one.path)).collect();
        let state = surroundings.state.clone();
        let tree = StreamTree {
            workload: WORKLOAD,
            label: self.name(),
            names: places.keys().cloned().collect(),
            looks,
            time: SystemClock::new().now(),
            opener: Arc::new(move |file| match places.get(file) {
                Some(path) => copy::copy_stream(path, &state).map(OpenStream::of),
                None => Err(WorkloadError::failed(format!("there is no database {file}"))),
            }),
            finisher: Box::new(move || Ok(text.clone())),
            last: LastStream::default(),
        };
        Ok(Box::new(Copied(tree)))
    }
}

fn look_of(path: &Path) -> Result<StreamLook, Cause> {
    let metadata = std::fs::metadata(path).map_err(|cause| Cause::Io {
        action: "examine",
        path: path.into(),
        cause,
    })?;
    Ok(StreamLook {
        mode: (metadata.mode() & 0o7777) as u16,
        uid: metadata.uid(),
        gid: metadata.gid(),
        time: FileTime { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 },
    })
}

struct Copied(StreamTree);

impl Prepared for Copied {
    fn source(&self) -> &dyn DataSource {
        &self.0
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}
