//! The admin interface: shows and changes the backends, in JSON.

mod events;
mod guard;
mod json;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use tokio::sync::{Semaphore, watch};
use tower_sticky::{
    PoolError,
    metrics::{OPEN_METRICS, PROMETHEUS, Report},
};

pub(crate) use self::guard::{Access, Guard};
use self::json::{NewBackend, NewMode, Patch, Problem};
use crate::{config::file, fleet::Fleet, reload::Reloader};

/// The maximum number of connections to the admin interface.
pub(crate) const CONNECTIONS: u32 = 100;
/// How many of them may listen to events. Listeners stay connected, and others must still get in.
const LISTENERS: usize = 64;

const EVENTS: &str = "/events";
const HEALTHZ: &str = "/healthz";
const METRICS: &str = "/metrics";
/// The media type of OpenMetrics, without its parameters.
const OPEN: &str = "application/openmetrics-text";

/// The stage of the gateway between start and exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    /// Requests in flight are being finished.
    Stopping,
    /// All requests have finished.
    Over,
}

/// What the admin interface shows and changes.
#[derive(Clone)]
pub(crate) struct Admin {
    fleet: Arc<Fleet>,
    stage: watch::Receiver<Stage>,
    listeners: Arc<Semaphore>,
    reloader: Arc<Reloader>,
}

impl Admin {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        stage: watch::Receiver<Stage>,
        reloader: Arc<Reloader>,
    ) -> Self {
        Self { fleet, stage, listeners: Arc::new(Semaphore::new(LISTENERS)), reloader }
    }
}

pub(crate) fn router(admin: Admin, guard: Guard) -> Router {
    Router::new()
        .route("/backends", get(list))
        .route("/backends/{id}", put(replace).patch(change).delete(remove))
        .route("/stats", get(stats))
        .route("/reload", post(reload))
        .route(EVENTS, get(events::listen))
        .route(HEALTHZ, get(healthz))
        .route(METRICS, get(show_metrics))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .with_state(admin)
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
}

async fn list(State(admin): State<Admin>) -> Response {
    let (backends, _) = admin.fleet.status();
    let backends: Vec<_> =
        backends.iter().map(|(status, entry)| json::Backend::new(status, entry)).collect();
    json::answer(StatusCode::OK, &backends)
}

async fn stats(State(admin): State<Admin>) -> Response {
    let stats = admin.fleet.backends().snapshot().stats;
    json::answer(StatusCode::OK, &json::stats(&stats))
}

/// The metrics, as Prometheus' text or, for a client that accepts it, as OpenMetrics.
async fn show_metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let wants_open_metrics =
        accepted.filter_map(|accept| accept.to_str().ok()).any(|accept| accept.contains(OPEN));
    let report = admin.reloader.report(Report::new().pool(admin.fleet.backends()));
    let (media_type, text) = match wants_open_metrics {
        true => (OPEN_METRICS, report.open_metrics()),
        false => (PROMETHEUS, report.prometheus()),
    };
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// Reads the file again.
async fn reload(State(admin): State<Admin>) -> Result<Response, Problem> {
    match admin.reloader.reload().await {
        Ok(reloaded) => Ok(json::answer(StatusCode::OK, &reloaded)),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, error.to_string())),
    }
}

/// 200 while the gateway serves, 503 once it stops, so that a load balancer in front of it stops sending.
async fn healthz(State(admin): State<Admin>) -> Response {
    if *admin.stage.borrow() != Stage::Serving {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping")
            .into_response();
    }
    json::answer(StatusCode::OK, &serde_json::json!({ "status": "ok" }))
}

async fn replace(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let new: NewBackend = json::parse(&body)?;
    let backend = file::Backend {
        weight: new.weight,
        max_connections: new.max_connections,
        backup: new.backup,
        zone: new.zone,
        ..file::Backend::new(id, new.url)
    };
    let status = match admin.fleet.put(&backend)? {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    tracing::info!(backend = backend.id, url = backend.url, "backend set by the operator");
    one(&admin, &backend.id, status)
}

async fn change(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let patch: Patch = json::parse(&body)?;
    let mode = patch.mode()?;
    let backends = admin.fleet.backends();
    if backends.get(&id).is_none() {
        return Err(PoolError::Unknown(id).into());
    }
    if let Some(weight) = patch.weight {
        backends.set_weight(&id, weight)?;
    }
    match mode {
        Some(NewMode::Plain(mode)) => {
            backends.set_mode(&id, mode)?;
            admin.fleet.drains().remove(&id);
        }
        // The drain continues in the background, and its end is an event.
        Some(NewMode::Drain(wanted)) => {
            let mut drain = backends.drain(&id).then(wanted.then);
            if let Some(deadline) = wanted.deadline {
                drain = drain.deadline(deadline);
            }
            if let Some(rate) = wanted.hand_over {
                drain = drain.hand_over(rate);
            }
            drop(drain.start()?);
            admin.fleet.drains().insert(id.clone(), wanted.saved());
        }
        None => {}
    }
    tracing::info!(backend = id, ?patch, "backend changed by the operator");
    one(&admin, &id, StatusCode::OK)
}

async fn remove(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Response, Problem> {
    admin.fleet.remove(&id)?;
    tracing::info!(backend = id, "backend removed by the operator");
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn nothing() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "there is no such path; see /backends, /backends/{id}, /stats, /metrics, /events, /reload \
         and /healthz",
    )
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not support this method")
}

/// A response with the current state of the backend.
fn one(admin: &Admin, id: &str, status: StatusCode) -> Result<Response, Problem> {
    let found = admin.fleet.status_of(id);
    let (backend, entry) = found.ok_or_else(|| PoolError::Unknown(id.to_owned()))?;
    Ok(json::answer(status, &json::Backend::new(&backend, &entry)))
}
