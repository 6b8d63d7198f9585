//! Jobs: each run of a task, from the queue to its end.

use std::fmt;

use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;
use storepool::clock::Timestamp;

use super::{Journal, moment};
use crate::error::Cause;

/// The number of a job; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its time had come.
    Schedule,
    /// Its time had come while nothing ran.
    CatchUp,
    /// It had failed.
    Retry,
    /// It was interrupted.
    Resumed,
    /// Another job asked for it.
    Follows,
    /// Somebody asked for it.
    Hand,
}

impl Reason {
    const WORDS: [(&str, Self); 6] = [
        ("schedule", Self::Schedule),
        ("catch_up", Self::CatchUp),
        ("retry", Self::Retry),
        ("resumed", Self::Resumed),
        ("follows", Self::Follows),
        ("hand", Self::Hand),
    ];

    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, reason)| *reason == self).map_or("hand", |(word, _)| word)
    }

    fn of_word(word: &str) -> Self {
        let found = Self::WORDS.iter().find(|(known, _)| *known == word);
        found.map_or(Self::Hand, |(_, reason)| *reason)
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// It waits for a slot.
    Queued,
    /// It runs.
    Running,
    /// Everything was done.
    Done,
    /// It was done, but something was skipped.
    Incomplete,
    /// It failed.
    Failed,
    /// Its process ended, or was ended, before it could.
    Interrupted,
    /// Somebody asked it to stop.
    Cancelled,
    /// The state of a vault forbade it; nothing was done.
    Stopped,
}

impl JobState {
    const WORDS: [(&str, Self); 8] = [
        ("queued", Self::Queued),
        ("running", Self::Running),
        ("done", Self::Done),
        ("incomplete", Self::Incomplete),
        ("failed", Self::Failed),
        ("interrupted", Self::Interrupted),
        ("cancelled", Self::Cancelled),
        ("stopped", Self::Stopped),
    ];

    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, state)| *state == self).map_or("failed", |(word, _)| word)
    }

    fn of_word(word: &str) -> Self {
        let found = Self::WORDS.iter().find(|(known, _)| *known == word);
        found.map_or(Self::Failed, |(_, state)| *state)
    }

    /// Returns whether it has ended.
    pub(crate) fn is_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Returns whether what it was to do is done.
    pub(crate) fn is_success(self) -> bool {
        matches!(self, Self::Done | Self::Incomplete)
    }
}

/// A job as the journal knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// What it does: `backup web`, `prune`.
    pub(crate) task: String,
    pub(crate) reason: Reason,
    pub(crate) state: JobState,
    /// 1 for the first try.
    pub(crate) attempt: u32,
    pub(crate) queued: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    /// The words of its command.
    pub(crate) arguments: Vec<String>,
    pub(crate) exit_code: Option<u8>,
    /// Why it failed.
    pub(crate) message: Option<String>,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// What it did.
    pub(crate) summary: Option<Value>,
    /// The request that asked for it.
    pub(crate) request: Option<String>,
}

/// A job that begins.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    /// What it does.
    pub(crate) task: String,
    /// Why.
    pub(crate) reason: Reason,
    /// 1 for the first try.
    pub(crate) attempt: u32,
    /// The words of its command; none if it cannot be run again from here.
    pub(crate) arguments: Vec<String>,
    /// The request that asked for it.
    pub(crate) request: Option<String>,
}

/// How a job ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// The exit code of its command, if it came to that.
    pub(crate) exit_code: Option<u8>,
    /// Why it failed.
    pub(crate) message: Option<String>,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// What it did.
    pub(crate) summary: Option<Value>,
}

const COLUMNS: &str = "id, task, reason, state, attempt, queued, started, finished, arguments, \
                       exit_code, message, hint, summary, request";

impl Journal {
    /// Enters a job that waits; it belongs to this process.
    pub(crate) fn queue(&self, job: &NewJob, now: Timestamp) -> Result<JobId, Cause> {
        let arguments = serde_json::to_string(&job.arguments).unwrap_or_default();
        let id = self.database.write(|tx| {
            tx.execute(
                "INSERT INTO job (task, reason, state, attempt, queued, session, arguments, request) \
                 VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)",
                params![
                    job.task,
                    job.reason.word(),
                    job.attempt,
                    now.0,
                    self.session,
                    arguments,
                    job.request
                ],
            )?;
            Ok(tx.last_insert_rowid())
        })?;
        Ok(JobId(id))
    }

