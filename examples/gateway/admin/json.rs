//! The JSON that the admin interface reads and writes.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tower_sticky::{BackendStatus, Failover, Mode, PoolError, Reason, State, Stats, Verdict};

use crate::{
    config::{OperatorMode, Otherwise, Time, file::Zone},
    fleet::Entry,
    state::{SavedMode, unix_millis},
};

/// Body of `PUT /backends/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBackend {
    pub(super) url: String,
    #[serde(default = "one")]
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) max_connections: usize,
    #[serde(default)]
    pub(super) backup: bool,
    pub(super) zone: Option<Zone>,
}

const fn one() -> u32 {
    1
}

/// Body of `PATCH /backends/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    mode: Option<OperatorMode>,
    pub(super) weight: Option<u32>,
    /// The time limit of a drain.
    deadline: Option<Time>,
    /// What happens to sessions after the deadline.
    then: Option<Otherwise>,
    /// How many sessions a second leave during a drain, each with its next request. Default: none.
    hand_over: Option<u32>,
}

/// The mode that a request sets.
#[derive(Debug, Clone, Copy)]
pub(super) enum NewMode {
    Plain(Mode),
    Drain(Drain),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub(super) deadline: Option<Duration>,
    pub(super) then: Failover,
    pub(super) hand_over: Option<u32>,
}

impl Drain {
    /// With its deadline as a time.
    pub(super) fn saved(self) -> SavedMode {
        let deadline = self.deadline.map(|deadline| {
            unix_millis().saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
        });
        SavedMode::Draining { deadline, then: self.then.into(), hand_over: self.hand_over }
    }
}

impl Patch {
    pub(super) fn mode(&self) -> Result<Option<NewMode>, Problem> {
        let wrong = |message| Err(Problem::new(StatusCode::BAD_REQUEST, message));
        let draining = matches!(self.mode, Some(OperatorMode::Draining));
        if self.deadline.is_some() && !draining {
            return wrong(
                "`deadline` is the end of a drain; add \"mode\":\"draining\", or leave it out",
            );
        }
        if self.then.is_some() && self.deadline.is_none() {
            return wrong(
                "`then` is about what comes after the deadline of a drain; add \"deadline\", such \
                 as \"30s\", or leave it out",
            );
        }
        match self.hand_over {
            Some(_) if !draining => {
                return wrong(
                    "`hand_over` is about a drain; add \"mode\":\"draining\", or leave it out",
                );
            }
            Some(0) => {
                return wrong(
                    "`hand_over` is how many sessions a second may leave; use at least 1, or leave it \
                     out",
                );
            }
            _ => {}
        }
        if self.deadline.is_none() && self.hand_over.is_none() {
            return Ok(self.mode.map(|mode| NewMode::Plain(mode.into())));
        }
        Ok(Some(NewMode::Drain(Drain {
            deadline: self.deadline.map(|Time(deadline)| deadline),
            then: self.then.unwrap_or(Otherwise::Repin).into(),
            hand_over: self.hand_over,
        })))
    }
}

/// A backend in a response.
#[derive(Debug, Serialize)]
pub(super) struct Backend<'a> {
    id: &'a str,
    url: &'a str,
    weight: u32,
    state: &'static str,
    /// The error of the last failed probe.
    probe_failure: Option<&'a str>,
    mode: &'static str,
    in_flight: usize,
    requests: u64,
    /// An estimate. `None` until an idle timeout has been observed, and where tokens do not identify
    /// sessions.
    sessions: Option<u64>,
    sessions_seen: u64,
    unconfirmed: u64,
    streams: usize,
    waiting: usize,
    limit: usize,
    backup: bool,
    zone: Option<&'a str>,
    /// Present when its certificate is not verified.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
}

impl<'a> Backend<'a> {
    pub(super) fn new(status: &'a BackendStatus, entry: &'a Entry) -> Self {
        Self {
            id: status.id.as_str(),
            url: &entry.url,
            insecure: entry.insecure,
            weight: status.weight,
            state: state(status.state),
            probe_failure: status.probe_failure.as_deref(),
            mode: mode(status.mode),
            in_flight: status.in_flight,
            requests: status.requests,
            sessions: status.sessions,
            sessions_seen: status.sessions_seen,
            unconfirmed: status.unconfirmed,
            streams: status.streams,
            waiting: status.waiting,
            limit: status.limit,
            backup: status.backup,
            zone: status.zone.as_deref(),
        }
    }
}

pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Busy => "busy",
        State::Suspect => "suspect",
        _ => "down",
    }
}

/// The mode set by the operator. A drain past its deadline is still a drain.
pub(super) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Active => "active",
        Mode::Draining | Mode::Drained => "draining",
        _ => "disabled",
    }
}

/// The totals, with every outcome and reason, zeros included.
pub(super) fn stats(stats: &Stats) -> Value {
    let reasons: Map<String, Value> = Reason::ALL
        .iter()
        .map(|reason| (reason.to_string(), stats.reason(*reason).into()))
        .collect();
    let token_errors: Map<String, Value> = Reason::ALL
        .iter()
        .filter(|reason| reason.is_token_error())
        .map(|reason| (reason.to_string(), stats.token_errors(*reason).into()))
        .collect();
    let outcomes: Map<String, Value> = Verdict::ALL
        .iter()
        .map(|verdict| (verdict.to_string(), stats.outcome(*verdict).into()))
        .collect();
    json!({
        "requests": stats.requests(),
        "outcomes": outcomes,
        "reasons": reasons,
        "moves": stats.moves(),
        "tokens_issued": stats.tokens_issued(),
        "token_errors": token_errors,
        "violations": stats.violations(),
    })
}

/// Parses a body and ignores its `Content-Type`, because `curl -d` labels everything a form.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not valid: {error}"))
    })
}

pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(mut text) => {
            text.push('\n');
            let json = HeaderValue::from_static("application/json");
            // The state changes at any time.
            let no_store = HeaderValue::from_static("no-store");
            let headers = [(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, no_store)];
            (status, headers, text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// An error response: `{"error": "…"}`.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &json!({ "error": self.message }));
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl From<PoolError> for Problem {
    fn from(error: PoolError) -> Self {
        let status = match &error {
            PoolError::Unknown(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}
