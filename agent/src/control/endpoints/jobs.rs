//! Jobs: listed, shown, followed while they run, stopped.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Json, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{Shared, ask, blocking};
use crate::control::refusal::Refusal;
use crate::control::server::Office;
use crate::daemon::{Command, Subscribed};
use crate::documents::JobDocument;
use crate::journal::JobId;

/// The newest jobs.
#[derive(JsonSchema, Serialize)]
pub(super) struct Jobs {
    jobs: Vec<JobDocument>,
}

/// Which jobs.
#[derive(Debug, Deserialize)]
pub(super) struct JobQuery {
    what: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list_jobs(
    State(office): Shared,
    Query(query): Query<JobQuery>,
) -> Result<Json<Jobs>, Refusal> {
    blocking(move || {
        let jobs =
            office.journal.jobs(query.what.as_deref(), query.limit.unwrap_or(20).min(1000))?;
        Ok(Json(Jobs { jobs: jobs.iter().map(JobDocument::of).collect() }))
    })
    .await
}

pub(super) fn no_job(id: i64) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, &format!("there is no job {id}"))
}

pub(super) async fn show_job(
    State(office): Shared,
    Path(id): Path<i64>,
) -> Result<Json<JobDocument>, Refusal> {
    blocking(move || match office.journal.job(JobId(id))? {
        Some(job) => Ok(Json(JobDocument::of(&job))),
        None => Err(no_job(id)),
    })
    .await
}

pub(super) async fn cancel_job(
    State(office): Shared,
    Path(id): Path<i64>,
) -> Result<StatusCode, Refusal> {
    match ask(&office, |reply| Command::Cancel { id: JobId(id), reply }).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => {
            let message = format!("job {id} neither waits nor runs");
            Err(Refusal::new(StatusCode::CONFLICT, &message))
        }
    }
}

pub(super) fn line(message: &Value) -> Bytes {
    Bytes::from(format!("{message}\n"))
}

pub(super) async fn follow_job(
    State(office): Shared,
    Path(id): Path<i64>,
) -> Result<Response, Refusal> {
    let subscribed = ask(&office, |reply| Command::Subscribe { id: JobId(id), reply }).await?;
    let Some(Subscribed { job, last, messages }) = subscribed else { return Err(no_job(id)) };
    let first = json!({ "message_type": "job", "job": JobDocument::of(&job) });
    let mut opening = vec![line(&first)];
    opening.extend(last.map(|last| line(&last)));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(64);
    tokio::spawn(async move {
        for bytes in opening {
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
        if let Some(mut messages) = messages {
            loop {
                match messages.recv().await {
                    Ok(message) => {
                        if sender.send(line(&message)).await.is_err() {
                            return;
                        }
                    }
                    // A slow listener misses progress, never the end.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
            }
        }
        // The desk enters the end right after it has closed the messages.
        let ended = wait_for_end(&office, JobId(id)).await;
        if let Some(job) = ended {
            let _ = sender.send(line(&json!({ "message_type": "end", "job": job }))).await;
        }
    });
    let stream = futures_of(receiver);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(stream)).into_response())
}

pub(super) async fn wait_for_end(office: &Arc<Office>, id: JobId) -> Option<JobDocument> {
    // Asking the desk comes after everything it does in one go, so one answer is usually enough; a bound all the same.
    for _ in 0..50 {
        let subscribed = ask(office, |reply| Command::Subscribe { id, reply }).await.ok()??;
        if subscribed.job.state.is_ended() {
            return Some(JobDocument::of(&subscribed.job));
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    None
}

pub(super) fn futures_of(
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
) -> impl futures_core::Stream<Item = Result<Bytes, Infallible>> {
    struct Lines(tokio::sync::mpsc::Receiver<Bytes>);
    impl futures_core::Stream for Lines {
        type Item = Result<Bytes, Infallible>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
        }
    }
    Lines(receiver)
}
