//! The configuration file: shown with its ETag, replaced by who has seen it, read again.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::body::Bytes;
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, ask, blocking};
use crate::config::{self, Config};
use crate::control::refusal::Refusal;
use crate::control::server::Office;
use crate::daemon::Command;
use crate::error::Cause;

/// The configuration.
#[derive(JsonSchema, Serialize)]
pub(super) struct Configuration {
    /// The file.
    path: String,
    /// Every key with the value in force; secrets are hidden.
    effective: String,
    /// What names this state of the file, for If-Match.
    etag: String,
}

pub(super) fn etag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

pub(super) fn configuration(office: &Office) -> Result<(Configuration, String), Refusal> {
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

pub(super) async fn show_config(State(office): Shared) -> Result<Response, Refusal> {
    let (body, etag) = blocking(move || configuration(&office)).await?;
    Ok(([(header::ETAG, etag)], Json(body)).into_response())
}

pub(super) async fn replace_config(
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

pub(super) async fn reload(State(office): Shared) -> Result<StatusCode, Refusal> {
    match ask(&office, |reply| Command::Reload { reply: Some(reply) }).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(message) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &message)),
    }
}
