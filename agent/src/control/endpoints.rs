//! The endpoints: one table from which both the routes and the OpenAPI document are made.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Json, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};

use super::access::Peer;
use super::server::{Office, RequestId};
use crate::config::{self, Config};
use crate::console::units::rfc3339;
use crate::daemon::{Command, Submitted, Subscribed, Wish};
use crate::documents::{AlertDocument, JobDocument};
use crate::error::Cause;
use crate::job::Task;
use crate::journal::{JobId, Reason};
use crate::{metrics, status};

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
        "/v1/maintenance/{task}",
        "Run forget, prune or check now",
        || post(maintain),
        202,
    )
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

/// A refused request, as it is told.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: &str) -> Self {
        Self { status, message: message.to_string(), hint: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "message": self.message, "hint": self.hint } });
        (self.status, Json(body)).into_response()
    }
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, &cause.chain())
    }
}

impl From<crate::error::Error> for Refusal {
    fn from(error: crate::error::Error) -> Self {
        let failure = crate::console::failure::explain(&error);
        const USAGE: u8 = 2;
        let status = match failure.code {
            USAGE => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: failure.message, hint: failure.hint }
    }
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

/// The daemon.
#[derive(JsonSchema, Serialize)]
struct Health {
    version: &'static str,
    pid: u32,
}

async fn health() -> Json<Health> {
    Json(Health { version: env!("CARGO_PKG_VERSION"), pid: std::process::id() })
}

async fn openapi() -> Json<Value> {
    Json(document())
}

/// Returns the OpenAPI document of all endpoints.
pub(super) fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for endpoint in ENDPOINTS {
        let success = match endpoint.response {
            Some(schema) => json!({
                "description": endpoint.summary,
                "content": { "application/json": { "schema": schema() } },
            }),
            None => json!({ "description": endpoint.summary }),
        };
        let status = endpoint.status.to_string();
        let mut operation = json!({
            "summary": endpoint.summary,
            "responses": {
                status: success,
                "403": { "description": "only root and members of the group keepwell" },
                "default": { "description": "refused: { error: { message, hint } }" },
            },
        });
        let names =
            endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<_> = names
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(schema) = endpoint.request {
            operation["requestBody"] =
                json!({ "content": { "application/json": { "schema": schema() } } });
        }
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Keepwell control",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Over a Unix socket. Send Idempotency-Key with a POST to be safe against repeats; X-Request-Id appears in logs, jobs and answers.",
        },
        "paths": paths,
    })
}

async fn show_status(State(office): Shared) -> Result<Json<status::Status>, Refusal> {
    blocking(move || {
        let now = office.clock.now();
        Ok(Json(status::of(&in_force(&office)?, &office.journal, now, true)?))
    })
    .await
}

async fn show_metrics(State(office): Shared) -> Result<Response, Refusal> {
    let text = blocking(move || {
        let now = office.clock.now();
        let status = status::of(&in_force(&office)?, &office.journal, now, true)?;
        Ok(metrics::text(&status, &office.journal)?)
    })
    .await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}

/// The configuration.
#[derive(JsonSchema, Serialize)]
struct Configuration {
    /// The file.
    path: String,
    /// Every key with the value in force; secrets are hidden.
    effective: String,
    /// What names this state of the file, for If-Match.
    etag: String,
}

// What the daemon works by, whatever the file says meanwhile.
fn in_force(office: &Office) -> Result<Config, Refusal> {
    Ok(Config::load_as(&office.place.in_force(), &office.place.configuration)?)
}

fn etag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn configuration(office: &Office) -> Result<(Configuration, String), Refusal> {
    let path = &office.place.configuration;
    let text = std::fs::read_to_string(path).map_err(|cause| Cause::Io {
        action: "read",
        path: path.clone(),
        cause,
    })?;
    let config = Config::parse(path, &text).map_err(Cause::from)?;
    let etag = etag(&text);
    let effective = config::effective(&config);
    Ok((Configuration { path: path.display().to_string(), effective, etag: etag.clone() }, etag))
}

async fn show_config(State(office): Shared) -> Result<Response, Refusal> {
    let (body, etag) = blocking(move || configuration(&office)).await?;
    Ok(([(header::ETAG, etag)], Json(body)).into_response())
}

async fn replace_config(
    State(office): Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let Some(wanted) = wanted.map(str::to_string) else {
        let message = "say with If-Match which state of the configuration is replaced";
        return Err(Refusal::new(StatusCode::PRECONDITION_REQUIRED, message));
    };
    let text = String::from_utf8(body.to_vec())
        .map_err(|_| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the file must be UTF-8"))?;
    let shared = office.clone();
    blocking(move || {
        let path = &shared.place.configuration;
        let before = std::fs::read_to_string(path).map_err(|cause| Cause::Io {
            action: "read",
            path: path.clone(),
            cause,
        })?;
        if etag(&before) != wanted {
            let message = "the configuration was changed meanwhile: read it again";
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, message));
        }
        if let Err(error) = Config::parse(path, &text) {
            return Err(Refusal {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                message: error.to_string(),
                hint: error.nearest().map(|near| format!("did you mean \"{near}\"?")),
            });
        }
        Ok(config::write(path, &text)?)
    })
    .await?;
    reload(State(office.clone())).await?;
    show_config(State(office)).await
}

