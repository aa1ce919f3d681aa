//! The calls of the admin interface in JSON.

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    application::NewBackend,
    backend_json::{BackendJson, stats},
    json::{self, Problem},
    patch::Patch,
    state::{Admin, Stage},
};
use crate::{
    metrics::{OPEN_METRICS, PROMETHEUS},
    pool::PoolError,
};

pub(super) const EVENTS: &str = "/events";
pub(super) const HEALTHZ: &str = "/healthz";
pub(super) const METRICS: &str = "/metrics";
/// The media type of OpenMetrics, without its parameters.
const OPEN: &str = "application/openmetrics-text";

pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let backends = admin.pool.status().backends;
    let abouts: Vec<_> =
        backends.iter().map(|status| admin.application.about(status.id.as_str())).collect();
    let backends: Vec<_> = backends
        .iter()
        .zip(&abouts)
        .map(|(status, about)| BackendJson::new(status, about))
        .collect();
    json::answer(StatusCode::OK, &backends)
}

pub(super) async fn totals(State(admin): State<Admin>) -> Response {
    json::answer(StatusCode::OK, &stats(&admin.pool.status().stats))
}

/// The metrics, as Prometheus' text or, for a client that accepts it, as OpenMetrics.
pub(super) async fn show_metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let wants_open_metrics =
        accepted.filter_map(|accept| accept.to_str().ok()).any(|accept| accept.contains(OPEN));
    let report = admin.application.report(admin.pool.report());
    let (media_type, text) = match wants_open_metrics {
        true => (OPEN_METRICS, report.open_metrics()),
        false => (PROMETHEUS, report.prometheus()),
    };
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// 200 while the application serves, 503 once it stops, so that a load balancer in front of it stops
/// sending.
pub(super) async fn healthz(State(admin): State<Admin>) -> Response {
    if admin.stage.is_some_and(|stage| *stage.borrow() != Stage::Serving) {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping")
            .into_response();
    }
    json::answer(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
}

pub(super) async fn replace(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let new: NewBackend = json::parse(&body)?;
    let status = match admin.application.put(&id, &new)? {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    tracing::info!(backend = id, url = new.url, "backend set by the operator");
    one(&admin, &id, status)
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let patch: Patch = json::parse(&body)?;
    let changes = patch.changes()?;
    if admin.pool.get(&id).is_none() {
        return Err(PoolError::Unknown(id).into());
    }
    for change in &changes {
        admin.change(&id, change)?;
    }
    one(&admin, &id, StatusCode::OK)
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    admin.remove(&id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn nothing(State(admin): State<Admin>) -> Problem {
    let message = format!("there is no such path; see {}", admin.paths);
    Problem::new(StatusCode::NOT_FOUND, message)
}

pub(super) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not support this method")
}

/// A response with the current state of the backend.
fn one(admin: &Admin, id: &str, status: StatusCode) -> Result<Response, Problem> {
    let backend = admin.pool.get(id).ok_or_else(|| PoolError::Unknown(id.to_owned()))?;
    Ok(json::answer(status, &BackendJson::new(&backend, &admin.application.about(id))))
}
