//! `GET /events`: what happens to the backends, as server-sent events.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    backend_json::mode,
    json::Problem,
    state::{Admin, Stage},
};
use crate::{
    outcome::Reason,
    pool::{DrainReport, Event, Events},
};

/// Streams the events from now on, until the client disconnects or the application ends.
pub(super) async fn listen(State(admin): State<Admin>) -> Result<Response, Problem> {
    let Ok(place) = admin.listeners.try_acquire_owned() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients follow the events; disconnect one of them",
        ));
    };
    let stage = admin.stage;
    let over = Box::pin(async move {
        match stage {
            Some(mut stage) => drop(stage.wait_for(|stage| *stage == Stage::Over).await),
            None => std::future::pending().await,
        }
    });
    let told = Told { events: admin.pool.events(), over, _place: place };
    // Comments keep proxies from closing a connection that is silent for long.
    Ok(Sse::new(told).keep_alive(KeepAlive::default()).into_response())
}

/// The events as they are sent.
struct Told {
    events: Events,
    /// Resolves when there will be no more events.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

impl Stream for Told {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Pending events are sent before the end.
        if let Poll::Ready(event) = Pin::new(&mut self.events).poll_next(cx) {
            return Poll::Ready(event.map(|event| {
                let (name, data) = describe(&event);
                Ok(sse::Event::default().event(name).data(data.to_string()))
            }));
        }
        self.over.as_mut().poll(cx).map(|()| None)
    }
}

/// The name and the data of an event.
fn describe(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Joined { backend } => ("joined", json!({ "backend": backend.as_str() })),
        Event::Replaced { backend } => ("replaced", json!({ "backend": backend.as_str() })),
        Event::AddressChanged { backend, from, to } => (
            "address-changed",
            json!({
                "backend": backend.as_str(),
                "from": from.to_string(),
                "to": to.to_string(),
            }),
        ),
        Event::Left { backend } => ("left", json!({ "backend": backend.as_str() })),
        Event::State { backend, from, to, cause } => (
            "state",
            json!({
                "backend": backend.as_str(),
                "from": from.as_str(),
                "to": to.as_str(),
                "cause": cause.to_string(),
            }),
        ),
        Event::Mode { backend, from, to } => {
            ("mode", json!({ "backend": backend.as_str(), "from": mode(*from), "to": mode(*to) }))
        }
        Event::Weight { backend, from, to } => {
            ("weight", json!({ "backend": backend.as_str(), "from": from, "to": to }))
        }
        Event::Draining { backend, in_flight, streams, sessions } => (
            "draining",
            json!({
                "backend": backend.as_str(),
                "in_flight": in_flight,
                "streams": streams,
                "sessions": sessions,
            }),
        ),
        Event::Drained { report } => ("drained", drained(report)),
        Event::Moved { from, to, reason } => (
            "moved",
            json!({
                "from": from.as_ref().map(|from| from.as_str()),
                "to": to.as_str(),
                "reason": reason.as_ref().map(Reason::to_string),
            }),
        ),
        Event::Missed { count } => ("missed", json!({ "count": count })),
    }
}

/// The data of the end of a drain.
fn drained(report: &DrainReport) -> Value {
    json!({
        "backend": report.backend.as_str(),
        "end": report.end.to_string(),
        "elapsed_ms": u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
        "sessions_before": report.sessions_before,
        "sessions_left": report.sessions_left,
        "in_flight": report.in_flight,
        "streams_cut": report.streams_cut,
    })
}