async fn reload(State(office): Shared) -> Result<StatusCode, Refusal> {
    match ask(&office, |reply| Command::Reload { reply: Some(reply) }).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(message) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &message)),
    }
}

/// When each task runs next.
#[derive(JsonSchema, Serialize)]
struct Plan {
    tasks: Vec<Planned>,
}

/// When a task runs next.
#[derive(JsonSchema, Serialize)]
struct Planned {
    task: String,
    next: String,
}

async fn plan(State(office): Shared) -> Result<Json<Plan>, Refusal> {
    let plan = ask(&office, |reply| Command::Plan { reply }).await?;
    let tasks = plan
        .into_iter()
        .map(|(task, next)| Planned { task: task.to_string(), next: rfc3339(next) });
    Ok(Json(Plan { tasks: tasks.collect() }))
}

/// How points are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct NewPoints {
    /// Read every file.
    force: bool,
    /// Tags of the points.
    tags: Vec<String>,
}

/// What is restored, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewRestore {
    /// `POINT`, `POINT:PATH`, `latest:GROUP`.
    point: String,
    /// An absolute path of a folder.
    to: String,
    /// `fail`, `skip`, `overwrite` or `newer`.
    #[serde(default)]
    conflict: Option<String>,
}

/// A job that was accepted.
#[derive(JsonSchema, Serialize)]
struct Accepted {
    /// Its number.
    job: i64,
    /// Whether it is new; `false` if such a job was there already.
    new: bool,
    /// Where it is found.
    url: String,
}

async fn group(office: &Arc<Office>, name: &str) -> Result<(), Refusal> {
    let (office, name) = (office.clone(), name.to_string());
    blocking(move || {
        let config = in_force(&office)?;
        match crate::job::group(&config, &name) {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = crate::console::failure::explain(&error);
                let (message, hint) = (failure.message, failure.hint);
                Err(Refusal { status: StatusCode::NOT_FOUND, message, hint })
            }
        }
    })
    .await
}

fn hand(task: Task, words: Vec<String>) -> Wish {
    Wish {
        name: task.to_string(),
        task: Some(task),
        words,
        reason: Reason::Hand,
        attempt: 1,
        request: None,
    }
}

async fn submit(
    office: &Office,
    headers: &HeaderMap,
    request: RequestId,
    wish: Wish,
) -> Result<Response, Refusal> {
    const KEY_MOST: usize = 128;
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    if key.is_some_and(|key| key.is_empty() || key.len() > KEY_MOST) {
        let message = "an Idempotency-Key has 1 to 128 characters";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let mut hasher = DefaultHasher::new();
    (&wish.name, &wish.words).hash(&mut hasher);
    let idempotency = key.map(|key| (key.to_string(), hasher.finish()));
    let wish = Box::new(Wish { request: Some(request.0), ..wish });
    match ask(office, |reply| Command::Submit { wish, idempotency, reply }).await? {
        Submitted::Job { id, new } => {
            let url = format!("/v1/jobs/{id}");
            let location = [(header::LOCATION, url.clone())];
            let body = Json(Accepted { job: id.0, new, url });
            Ok((StatusCode::ACCEPTED, location, body).into_response())
        }
        Submitted::KeyReused => {
            let message = "this Idempotency-Key was used for another request";
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))
        }
        Submitted::Unavailable(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &why)),
    }
}

// An empty body means the defaults; one that is no such document is refused.
fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()))
}

async fn make_points(
    State(office): Shared,
    Extension(request): Extension<RequestId>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let new: NewPoints = parse(&body)?;
    group(&office, &name).await?;
    let mut words = vec!["backup".to_string(), name.clone()];
    if new.force {
        words.push("--force".to_string());
    }
    for tag in new.tags {
        words.push(format!("--tag={tag}"));
    }
    submit(&office, &headers, request, hand(Task::Backup(name), words)).await
}

async fn make_copies(
    State(office): Shared,
    Extension(request): Extension<RequestId>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    group(&office, &name).await?;
    let words = vec!["sync".to_string(), name.clone()];
    submit(&office, &headers, request, hand(Task::Sync(name), words)).await
}

