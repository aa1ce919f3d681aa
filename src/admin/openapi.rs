//! `GET /openapi.json`: a description of the calls in JSON, by OpenAPI 3.1.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// The description. `tests/heavy/peers/openapi.rs` checks it with a validator.
const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) async fn describe() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}