    /// Says that a job runs now.
    pub(crate) fn start(&self, id: JobId, now: Timestamp) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute(
                "UPDATE job SET state = 'running', started = ?2 WHERE id = ?1 AND state = 'queued'",
                params![id.0, now.0],
            )
        })?;
        Ok(())
    }

    /// Says how a job ended, and remembers its task's last success. A job that has ended already stays as it is.
    pub(crate) fn finish(
        &self,
        id: JobId,
        state: JobState,
        ending: &Ending,
        now: Timestamp,
    ) -> Result<(), Cause> {
        let summary = ending.summary.as_ref().map(Value::to_string);
        self.database.write(|tx| {
            let changed = tx.execute(
                "UPDATE job SET state = ?2, finished = ?3, exit_code = ?4, message = ?5, hint = ?6, \
                 summary = ?7 WHERE id = ?1 AND state IN ('queued', 'running')",
                params![
                    id.0,
                    state.word(),
                    now.0,
                    ending.exit_code,
                    ending.message,
                    ending.hint,
                    summary
                ],
            )?;
            if changed == 0 {
                return Ok(());
            }
            let (task, started): (String, Option<i64>) = tx.query_row(
                "SELECT task, started FROM job WHERE id = ?",
                [id.0],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            tx.execute(
                "INSERT OR IGNORE INTO task (name, handled, first_seen) VALUES (?1, ?2, ?2)",
                params![task, now.0],
            )?;
            if state.is_success() {
                let number = |name: &str| ending.summary.as_ref()?.get(name)?.as_u64();
                let seconds = started.map(|started| (now.0 - started) as f64 / 1e9);
                tx.execute(
                    "UPDATE task SET last_success = ?2, failures = 0, last_bytes = ?3, \
                     last_seconds = ?4 WHERE name = ?1",
                    params![task, now.0, number("bytes").map(|bytes| bytes as i64), seconds],
                )?;
            } else if state == JobState::Failed {
                tx.execute("UPDATE task SET failures = failures + 1 WHERE name = ?", [task])?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Marks jobs whose process is gone as interrupted and returns them, the oldest first.
    pub(crate) fn reap(&self, now: Timestamp) -> Result<Vec<Job>, Cause> {
        let open: Vec<(i64, String)> = self.database.read(|tx| {
            tx.prepare(
                "SELECT id, session FROM job WHERE state IN ('queued', 'running') ORDER BY id",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        let mut reaped = Vec::new();
        for (id, session) in open {
            // Our own lock would look free to us.
            if session == self.session || self.locks.is_alive(&session)? {
                continue;
            }
            let id = JobId(id);
            let ending = Ending {
                message: Some("its process ended before it could".to_string()),
                ..Ending::default()
            };
            self.finish(id, JobState::Interrupted, &ending, now)?;
            reaped.extend(self.job(id)?);
        }
        Ok(reaped)
    }

    /// Returns the newest job of each task, if it was interrupted: nothing has made up for it yet.
    pub(crate) fn unresumed(&self) -> Result<Vec<Job>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM job WHERE id IN (SELECT max(id) FROM job GROUP BY task) \
                 AND state = 'interrupted' ORDER BY id"
            );
            tx.prepare(&sql)?.query_map([], job_row)?.collect()
        })?)
    }

    /// Returns a job.
    pub(crate) fn job(&self, id: JobId) -> Result<Option<Job>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!("SELECT {COLUMNS} FROM job WHERE id = ?");
            tx.query_row(&sql, [id.0], job_row).optional()
        })?)
    }

    /// Returns the newest jobs, the newest first; `task` chooses those of one task or, as in `backup`, of one kind.
    pub(crate) fn jobs(&self, task: Option<&str>, most: u32) -> Result<Vec<Job>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM job WHERE ?1 IS NULL OR task = ?1 OR task LIKE ?1 || ' %' \
                 OR task LIKE '% ' || ?1 ORDER BY id DESC LIMIT ?2"
            );
            tx.prepare(&sql)?.query_map(params![task, most], job_row)?.collect()
        })?)
    }

    /// Returns the newest job of exactly this task that did everything it was to do.
    pub(crate) fn last_done(&self, task: &str) -> Result<Option<Job>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM job WHERE task = ? AND state = 'done' ORDER BY id DESC LIMIT 1"
            );
            tx.query_row(&sql, [task], job_row).optional()
        })?)
    }

    /// Returns the jobs that wait or run, the oldest first.
    pub(crate) fn open_jobs(&self) -> Result<Vec<Job>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM job WHERE state IN ('queued', 'running') ORDER BY id"
            );
            tx.prepare(&sql)?.query_map([], job_row)?.collect()
        })?)
    }

    /// Removes the oldest jobs beyond the newest `keep`.
    pub(crate) fn trim(&self, keep: u32) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute(
                "DELETE FROM job WHERE state NOT IN ('queued', 'running') AND id <= \
                 (SELECT id FROM job ORDER BY id DESC LIMIT 1 OFFSET ?)",
                [keep],
            )?;
            tx.execute("DELETE FROM request WHERE job NOT IN (SELECT id FROM job)", [])
        })?;
        Ok(())
    }
}

fn job_row(row: &Row<'_>) -> rusqlite::Result<Job> {
    let arguments: String = row.get(8)?;
    let summary: Option<String> = row.get(12)?;
    Ok(Job {
        id: JobId(row.get(0)?),
        task: row.get(1)?,
        reason: Reason::of_word(&row.get::<_, String>(2)?),
        state: JobState::of_word(&row.get::<_, String>(3)?),
        attempt: row.get(4)?,
        queued: moment(row.get(5)?),
        started: row.get::<_, Option<i64>>(6)?.map(moment),
        finished: row.get::<_, Option<i64>>(7)?.map(moment),
        arguments: serde_json::from_str(&arguments).unwrap_or_default(),
        exit_code: row.get(9)?,
        message: row.get(10)?,
        hint: row.get(11)?,
        // Written by us; what is not JSON any more tells nothing.
        summary: summary.and_then(|text| serde_json::from_str(&text).ok()),
        request: row.get(13)?,
    })
}