async fn maintain(
    State(office): Shared,
    Extension(request): Extension<RequestId>,
    Path(task): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let task: Task = match task.parse() {
        Ok(task @ (Task::Forget | Task::Prune | Task::Check)) => task,
        _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "expected forget, prune or check")),
    };
    let shared = office.clone();
    let wish = blocking(move || {
        let config = in_force(&shared)?;
        Ok(Wish::task(&config, task, Reason::Hand))
    })
    .await?;
    submit(&office, &headers, request, wish).await
}

async fn restore(
    State(office): Shared,
    Extension(request): Extension<RequestId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let new: NewRestore = parse(&body)?;
    let wrong = |message| Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    if !new.to.starts_with('/') {
        return wrong("\"to\" must be an absolute path");
    }
    // Otherwise it would be taken for an option.
    if new.point.starts_with('-') || new.point.is_empty() {
        return wrong("\"point\" must name a point");
    }
    let mut words = vec!["restore".to_string(), new.point.clone(), format!("--to={}", new.to)];
    match new.conflict.as_deref() {
        None => {}
        Some(conflict @ ("fail" | "skip" | "overwrite" | "newer")) => {
            words.push(format!("--conflict={conflict}"));
        }
        Some(_) => return wrong("\"conflict\" must be fail, skip, overwrite or newer"),
    }
    let wish = Wish {
        task: None,
        name: format!("restore {}", new.point),
        words,
        reason: Reason::Hand,
        attempt: 1,
        request: None,
    };
    submit(&office, &headers, request, wish).await
}

/// The newest jobs.
#[derive(JsonSchema, Serialize)]
struct Jobs {
    jobs: Vec<JobDocument>,
}

/// Which jobs.
#[derive(Debug, Deserialize)]
struct JobQuery {
    what: Option<String>,
    limit: Option<u32>,
}

async fn list_jobs(
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

fn no_job(id: i64) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, &format!("there is no job {id}"))
}

async fn show_job(
    State(office): Shared,
    Path(id): Path<i64>,
) -> Result<Json<JobDocument>, Refusal> {
    blocking(move || match office.journal.job(JobId(id))? {
        Some(job) => Ok(Json(JobDocument::of(&job))),
        None => Err(no_job(id)),
    })
    .await
}

async fn cancel_job(State(office): Shared, Path(id): Path<i64>) -> Result<StatusCode, Refusal> {
    match ask(&office, |reply| Command::Cancel { id: JobId(id), reply }).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => {
            let message = format!("job {id} neither waits nor runs");
            Err(Refusal::new(StatusCode::CONFLICT, &message))
        }
    }
}

fn line(message: &Value) -> Bytes {
    Bytes::from(format!("{message}\n"))
}

async fn follow_job(State(office): Shared, Path(id): Path<i64>) -> Result<Response, Refusal> {
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

async fn wait_for_end(office: &Arc<Office>, id: JobId) -> Option<JobDocument> {
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

fn futures_of(
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

/// Alerts.
#[derive(JsonSchema, Serialize)]
struct Alerts {
    alerts: Vec<AlertDocument>,
}

/// Which alerts.
#[derive(Debug, Deserialize)]
struct AlertQuery {
    #[serde(default)]
    all: bool,
}

async fn list_alerts(
    State(office): Shared,
    Query(query): Query<AlertQuery>,
) -> Result<Json<Alerts>, Refusal> {
    blocking(move || {
        let alerts = match query.all {
            true => office.journal.alerts(1000)?,
            false => office.journal.active_alerts()?,
        };
        Ok(Json(Alerts { alerts: alerts.iter().map(AlertDocument::of).collect() }))
    })
    .await
}

async fn acknowledge(
    State(office): Shared,
    Extension(peer): Extension<Peer>,
    Path(id): Path<i64>,
) -> Result<StatusCode, Refusal> {
    blocking(move || {
        let known = office.journal.acknowledge(id, &peer.name(), office.clock.now())?;
        match known {
            true => Ok(StatusCode::NO_CONTENT),
            false => {
                let message = format!("there is no active alert {id}");
                Err(Refusal::new(StatusCode::NOT_FOUND, &message))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_endpoint_with_what_it_takes_and_gives() {
        let document = document();

        let paths = document["paths"].as_object().unwrap();
        let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, ENDPOINTS.len());
        let points = &paths["/v1/groups/{name}/points"]["post"];
        assert_eq!(points["parameters"][0]["name"], "name");
        let body = &points["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["properties"]["force"]["type"], "boolean", "{body}");
        assert!(points["responses"]["202"]["content"].is_object());
        // Routes that overlap would panic here.
        drop(router());
    }

    #[test]
    fn a_body_that_is_no_such_document_is_refused() {
        assert!(parse::<NewPoints>(b"").is_ok());
        assert!(parse::<NewPoints>(b"{\"force\": true}").unwrap().force);
        assert_eq!(parse::<NewPoints>(b"{\"forse\": true}").unwrap_err().status, 422);
        assert!(parse::<NewRestore>(b"{}").is_err());
    }
}
