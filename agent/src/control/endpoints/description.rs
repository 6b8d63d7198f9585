//! The OpenAPI document, made from the table of endpoints.

use axum::extract::Json;
use serde_json::{Value, json};

use super::ENDPOINTS;

pub(super) async fn openapi() -> Json<Value> {
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
        drop(super::super::router());
    }
}
