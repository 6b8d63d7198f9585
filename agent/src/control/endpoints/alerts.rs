//! Alerts: listed and acknowledged.

use axum::extract::{Extension, Json, Path, Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Shared, blocking};
use crate::control::access::Peer;
use crate::control::refusal::Refusal;
use crate::documents::AlertDocument;

/// Alerts.
#[derive(JsonSchema, Serialize)]
pub(super) struct Alerts {
    alerts: Vec<AlertDocument>,
}

/// Which alerts.
#[derive(Debug, Deserialize)]
pub(super) struct AlertQuery {
    #[serde(default)]
    all: bool,
}

pub(super) async fn list_alerts(
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

pub(super) async fn acknowledge(
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
