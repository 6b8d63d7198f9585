//! The journal: jobs, alerts and what is owed, in a database of the agent's own. What is entered survives a kill and a power cut.
//!
//! Several processes write it: the daemon, and commands that run without one. A running job belongs to the process that holds the lock named in its
//! row; when nobody does, the process is gone and the job was interrupted. Nothing in here is needed to restore anything: a damaged journal is put
//! aside and begun anew.

mod alert;
mod drill;
mod job;
mod memory;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use storepool::clock::Timestamp;
use storepool::entropy::Entropy;
use storepool::lock::{HeldLock, Locks};
use storepool::sqlite::{Database, Migration};

pub(crate) use alert::{Alert, AlertDraft, Raised};
pub(crate) use drill::DrillKey;
pub(crate) use job::{Ending, Job, JobId, JobState, NewJob, Reason};
pub(crate) use memory::{Fullness, OwedHook, TaskMemory};

use crate::error::Cause;

/// The schema, step by step.
const MIGRATIONS: &[Migration] = &[
    Migration { sql: include_str!("../../migrations/agent/0001_journal.sql") },
    Migration { sql: include_str!("../../migrations/agent/0002_drill.sql") },
];
/// The name of the database in the folder of the state.
const DATABASE: &str = "agent.db";

/// The history of this installation.
#[derive(Debug)]
pub(crate) struct Journal {
    database: Database,
    locks: Locks,
    session: String,
    put_aside: Option<PathBuf>,
    _lock: HeldLock,
}

impl Journal {
    /// Opens the journal in the folder `state`, making both if they are not there; `holder` names this process to others.
    ///
    /// # Errors
    /// What the system says. A damaged journal is no error: it is put aside, see [`Journal::put_aside`].
    pub(crate) fn open(state: &Path, holder: String, entropy: &dyn Entropy) -> Result<Self, Cause> {
        let folder = state.join("jobs");
        std::fs::create_dir_all(&folder).map_err(|cause| Cause::Io {
            action: "create",
            path: folder.clone(),
            cause,
        })?;
        let locks = Locks::new(folder, holder);
        let (session, lock) = locks.begin_session(entropy)?;
        let path = state.join(DATABASE);
        let (database, put_aside) = match Database::open(&path, MIGRATIONS) {
            Ok(database) => (database, None),
            Err(storepool::Error::Index { corrupt: true, .. }) => {
                let aside = put_aside(&path)?;
                (Database::open(&path, MIGRATIONS)?, Some(aside))
            }
            Err(error) => return Err(error.into()),
        };
        database.sync_every_commit()?;
        Ok(Self { database, locks, session, put_aside, _lock: lock })
    }

    /// Returns where the journal that was there lies now, if it was damaged.
    pub(crate) fn put_aside(&self) -> Option<&Path> {
        self.put_aside.as_deref()
    }
}

fn put_aside(path: &Path) -> Result<PathBuf, Cause> {
    let free = |number: &u32| !path.with_extension(format!("db.damaged-{number}")).exists();
    let number = (1..).find(free).unwrap_or(u32::MAX);
    let aside = path.with_extension(format!("db.damaged-{number}"));
    for suffix in ["", "-wal", "-shm"] {
        let with_suffix = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (from, to) = (with_suffix(path), with_suffix(&aside));
        match std::fs::rename(&from, &to) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(Cause::Io { action: "put aside", path: from, cause });
            }
            _ => {}
        }
    }
    Ok(aside)
}

// A moment in a column.
fn moment(nanos: i64) -> Timestamp {
    Timestamp(nanos)
}
