//! The way to a store: requests of the `object_store` crate, sent by a client of our own.
//!
//! Our own, because the crate tells neither the server's time nor its reason, gives a request one time for
//! everything (a slow line is no dead one), and repeats what must not be repeated blindly. Here each body is
//! sent in pieces at the rate that the limiter allows, a request is given up when nothing moves any more, and
//! what the server said is kept for whoever asked.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::redirect::Policy;
use storepool::clock::Timestamp;
use tokio::time::Sleep;

use crate::error::StoreFault;
use crate::store::bandwidth::UploadLimiter;
use crate::store::marks::Marks;
use crate::store::meaning::{Answer, code_of, message_of};

// Without a limit the pieces only have to be small enough to see that something moves.
const PIECE_BYTES: usize = 256 << 10;
// A page of a list has at most 5,000 entries (Azure) with names of at most 255 bytes and some hundred bytes around each.
const LIST_BYTES: usize = 16 << 20;
// What a list of S3 and Google, or of Azure, begins with.
const LISTS: [&[u8]; 2] = [b"<ListBucketResult", b"<EnumerationResults"];
// An answer that is an error explains itself in a few lines.
const ERROR_BYTES: usize = 64 << 10;
// Servers close connections that are idle for 20 s and more; a put on a closed one would be in doubt.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
// Where a machine in the cloud asks for its role. Nothing else answers there, and nobody is to wait for it long.
const ROLE_HOSTS: [&str; 4] =
    ["169.254.169.254", "169.254.170.2", "169.254.170.23", "metadata.google.internal"];
const ROLE_LIMIT: Duration = Duration::from_secs(2);
const USER_AGENT: &str = concat!("keepwell/", env!("CARGO_PKG_VERSION"));

tokio::task_local! {
    static SEEN: RefCell<Seen>;
}

/// What was seen while a call to the store ran.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The last answer.
    pub(super) answer: Option<Answer>,
    /// The store's sentence in the last answer.
    pub(super) message: Option<String>,
    /// Why there was none, or why it ended early.
    pub(super) broken: Option<Broken>,
    /// What a good answer said of the object.
    pub(super) marks: Marks,
}

/// A connection that failed.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    /// What it means.
    pub(super) fault: StoreFault,
    /// With whom, and in the system's words.
    pub(super) words: String,
}

/// Runs a call to the store and returns with its result what was seen of the server meanwhile.
pub(super) async fn observed<T>(call: impl Future<Output = T>) -> (T, Seen) {
    let seen = RefCell::new(Seen::default());
    SEEN.scope(seen, async {
        let result = call.await;
        (result, SEEN.with(RefCell::take))
    })
    .await
}

fn note(change: impl FnOnce(&mut Seen)) {
    // Outside of a call nobody wants to know.
    let _ = SEEN.try_with(|seen| change(&mut seen.borrow_mut()));
}

/// How requests travel.
#[derive(Clone)]
pub(super) struct Way {
    /// Certificates in PEM that are trusted besides the system's.
    pub(super) certificates: Option<String>,
    /// URL of a proxy and the hosts that are asked without it.
    pub(super) proxy: Option<(String, Option<String>)>,
    /// Whether the server is asked without encryption, because its address says so.
    pub(super) plain: bool,
    pub(super) limiter: Option<Arc<UploadLimiter>>,
    pub(super) connect_limit: Duration,
    pub(super) stall_limit: Duration,
}

/// Makes clients for the `object_store` crate.
#[derive(Clone)]
pub(super) struct Connector(Arc<Client>);

struct Client {
    store: reqwest::Client,
    roles: reqwest::Client,
    limiter: Option<Arc<UploadLimiter>>,
    stall_limit: Duration,
}

