//! What the admin interface reads and writes.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tower_sticky::{BackendStatus, Mode, PoolError, Reason, State, Stats, Verdict};

/// Body of `PUT /backends/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBackend {
    pub(super) url: String,
    #[serde(default = "one")]
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) max_connections: usize,
}

const fn one() -> u32 {
    1
}

/// Body of `PATCH /backends/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    pub(super) mode: Option<ModeWord>,
    pub(super) weight: Option<u32>,
    pub(super) deadline: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ModeWord {
    Active,
    Draining,
    Disabled,
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Active => Self::Active,
            ModeWord::Draining => Self::Draining,
            ModeWord::Disabled => Self::Disabled,
        }
    }
}

/// A backend in an answer.
#[derive(Debug, Serialize)]
pub(super) struct Backend<'a> {
    id: &'a str,
    url: &'a str,
    weight: u32,
    state: &'static str,
    mode: &'static str,
    in_flight: usize,
    requests: u64,
    /// Nobody counts sessions yet.
    sessions: Option<u64>,
}

impl<'a> Backend<'a> {
    pub(super) fn new(status: &'a BackendStatus, url: &'a str) -> Self {
        Self {
            id: status.id.as_str(),
            url,
            weight: status.weight,
            state: match status.state {
                State::Ready => "ready",
                State::Busy => "busy",
                _ => "down",
            },
            mode: match status.mode {
                Mode::Active => "active",
                Mode::Draining => "draining",
                _ => "disabled",
            },
            in_flight: status.in_flight,
            requests: status.requests,
            sessions: None,
        }
    }
}

/// Totals, with every word there is, so that a reader need not guess what is missing.
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

/// Reads a body whatever its `Content-Type` says: `curl -d` calls everything a form.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not what was expected: {error}"))
    })
}

pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(mut text) => {
            text.push('\n');
            let json = HeaderValue::from_static("application/json");
            // What was true a moment ago is of no use.
            let no_store = HeaderValue::from_static("no-store");
            let headers = [(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, no_store)];
            (status, headers, text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// An error as an answer: `{"error": "…"}`.
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
