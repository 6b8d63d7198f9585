//! How things are: health, status, measurements, and when each task runs next.

use axum::extract::{Json, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, ask, blocking, in_force};
use crate::console::units::rfc3339;
use crate::control::refusal::Refusal;
use crate::daemon::Command;
use crate::{metrics, status};

/// The daemon.
#[derive(JsonSchema, Serialize)]
pub(super) struct Health {
    version: &'static str,
    pid: u32,
}

pub(super) async fn health() -> Json<Health> {
    Json(Health { version: env!("CARGO_PKG_VERSION"), pid: std::process::id() })
}

pub(super) async fn show_status(State(office): Shared) -> Result<Json<status::Status>, Refusal> {
    blocking(move || {
        let now = office.clock.now();
        Ok(Json(status::of(&in_force(&office)?, &office.place, &office.journal, now, true)?))
    })
    .await
}

pub(super) async fn show_metrics(State(office): Shared) -> Result<Response, Refusal> {
    let text = blocking(move || {
        let now = office.clock.now();
        let status = status::of(&in_force(&office)?, &office.place, &office.journal, now, true)?;
        Ok(metrics::text(&status, &office.journal)?)
    })
    .await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}

/// When each task runs next.
#[derive(JsonSchema, Serialize)]
pub(super) struct Plan {
    tasks: Vec<Planned>,
}

/// When a task runs next.
#[derive(JsonSchema, Serialize)]
pub(super) struct Planned {
    task: String,
    next: String,
}

pub(super) async fn plan(State(office): Shared) -> Result<Json<Plan>, Refusal> {
    let plan = ask(&office, |reply| Command::Plan { reply }).await?;
    let tasks = plan
        .into_iter()
        .map(|(task, next)| Planned { task: task.to_string(), next: rfc3339(next) });
    Ok(Json(Plan { tasks: tasks.collect() }))
}
