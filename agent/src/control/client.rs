//! The command line's side of the control socket.

use std::io;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::socket;
use crate::place::Place;

/// Longest answer that is read whole.
const ANSWER_MOST: usize = 16 << 20;

/// A connection to the daemon of this installation.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    place: Place,
}

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It refused.
    #[error("the daemon refused: {message}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// Why.
        message: String,
        /// What helps.
        hint: Option<String>,
    },
    /// The connection failed.
    #[error("the connection to the daemon broke")]
    Broken(#[source] io::Error),
}

impl Client {
    /// Connects to the daemon; `None` if none runs, or if it may not be reached.
    pub(crate) fn connect(place: &Place) -> Option<Self> {
        socket::connect(&socket::path(place)).ok()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().ok()?;
        Some(Self { runtime, place: place.clone() })
    }

    /// Sends a request and returns the answer's document; null if there is none.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        self.runtime.block_on(async {
            let response = self.send(method, path, body).await?;
            document(response).await
        })
    }

    /// Passes each line that a job says to `hear`, until the job ends or `hear` has heard enough.
    pub(crate) fn follow(
        &self,
        job: i64,
        mut hear: impl FnMut(Value) -> bool,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let response = self.send("GET", &format!("/v1/jobs/{job}/events"), None).await?;
            if !response.status().is_success() {
                document(response).await?;
                return Ok(());
            }
            let mut body = response.into_body();
            let mut pending: Vec<u8> = Vec::new();
            loop {
                let patience = std::time::Duration::from_millis(200);
                let frame = match tokio::time::timeout(patience, body.frame()).await {
                    Err(_) if goes_on() => continue,
                    Err(_) | Ok(None) => return Ok(()),
                    Ok(Some(frame)) => frame.map_err(broken)?,
                };
                let Ok(bytes) = frame.into_data() else { continue };
                pending.extend_from_slice(&bytes);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    let Ok(message) = serde_json::from_slice(&line) else { continue };
                    if !hear(message) {
                        return Ok(());
                    }
                }
                if pending.len() > ANSWER_MOST || !goes_on() {
                    return Ok(());
                }
            }
        })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = socket::connect(&socket::path(&self.place)).map_err(ClientError::Broken)?;
        stream.set_nonblocking(true).map_err(ClientError::Broken)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(ClientError::Broken)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "keepwell")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Broken(io::Error::other(error)))?;
        sender.send_request(request).await.map_err(broken)
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(io::Error::other(error))
}

async fn document(response: Response<Incoming>) -> Result<Value, ClientError> {
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MOST);
    let bytes =
        limited.collect().await.map_err(|error| ClientError::Broken(io::Error::other(error)))?;
    let document: Value = serde_json::from_slice(&bytes.to_bytes()).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(document);
    }
    let text = |name: &str| document["error"][name].as_str().map(str::to_string);
    Err(ClientError::Refused {
        status: status.as_u16(),
        message: text("message").unwrap_or_else(|| status.to_string()),
        hint: text("hint"),
    })
}
