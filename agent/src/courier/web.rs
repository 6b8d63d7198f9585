//! Notices and heartbeats over HTTP. The address may hold a token: it never appears in an error.

use reqwest::Method;

use super::{CourierError, PATIENCE, reveal};
use crate::config::WebhookConfig;
use crate::http::{builder, told};

/// Posts a JSON body.
pub(super) fn post(
    what: &'static str,
    config: &WebhookConfig,
    body: String,
) -> Result<(), CourierError> {
    send(what, config, Method::POST, Some(body))
}

/// Asks for an address.
pub(super) fn get(what: &'static str, config: &WebhookConfig) -> Result<(), CourierError> {
    send(what, config, Method::GET, None)
}

fn send(
    what: &'static str,
    config: &WebhookConfig,
    method: Method,
    body: Option<String>,
) -> Result<(), CourierError> {
    let failed = |detail: String| CourierError::Web { what, detail };
    let url = reveal(&config.url)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    runtime.block_on(async {
        let client = builder().timeout(PATIENCE).build().map_err(|error| failed(told(error)))?;
        let mut request = client.request(method, url.as_str());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| failed(told(error)))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(failed(format!("the server answered {}", status.as_u16()))),
        }
    })
}
