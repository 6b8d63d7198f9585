//! Jobs: one room each. A job fetches its inputs, calls one library function and reports; who asked for it, when, and who is told is not its business.

pub(crate) mod backup;
pub(crate) mod forget;
pub(crate) mod owed;
pub(crate) mod sync;
pub(crate) mod wal;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use storepool::clock::Timestamp;
use storepool::lock::{HeldLock, LockMode, Locks};
use storepool::pool::Pool;

use crate::config::{Config, GroupConfig, Upkeep};
use crate::error::{Cause, Error};
use crate::journal::Journal;
use crate::nearest::nearest;
use crate::place::Place;

/// What can be done again and again. Its name is that of its command: `backup web`, `sync web`, `forget`, `prune --vault=main`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Task {
    /// Make points of a group.
    Backup(String),
    /// Copy the points of a group to its vault.
    Sync(String),
    /// Prove that the points of a group can be restored, as the configuration has it.
    Drill(String),
    /// Look after the pool.
    Pool(Upkeep),
    /// Look after a vault.
    Vault(Upkeep, String),
}

impl Task {
    /// Returns the task of looking after the pool, or after a vault.
    pub(crate) fn upkeep(upkeep: Upkeep, vault: Option<&str>) -> Self {
        match vault {
            None => Self::Pool(upkeep),
            Some(vault) => Self::Vault(upkeep, vault.to_string()),
        }
    }

    /// Returns all tasks of a configuration, with and without a schedule.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let mut tasks = Vec::new();
        for group in config.groups.values() {
            tasks.push(Self::Backup(group.name.clone()));
            if group.vault.is_some() {
                tasks.push(Self::Sync(group.name.clone()));
            }
            if group.drill.is_some() {
                tasks.push(Self::Drill(group.name.clone()));
            }
        }
        tasks.extend(config.upkeep().map(|(vault, upkeep, _)| Self::upkeep(upkeep, vault)));
        tasks
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(group) => write!(f, "backup {group}"),
            Self::Sync(group) => write!(f, "sync {group}"),
            Self::Drill(group) => write!(f, "drill {group}"),
            Self::Pool(upkeep) => f.write_str(upkeep.word()),
            Self::Vault(upkeep, vault) => write!(f, "{} --vault={vault}", upkeep.word()),
        }
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upkeep = match text.split_once(" --vault=") {
            Some((word, vault)) => {
                Upkeep::of_word(word).map(|upkeep| Self::Vault(upkeep, vault.to_string()))
            }
            None => Upkeep::of_word(text).map(Self::Pool),
        };
        match text.split_once(' ') {
            Some(("backup", group)) => Ok(Self::Backup(group.to_string())),
            Some(("sync", group)) => Ok(Self::Sync(group.to_string())),
            // "drill web --from=vault" is what somebody asked for, not what the configuration has.
            Some(("drill", group)) if !group.contains(' ') && !group.starts_with('-') => {
                Ok(Self::Drill(group.to_string()))
            }
            _ => upkeep.ok_or_else(|| format!("\"{text}\" is no task")),
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
        let folder = self.group_locks()?;
        Ok(Locks::new(folder, self.holder.clone()).take(group, LockMode::Exclusive)?)
    }

    /// Returns the folder of the locks of groups.
    pub(crate) fn group_locks(&self) -> Result<PathBuf, Cause> {
        let folder = self.place.state().join("groups");
        std::fs::create_dir_all(&folder).map_err(|cause| Cause::Io {
            action: "create",
            path: folder.clone(),
            cause,
        })?;
        Ok(folder)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read_as_it_is_written() {
        let vault = |upkeep| Task::Vault(upkeep, "main".to_string());
        let tasks = [
            Task::Backup("web".to_string()),
            Task::Sync("web".to_string()),
            Task::Drill("web".to_string()),
            Task::Pool(Upkeep::Forget),
            vault(Upkeep::Prune),
            vault(Upkeep::Check),
        ];
        let words = [
            "backup web",
            "sync web",
            "drill web",
            "forget",
            "prune --vault=main",
            "check --vault=main",
        ];

        for (task, word) in tasks.iter().zip(words) {
            assert_eq!(task.to_string(), word);
            assert_eq!(word.parse().as_ref(), Ok(task));
        }
        for wrong in ["format", "backup", "forget main", "drill web --from=vault", "restore latest"]
        {
            assert!(wrong.parse::<Task>().is_err(), "{wrong}");
        }
    }
}
