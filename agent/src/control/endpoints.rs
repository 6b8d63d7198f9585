//! The endpoints: one table from which both the routes and the OpenAPI document are made.

mod alerts;
mod configuration;
mod description;
mod jobs;
mod state;
mod work;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{Schema, schema_for};
use tokio::sync::oneshot;

use super::refusal::Refusal;
use super::server::Office;
use crate::config::Config;
use crate::daemon::Command;
use crate::documents::JobDocument;
use crate::status;
use alerts::{Alerts, acknowledge, list_alerts};
use configuration::{Configuration, reload, replace_config, show_config};
use description::openapi;
use jobs::{Jobs, cancel_job, follow_job, list_jobs, show_job};
use state::{Health, Plan, health, plan, show_metrics, show_status};
use work::{
    Accepted, NewDrill, NewPoints, NewRestore, NewUpkeep, drill, maintain, maintain_vault,
    make_copies, make_points, restore,
};

type Shared = State<Arc<Office>>;

/// One endpoint: how it is reached, and what it takes and gives.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<Office>>,
    request: Option<fn() -> Schema>,
    response: Option<fn() -> Schema>,
    status: u16,
}

const fn endpoint(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<Office>>,
    status: u16,
) -> Endpoint {
    Endpoint { method, path, summary, handler, request: None, response: None, status }
}

impl Endpoint {
    const fn takes(mut self, schema: fn() -> Schema) -> Self {
        self.request = Some(schema);
        self
    }

    const fn gives(mut self, schema: fn() -> Schema) -> Self {
        self.response = Some(schema);
        self
    }
}

const ENDPOINTS: &[Endpoint] = &[
    endpoint("get", "/v1/health", "Version and process of the daemon", || get(health), 200)
        .gives(|| schema_for!(Health)),
    endpoint("get", "/v1/openapi.json", "This description", || get(openapi), 200),
    endpoint("get", "/v1/status", "Whether all is well, and what is not", || get(show_status), 200)
        .gives(|| schema_for!(status::Status)),
    endpoint(
        "get",
        "/metrics",
        "Everything measured, as Prometheus reads it",
        || get(show_metrics),
        200,
    ),
    endpoint(
        "get",
        "/v1/config",
        "The configuration file, secrets hidden, with its ETag",
        || get(show_config),
        200,
    )
    .gives(|| schema_for!(Configuration)),
    endpoint(
        "put",
        "/v1/config",
        "Replace the configuration file (TOML); needs If-Match",
        || put(replace_config),
        200,
    )
    .gives(|| schema_for!(Configuration)),
    endpoint(
        "post",
        "/v1/config/reload",
        "Read the configuration file again",
        || post(reload),
        204,
    ),
    endpoint("get", "/v1/plan", "When each task runs next", || get(plan), 200)
        .gives(|| schema_for!(Plan)),
    endpoint(
        "post",
        "/v1/groups/{name}/points",
        "Make points of a group now",
        || post(make_points),
        202,
    )
    .takes(|| schema_for!(NewPoints))
    .gives(|| schema_for!(Accepted)),
    endpoint(
        "post",
        "/v1/groups/{name}/copies",
        "Copy the points of a group to its vault now",
        || post(make_copies),
        202,
    )
    .gives(|| schema_for!(Accepted)),
    endpoint(
        "post",
        "/v1/groups/{name}/drills",
        "Prove now that the points of a group can be restored, as configured or as the body says",
        || post(drill),
        202,
    )
    .takes(|| schema_for!(NewDrill))
    .gives(|| schema_for!(Accepted)),
    endpoint(
        "post",
        "/v1/maintenance/{task}",
        "Run forget, prune or check of the pool now, as configured or as the body says",
        || post(maintain),
        202,
    )
    .takes(|| schema_for!(NewUpkeep))
    .gives(|| schema_for!(Accepted)),
    endpoint(
        "post",
        "/v1/vaults/{name}/maintenance/{task}",
        "Run forget, prune or check of a vault now, as configured or as the body says",
        || post(maintain_vault),
        202,
    )
    .takes(|| schema_for!(NewUpkeep))
    .gives(|| schema_for!(Accepted)),
    endpoint(
        "post",
        "/v1/restores",
        "Restore a point, or a part of one, into a folder",
        || post(restore),
        202,
    )
    .takes(|| schema_for!(NewRestore))
    .gives(|| schema_for!(Accepted)),
    endpoint("get", "/v1/jobs", "The newest jobs", || get(list_jobs), 200)
        .gives(|| schema_for!(Jobs)),
    endpoint("get", "/v1/jobs/{id}", "A job", || get(show_job), 200)
        .gives(|| schema_for!(JobDocument)),
    endpoint(
        "delete",
        "/v1/jobs/{id}",
        "Stop a job, or take it from the queue",
        || delete(cancel_job),
        204,
    ),
    endpoint(
        "get",
        "/v1/jobs/{id}/events",
        "What a job says, line by line, until it ends",
        || get(follow_job),
        200,
    ),
    endpoint("get", "/v1/alerts", "What is wrong", || get(list_alerts), 200)
        .gives(|| schema_for!(Alerts)),
    endpoint(
        "post",
        "/v1/alerts/{id}/acknowledgement",
        "Say that you know of an alert",
        || post(acknowledge),
        204,
    ),
];

/// Makes the routes. Several methods of one path are one route.
pub(super) fn router() -> axum::Router<Arc<Office>> {
    let mut router = axum::Router::new();
    for endpoint in ENDPOINTS {
        router = router.route(endpoint.path, (endpoint.handler)());
    }
    router
}

/// Does what reads files or databases where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was given up")),
    }
}

async fn ask<T>(
    office: &Office,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Refusal> {
    let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is busy or ending");
    let (reply, answer) = oneshot::channel();
    if !office.desk.tell(command(reply)) {
        return Err(gone());
    }
    answer.await.map_err(|_| gone())
}

// What the daemon works by, whatever the file says meanwhile.
fn in_force(office: &Office) -> Result<Config, Refusal> {
    Ok(Config::load_as(&office.place.in_force(), &office.place.configuration)?)
}
