//! What is remembered beyond jobs: of each task how far its schedule was followed, hooks that are owed, and how full the disks were.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use storepool::clock::Timestamp;

use super::{JobId, Journal, moment};
use crate::error::Cause;

/// What is remembered of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TaskMemory {
    /// The scheduled time up to which everything was begun.
    pub(crate) handled: Timestamp,
    /// When it was first seen in the configuration.
    pub(crate) first_seen: Timestamp,
    pub(crate) last_success: Option<Timestamp>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// Bytes that the last success looked at.
    pub(crate) last_bytes: Option<u64>,
    /// How long the last success took.
    pub(crate) last_seconds: Option<f64>,
}

/// A command that ends what another one has begun: the `after` hook of a `before`, the resuming of a service that was suspended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwedHook {
    /// What it does, if it is not the `after` hook; such a one stays owed until it has done it.
    #[serde(default)]
    pub(crate) what: Option<String>,
    /// Its variables, if it is not the `after` hook.
    #[serde(default)]
    pub(crate) variables: Vec<(String, String)>,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Longest time, in seconds.
    pub(crate) timeout_seconds: u64,
    /// Who runs it.
    pub(crate) user: Option<String>,
}

/// How full the pool's disks were on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fullness {
    /// Days since 1970.
    pub(crate) day: i64,
    /// Bytes in use on them, by whatever.
    pub(crate) used_bytes: u64,
    /// Bytes that could still be written without touching the reserve.
    pub(crate) room_bytes: u64,
}

// Of the first versions there was one command, not a list.
fn owed(text: &str) -> Option<Vec<OwedHook>> {
    let one = || serde_json::from_str(text).ok().map(|hook| vec![hook]);
    serde_json::from_str(text).ok().or_else(one)
}

impl Journal {
    /// Returns what is remembered of a task; a new one begins now.
    pub(crate) fn task(&self, name: &str, now: Timestamp) -> Result<TaskMemory, Cause> {
        if let Some(memory) = self.known_task(name)? {
            return Ok(memory);
        }
        self.database.write(|tx| {
            tx.execute(
                "INSERT OR IGNORE INTO task (name, handled, first_seen) VALUES (?1, ?2, ?2)",
                params![name, now.0],
            )
        })?;
        let new = TaskMemory {
            handled: now,
            first_seen: now,
            last_success: None,
            failures: 0,
            last_bytes: None,
            last_seconds: None,
        };
        Ok(self.known_task(name)?.unwrap_or(new))
    }

    /// Returns what is remembered of a task, if anything is.
    pub(crate) fn known_task(&self, name: &str) -> Result<Option<TaskMemory>, Cause> {
        Ok(self.database.read(|tx| {
            tx.query_row(
                "SELECT handled, first_seen, last_success, failures, last_bytes, last_seconds \
                 FROM task WHERE name = ?",
                [name],
                |row| {
                    Ok(TaskMemory {
                        handled: moment(row.get(0)?),
                        first_seen: moment(row.get(1)?),
                        last_success: row.get::<_, Option<i64>>(2)?.map(moment),
                        failures: row.get(3)?,
                        last_bytes: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
                        last_seconds: row.get(5)?,
                    })
                },
            )
            .optional()
        })?)
    }

    /// Remembers that everything scheduled up to `until` was begun.
    pub(crate) fn handled(&self, name: &str, until: Timestamp) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute("UPDATE task SET handled = ?2 WHERE name = ?1", params![name, until.0])
        })?;
        Ok(())
    }

    /// Remembers that these commands are owed to a group from now on, in this order and instead of what was; durable on return.
    pub(crate) fn owe_hooks(
        &self,
        group: &str,
        job: JobId,
        hooks: &[OwedHook],
        now: Timestamp,
    ) -> Result<(), Cause> {
        let text = serde_json::to_string(hooks).unwrap_or_default();
        self.database.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO owed_hook VALUES (?, ?, ?, ?)",
                params![group, job.0, now.0, text],
            )
        })?;
        Ok(())
    }

    /// Returns the commands that are owed to a group, with the job that owes them.
    pub(crate) fn owed_hooks(&self, group: &str) -> Result<Option<(JobId, Vec<OwedHook>)>, Cause> {
        let row: Option<(i64, String)> = self.database.read(|tx| {
            tx.query_row("SELECT job, hook FROM owed_hook WHERE group_name = ?", [group], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
        })?;
        Ok(row.and_then(|(job, text)| Some((JobId(job), owed(&text)?))))
    }

    /// Returns the names of the groups to which a hook is owed.
    pub(crate) fn groups_owed(&self) -> Result<Vec<String>, Cause> {
        Ok(self.database.read(|tx| {
            tx.prepare("SELECT group_name FROM owed_hook ORDER BY group_name")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?)
    }

    /// Forgets what was owed to a group: it has run.
    pub(crate) fn settle_hooks(&self, group: &str) -> Result<(), Cause> {
        self.database
            .write(|tx| tx.execute("DELETE FROM owed_hook WHERE group_name = ?", [group]))?;
        Ok(())
    }

    /// Remembers how full the disks are today; one row a day is kept, the last of it.
    pub(crate) fn measure(&self, fullness: Fullness) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO fullness VALUES (?, ?, ?)",
                params![fullness.day, fullness.used_bytes as i64, fullness.room_bytes as i64],
            )?;
            tx.execute("DELETE FROM fullness WHERE day < ?", [fullness.day - 400])
        })?;
        Ok(())
    }

    /// Returns how full the disks were since `day`, the oldest first.
    pub(crate) fn measurements(&self, day: i64) -> Result<Vec<Fullness>, Cause> {
        Ok(self.database.read(|tx| {
            tx.prepare(
                "SELECT day, used_bytes, room_bytes FROM fullness WHERE day >= ? ORDER BY day",
            )?
            .query_map([day], |row| {
                Ok(Fullness {
                    day: row.get(0)?,
                    used_bytes: row.get::<_, i64>(1)?.unsigned_abs(),
                    room_bytes: row.get::<_, i64>(2)?.unsigned_abs(),
                })
            })?
            .collect()
        })?)
    }

    /// Returns the job that answered the request of this key, and whether the request was the same.
    pub(crate) fn answered(&self, key: &str, body: u64) -> Result<Option<(JobId, bool)>, Cause> {
        Ok(self.database.read(|tx| {
            tx.query_row("SELECT job, body_hash FROM request WHERE key = ?", [key], |row| {
                Ok((JobId(row.get(0)?), row.get::<_, i64>(1)? == body as i64))
            })
            .optional()
        })?)
    }

    /// Remembers the answer to a request.
    pub(crate) fn answer(
        &self,
        key: &str,
        body: u64,
        job: JobId,
        now: Timestamp,
    ) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?)",
                params![key, body as i64, job.0, now.0],
            )
        })?;
        Ok(())
    }
}
