//! Jobs and alerts as programs see them: the same on the command line (`--json`) and at the control socket. Fields are added, never renamed.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::console::units::rfc3339;
use crate::journal::{Alert, Job};

/// A run of a task.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JobDocument {
    /// Its number.
    pub(crate) id: i64,
    /// What it does, such as `backup web`.
    pub(crate) task: String,
    /// `queued`, `running`, `done`, `incomplete`, `failed`, `interrupted`, `cancelled` or `stopped` (by the state of a vault).
    pub(crate) state: &'static str,
    /// `schedule`, `catch_up`, `retry`, `resumed`, `follows` or `hand`.
    pub(crate) reason: &'static str,
    /// 1 for the first try.
    pub(crate) attempt: u32,
    /// When it was entered.
    pub(crate) queued: String,
    /// When it began.
    pub(crate) started: Option<String>,
    /// When it ended.
    pub(crate) finished: Option<String>,
    /// The exit code of its command.
    pub(crate) exit_code: Option<u8>,
    /// Why it failed.
    pub(crate) message: Option<String>,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// What it did.
    pub(crate) summary: Option<Value>,
    /// The id of the request that asked for it.
    pub(crate) request: Option<String>,
}

impl JobDocument {
    /// Returns a job as programs see it.
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            id: job.id.0,
            task: job.task.clone(),
            state: job.state.word(),
            reason: job.reason.word(),
            attempt: job.attempt,
            queued: rfc3339(job.queued),
            started: job.started.map(rfc3339),
            finished: job.finished.map(rfc3339),
            exit_code: job.exit_code,
            message: job.message.clone(),
            hint: job.hint.clone(),
            summary: job.summary.clone(),
            request: job.request.clone(),
        }
    }
}

/// Something that is or was wrong.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct AlertDocument {
    /// Its number.
    pub(crate) id: i64,
    /// What it is about.
    pub(crate) key: String,
    /// `information`, `warning` or `critical`.
    pub(crate) level: &'static str,
    /// What is wrong.
    pub(crate) message: String,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// When it began.
    pub(crate) first_seen: String,
    /// When it was noticed the last time.
    pub(crate) last_seen: String,
    /// How often it was noticed.
    pub(crate) count: u32,
    /// Whether it goes on.
    pub(crate) active: bool,
    /// When it was over.
    pub(crate) resolved: Option<String>,
    /// When somebody said that they know.
    pub(crate) acknowledged: Option<String>,
    /// Who.
    pub(crate) acknowledged_by: Option<String>,
}

impl AlertDocument {
    /// Returns an alert as programs see it.
    pub(crate) fn of(alert: &Alert) -> Self {
        Self {
            id: alert.id,
            key: alert.key.clone(),
            level: alert.level.word(),
            message: alert.message.clone(),
            hint: alert.hint.clone(),
            first_seen: rfc3339(alert.first_seen),
            last_seen: rfc3339(alert.last_seen),
            count: alert.count,
            active: alert.resolved.is_none(),
            resolved: alert.resolved.map(rfc3339),
            acknowledged: alert.acknowledged.map(rfc3339),
            acknowledged_by: alert.acknowledged_by.clone(),
        }
    }
}
