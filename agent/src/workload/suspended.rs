//! Services that a restore left suspended: one file each below the state, until somebody resumes them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storepool::id::PointId;

use super::WorkloadError;
use crate::error::Cause;
use crate::hooks::{Debt, Hook};

/// A service that waits to be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuspendedService {
    /// Its name.
    pub(crate) name: String,
    /// The point that was restored into it.
    pub(crate) point: String,
    command: Vec<String>,
    timeout_seconds: u64,
    user: Option<String>,
    variables: Vec<(String, String)>,
}

impl SuspendedService {
    /// Describes a service whose resuming is this debt.
    pub(crate) fn new(name: &str, point: PointId, debt: &Debt) -> Self {
        Self {
            name: name.to_string(),
            point: point.to_string(),
            command: debt.hook.command.clone(),
            timeout_seconds: debt.hook.timeout.as_secs(),
            user: debt.hook.user.clone(),
            variables: debt.variables.clone(),
        }
    }

    /// Remembers it; durable on return.
    pub(crate) fn remember(&self, state: &Path) -> Result<(), Cause> {
        let folder = folder(state);
        let path = file(state, &self.name);
        let text = serde_json::to_vec_pretty(self).map_err(|cause| {
            WorkloadError::failed(format!("\"{}\" cannot be noted", self.name)).because(cause)
        })?;
        let written = (|| {
            fs::create_dir_all(&folder)?;
            let beside = path.with_extension("new");
            let mut file = fs::File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(&folder)?.sync_all()
        })();
        written.map_err(|cause| Cause::Io { action: "write", path, cause })
    }

    /// Returns all that wait, in order of their names.
    pub(crate) fn all(state: &Path) -> Result<Vec<Self>, Cause> {
        let folder = folder(state);
        let failed = |path: &Path, cause| Cause::Io { action: "read", path: path.into(), cause };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(failed(&folder, cause)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|cause| failed(&folder, cause))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let bytes = fs::read(&path).map_err(|cause| failed(&path, cause))?;
                let read = serde_json::from_slice(&bytes).map_err(std::io::Error::from);
                all.push(read.map_err(|cause| failed(&path, cause))?);
            }
        }
        all.sort_by(|one: &Self, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Resumes it, and forgets it when that went well.
    pub(crate) fn resume(&self, state: &Path) -> Result<(), Cause> {
        let debt = Debt {
            what: format!("resume {}", self.name),
            hook: Hook {
                command: self.command.clone(),
                timeout: Duration::from_secs(self.timeout_seconds),
                user: self.user.clone(),
            },
            variables: self.variables.clone(),
        };
        debt.pay().map_err(|cause| {
            WorkloadError::failed(format!("{} is still suspended", self.name)).because(cause)
        })?;
        let path = file(state, &self.name);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Cause::Io { action: "remove", path, cause })
            }
            _ => Ok(()),
        }
    }
}

fn folder(state: &Path) -> PathBuf {
    state.join("suspended")
}

// A name may hold anything; a name of a file may not.
fn file(state: &Path, name: &str) -> PathBuf {
    folder(state).join(format!("{}.json", storepool::id::hex(name.as_bytes())))
}