impl Connector {
    /// Makes a client.
    ///
    /// # Errors
    /// What is wrong with certificates or proxy, without repeating them.
    pub(super) fn new(way: &Way) -> Result<Self, String> {
        // One TLS stack and one provider for the whole process; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = || {
            reqwest::Client::builder()
                .http1_only()
                .redirect(Policy::none())
                .referer(false)
                .no_proxy()
                .user_agent(USER_AGENT)
                .pool_idle_timeout(IDLE_LIMIT)
        };
        let mut store = base().connect_timeout(way.connect_limit).https_only(!way.plain);
        if let Some((proxy, except)) = &way.proxy {
            let proxy = reqwest::Proxy::all(proxy).map_err(|_| "the proxy is not a URL")?;
            let except = except.as_deref().and_then(reqwest::NoProxy::from_string);
            store = store.proxy(proxy.no_proxy(except));
        }
        if let Some(pem) = &way.certificates {
            let found = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            let found = found.ok().filter(|found| !found.is_empty());
            store = store.tls_certs_merge(found.ok_or("the CA certificates are not in PEM")?);
        }
        let sound = |_| "a certificate or the proxy cannot be used".to_owned();
        Ok(Self(Arc::new(Client {
            store: store.build().map_err(sound)?,
            roles: base().connect_timeout(ROLE_LIMIT).timeout(ROLE_LIMIT).build().map_err(sound)?,
            limiter: way.limiter.clone(),
            stall_limit: way.stall_limit,
        })))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    // The crate's options are passed over: everything about the way is in ours.
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        note(|seen| *seen = Seen::default());
        let (parts, body) = request.into_parts();
        let host = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let for_role = asks_for_role(&parts.uri);
        let for_list = asks_for_list(&parts.uri);
        let url = parts.uri.to_string().parse().map_err(|_| {
            let words = "the name cannot be part of a URL".to_owned();
            broken(Broken { fault: StoreFault::Other, words }, HttpErrorKind::Unknown)
        })?;

        let moved = Arc::new(AtomicU64::new(0));
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let length = body.content_length();
        if length > 0 {
            let paced = PacedBody::new(body, length, self.0.limiter.clone(), moved.clone());
            *request.body_mut() = Some(reqwest::Body::wrap(paced));
        } else {
            *request.body_mut() = Some(reqwest::Body::from(Bytes::new()));
        }
        let client = if for_role { &self.0.roles } else { &self.0.store };
        let sent = unless_stalled(client.execute(request), &moved, self.0.stall_limit).await;
        let response = match sent {
            Some(Ok(response)) => response,
            Some(Err(_)) if for_role => {
                let words = "no keys were given, and this machine has no role".to_owned();
                let fault = StoreFault::Unauthenticated;
                return Err(broken(Broken { fault, words }, HttpErrorKind::Unknown));
            }
            Some(Err(error)) => return Err(failed(&host, &error)),
            None => return Err(stalled(&host)),
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let mut answer = Answer {
            status: parts.status.as_u16(),
            code: header(&parts.headers, "x-ms-error-code"),
            retry_after: header(&parts.headers, "retry-after")
                .and_then(|seconds| seconds.parse().ok())
                .map(Duration::from_secs),
            date: header(&parts.headers, "date").and_then(|date| moment(&date)),
        };
        let body = ReadBody {
            inner: body,
            host: host.clone(),
            stall_limit: self.0.stall_limit,
            stall: Box::pin(tokio::time::sleep(self.0.stall_limit)),
        };
        if parts.status.is_success() && for_list {
            let list = checked_list(body, &host).await?;
            note(|seen| seen.answer = Some(answer));
            return Ok(HttpResponse::from_parts(parts, list));
        }
        if parts.status.is_success() {
            let marks = Marks::read(&parts.headers);
            note(|seen| *seen = Seen { answer: Some(answer), marks, ..Seen::default() });
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let limited = http_body_util::Limited::new(body, ERROR_BYTES);
        let text = match limited.collect().await {
            Ok(collected) => collected.to_bytes(),
            // The status alone says enough.
            Err(_) => Bytes::new(),
        };
        let words = String::from_utf8_lossy(&text);
        answer.code = answer.code.or_else(|| code_of(&words));
        note(|seen| {
            let message = message_of(&words);
            *seen = Seen { answer: Some(answer), message, ..Seen::default() };
        });
        // Only now may a body be lossy: the crate reads it as text.
        let body = HttpResponseBody::from(words.into_owned());
        Ok(HttpResponse::from_parts(parts, body))
    }
}

// By the paths too: variables may name another server for the roles of a machine.
fn asks_for_role(uri: &http::Uri) -> bool {
    uri.host().is_some_and(|host| ROLE_HOSTS.contains(&host))
        || uri.path() == "/latest/api/token"
        || uri.path().starts_with("/latest/meta-data/iam/security-credentials")
}

fn asks_for_list(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.contains("list-type=2") || query.contains("comp=list"))
}

// The crate takes any document for a list, one without entries; nothing must be taken for "there is nothing".
async fn checked_list(body: ReadBody, host: &str) -> Result<HttpResponseBody, HttpError> {
    let corrupt = |words: &str| {
        let words = format!("{host}: {words}");
        broken(Broken { fault: StoreFault::Corrupt, words }, HttpErrorKind::Decode)
    };
    let limited = http_body_util::Limited::new(body, LIST_BYTES);
    let list = match limited.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(corrupt("a page of a list is longer than any can be"));
        }
        Err(error) => return Err(HttpError::new_boxed(HttpErrorKind::Interrupted, error)),
    };
    match LISTS.iter().any(|start| list.windows(start.len()).take(1024).any(|at| at == *start)) {
        true => Ok(HttpResponseBody::from(list)),
        false => Err(corrupt("the answer is not a list")),
    }
}

