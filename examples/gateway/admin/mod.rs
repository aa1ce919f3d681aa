//! The admin interface: see the backends and change them, in JSON.

mod guard;
mod json;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, put},
};
use tower_sticky::{Mode, PoolError};

pub(crate) use self::guard::Guard;
use self::json::{NewBackend, Patch, Problem};
use crate::{config::file, fleet::Fleet};

/// What the admin interface shows and changes.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) fleet: Arc<Fleet>,
    /// Set when the gateway has begun to stop.
    pub(crate) stopping: Arc<AtomicBool>,
}

pub(crate) fn router(admin: Admin, guard: Guard) -> Router {
    Router::new()
        .route("/backends", get(list))
        .route("/backends/{id}", put(replace).patch(change).delete(remove))
        .route("/stats", get(stats))
        .route("/healthz", get(healthz))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .with_state(admin)
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
}

async fn list(State(admin): State<Admin>) -> Response {
    let (backends, _) = admin.fleet.status();
    let backends: Vec<_> =
        backends.iter().map(|(status, url)| json::Backend::new(status, url)).collect();
    json::answer(StatusCode::OK, &backends)
}

async fn stats(State(admin): State<Admin>) -> Response {
    let (_, stats) = admin.fleet.status();
    json::answer(StatusCode::OK, &json::stats(&stats))
}

/// 200 while it serves. Whoever balances over several gateways must not choose one that stops.
async fn healthz(State(admin): State<Admin>) -> Response {
    if admin.stopping.load(Ordering::Relaxed) {
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
        id,
        url: new.url,
        weight: new.weight,
        max_connections: new.max_connections,
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
    if patch.deadline.is_some() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "`deadline` is not built yet; leave it out",
        ));
    }
    let backends = admin.fleet.backends();
    if backends.get(&id).is_none() {
        return Err(PoolError::Unknown(id).into());
    }
    if let Some(weight) = patch.weight {
        backends.set_weight(&id, weight)?;
    }
    if let Some(mode) = patch.mode {
        backends.set_mode(&id, Mode::from(mode))?;
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
        "nothing is here; see /backends, /backends/{id}, /stats and /healthz",
    )
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method")
}

/// The backend as it is now.
fn one(admin: &Admin, id: &str, status: StatusCode) -> Result<Response, Problem> {
    let (backends, _) = admin.fleet.status();
    let (backend, url) = backends
        .iter()
        .find(|(backend, _)| backend.id == *id)
        .ok_or_else(|| PoolError::Unknown(id.to_owned()))?;
    Ok(json::answer(status, &json::Backend::new(backend, url)))
}
