//! Jobs: one room each. A job fetches its inputs, calls one library function and reports; who asked for it, when, and who is told is not its business.

pub(crate) mod backup;
pub(crate) mod forget;
pub(crate) mod sync;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use storepool::clock::Timestamp;
use storepool::lock::{HeldLock, LockMode, Locks};
use storepool::pool::Pool;

use crate::config::{Config, GroupConfig};
use crate::error::{Cause, Error};
use crate::journal::Journal;
use crate::nearest::nearest;
use crate::place::Place;

/// What can be done again and again, by name: `backup web`, `sync web`, `forget`, `prune`, `check`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Task {
    /// Make points of a group.
    Backup(String),
    /// Copy the points of a group to its vault.
    Sync(String),
    /// Forget what no retention keeps.
    Forget,
    /// Give space back.
    Prune,
    /// Prove everything.
    Check,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(group) => write!(f, "backup {group}"),
            Self::Sync(group) => write!(f, "sync {group}"),
            Self::Forget => f.write_str("forget"),
            Self::Prune => f.write_str("prune"),
            Self::Check => f.write_str("check"),
        }
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            Some(("backup", group)) => Ok(Self::Backup(group.to_string())),
            Some(("sync", group)) => Ok(Self::Sync(group.to_string())),
            None if text == "forget" => Ok(Self::Forget),
            None if text == "prune" => Ok(Self::Prune),
            None if text == "check" => Ok(Self::Check),
            _ => Err(format!("\"{text}\" is no task")),
        }
    }
}

/// What jobs work with.
pub(crate) struct Workshop<'a> {
    /// Where things are.
    pub(crate) place: &'a Place,
    /// What is to be done.
    pub(crate) config: &'a Config,
    /// The pool.
    pub(crate) pool: &'a Arc<Pool>,
    /// The history.
    pub(crate) journal: &'a Journal,
    /// What others see when they meet this process's locks.
    pub(crate) holder: String,
}

impl Workshop<'_> {
    /// Returns the moment by the pool's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.pool.world().clock.now()
    }

    /// Keeps other processes from working on this group.
    ///
    /// # Errors
    /// [`storepool::Error::Busy`] naming the other.
    pub(crate) fn lock_group(&self, group: &str) -> Result<HeldLock, Cause> {
        let folder = self.place.state().join("groups");
        std::fs::create_dir_all(&folder).map_err(|cause| Cause::Io {
            action: "create",
            path: folder.clone(),
            cause,
        })?;
        Ok(Locks::new(folder, self.holder.clone()).take(group, LockMode::Exclusive)?)
    }

    /// Returns the folders of our own, of which no points are made: a pool inside itself would grow with each run.
    pub(crate) fn own_folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<_> = self.pool.present_paths().map(PathBuf::from).collect();
        folders.push(self.place.state());
        let beside = self.place.pool.with_file_name("vault");
        folders.push(beside);
        folders.extend(self.place.home.clone());
        folders
    }
}

/// Chooses a group of the configuration.
pub(crate) fn group<'a>(config: &'a Config, name: &str) -> Result<&'a GroupConfig, Error> {
    config.groups.get(name).ok_or_else(|| {
        let near = nearest(name, config.groups.keys().map(String::as_str));
        let cause = Cause::NoGroup {
            group: name.to_string(),
            path: config.path.clone(),
            nearest: near.map(str::to_string),
        };
        Error { attempt: String::new(), cause }
    })
}