fn header(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn moment(date: &str) -> Option<Timestamp> {
    let moment = jiff::fmt::rfc2822::parse(date).ok()?;
    i64::try_from(moment.timestamp().as_nanosecond()).ok().map(Timestamp)
}

// `None` when nothing moved for the limit. A body that is still being sent moves.
async fn unless_stalled<T>(
    request: impl Future<Output = T>,
    moved: &AtomicU64,
    limit: Duration,
) -> Option<T> {
    let mut request = std::pin::pin!(request);
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        if let Ok(answer) = tokio::time::timeout(limit, request.as_mut()).await {
            return Some(answer);
        }
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return None;
        }
        before = now;
    }
}

fn broken(broken: Broken, kind: HttpErrorKind) -> HttpError {
    let error = HttpError::new(kind, std::io::Error::other(broken.words.clone()));
    note(|seen| seen.broken = Some(broken));
    error
}

fn stalled(host: &str) -> HttpError {
    let words = format!("{host} is silent");
    broken(Broken { fault: StoreFault::Timeout, words }, HttpErrorKind::Timeout)
}

fn failed(host: &str, error: &reqwest::Error) -> HttpError {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    let mut untrusted = false;
    while let Some(deeper) = inside(cause) {
        cause = deeper;
        let tls = cause.downcast_ref::<rustls::Error>();
        untrusted |= matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
    }
    let (fault, kind) = match () {
        () if untrusted => (StoreFault::Untrusted, HttpErrorKind::Connect),
        () if error.is_timeout() => (StoreFault::Timeout, HttpErrorKind::Timeout),
        () if error.is_builder() => (StoreFault::Other, HttpErrorKind::Unknown),
        () => (StoreFault::Unreachable, HttpErrorKind::Interrupted),
    };
    // The innermost cause is the system's; everything around it says only that something failed.
    broken(Broken { fault, words: format!("{host}: {cause}") }, kind)
}

// An I/O error hides what it wraps: its source is the source of that.
fn inside<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// A body that is sent in pieces, as fast as the limiter allows.
struct PacedBody {
    inner: HttpRequestBody,
    unsent: u64,
    // Of the inner body, not sent yet.
    rest: Bytes,
    limiter: Option<Arc<UploadLimiter>>,
    pause: Option<(Pin<Box<Sleep>>, Bytes)>,
    moved: Arc<AtomicU64>,
}

impl PacedBody {
    fn new(
        inner: HttpRequestBody,
        length: usize,
        limiter: Option<Arc<UploadLimiter>>,
        moved: Arc<AtomicU64>,
    ) -> Self {
        Self { inner, unsent: length as u64, rest: Bytes::new(), limiter, pause: None, moved }
    }

    fn send(&mut self, piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.unsent = self.unsent.saturating_sub(piece.len() as u64);
        self.moved.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let body = self.get_mut();
        if let Some((pause, _)) = &mut body.pause {
            ready!(pause.as_mut().poll(context));
        }
        if let Some((_, piece)) = body.pause.take() {
            return body.send(piece);
        }
        while body.rest.is_empty() {
            match ready!(Pin::new(&mut body.inner).poll_frame(context)) {
                Some(Ok(frame)) => body.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let most = body.limiter.as_ref().map_or(PIECE_BYTES, |limiter| limiter.piece());
        let piece = body.rest.split_to(most.min(body.rest.len()));
        let wait =
            body.limiter.as_ref().map_or(Duration::ZERO, |limiter| limiter.take(piece.len()));
        if wait.is_zero() {
            return body.send(piece);
        }
        let mut pause = Box::pin(tokio::time::sleep(wait));
        match pause.as_mut().poll(context) {
            Poll::Ready(()) => body.send(piece),
            Poll::Pending => {
                body.pause = Some((pause, piece));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unsent == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent)
    }
}

/// A body that is received; given up when nothing comes any more.
struct ReadBody {
    inner: reqwest::Body,
    host: String,
    stall_limit: Duration,
    stall: Pin<Box<Sleep>>,
}

impl Body for ReadBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let body = self.get_mut();
        match Pin::new(&mut body.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                let deadline = tokio::time::Instant::now() + body.stall_limit;
                body.stall.as_mut().reset(deadline);
                Poll::Ready(frame.map(|frame| frame.map_err(|error| failed(&body.host, &error))))
            }
            Poll::Pending => {
                ready!(body.stall.as_mut().poll(context));
                Poll::Ready(Some(Err(stalled(&body.host))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
