//! The server: limits, request ids and access around the endpoints.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use storepool::clock::Clock;
use tokio::net::UnixListener;

use super::access::Peer;
use super::endpoints;
use super::refusal::Refusal;
use super::socket;
use crate::daemon::DeskHandle;
use crate::journal::Journal;
use crate::place::Place;

/// Longest body of a request: a configuration file is the largest.
const BODY_MOST: usize = 1 << 20;
/// Longest time for an answer to begin; streams of events go on after that.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Requests that are answered side by side.
const REQUESTS_MOST: usize = 64;
/// Longest request id that is taken from a client.
const REQUEST_ID_MOST: usize = 64;
/// The header of the request id.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// What the endpoints work with.
pub(super) struct Office {
    pub(super) place: Place,
    pub(super) desk: DeskHandle,
    pub(super) journal: Journal,
    pub(super) clock: Arc<dyn Clock>,
    requests: AtomicU64,
    answering: AtomicUsize,
}

/// The id of a request, as it appears in logs, jobs and the answer.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// The control server.
pub(crate) struct Server {
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Binds the socket at `path` and answers from now on, until it is dropped.
    ///
    /// # Errors
    /// What the system says about socket or threads.
    pub(crate) fn start(
        path: &Path,
        place: Place,
        desk: DeskHandle,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let listener = socket::bind(path)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("control")
            .enable_io()
            .enable_time()
            .build()?;
        let office = Arc::new(Office {
            place,
            desk,
            journal,
            clock,
            requests: AtomicU64::new(1),
            answering: AtomicUsize::new(0),
        });
        let router = router(office).into_make_service_with_connect_info::<Peer>();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener)?
        };
        runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the control socket is closed");
            }
        });
        Ok(Self { runtime })
    }

    /// Stops answering.
    pub(crate) fn stop(self) {
        self.runtime.shutdown_background();
    }
}

fn router(office: Arc<Office>) -> Router {
    endpoints::router()
        .fallback(|| async {
            Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; see /v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .layer(from_fn_with_state(office.clone(), guard))
        .with_state(office)
}

struct Answering<'a>(&'a AtomicUsize);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn guard(
    State(office): State<Arc<Office>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let sound = |id: &&str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=REQUEST_ID_MOST).contains(&id.len()) && id.bytes().all(fine)
    };
    let id = given.filter(sound).map_or_else(
        || {
            let number = office.requests.fetch_add(1, Ordering::Relaxed);
            format!("{}-{number}", std::process::id())
        },
        str::to_string,
    );
    request.extensions_mut().insert(RequestId(id.clone()));
    request.extensions_mut().insert(peer);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let _answering = Answering(&office.answering);
    let mut response = if office.answering.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MOST {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once").into_response()
    } else if !may_act(peer).await {
        tracing::warn!(request = %id, user = %peer.name(), pid = peer.pid, %method, path, "refused");
        let message = format!("only root and members of the group {} may do this", socket::GROUP);
        Refusal::new(StatusCode::FORBIDDEN, &message).into_response()
    } else {
        match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no answer in time").into_response()
            }
        }
    };
    let status = response.status().as_u16();
    if method == "GET" {
        tracing::debug!(request = %id, %method, path, status);
    } else {
        tracing::info!(request = %id, uid = peer.uid, %method, path, status);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

// Names may have to be looked up in a directory of users, which takes its time.
async fn may_act(peer: Peer) -> bool {
    if peer.uid == Some(0) {
        return true;
    }
    tokio::task::spawn_blocking(move || peer.may_act()).await.unwrap_or(false)
}
