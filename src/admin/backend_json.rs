//! Backends and totals, as JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::application::About;
use crate::{
    outcome::{Reason, Stats, Verdict},
    pool::{BackendStatus, Mode},
};

/// A backend in a response.
#[derive(Debug, Serialize)]
pub(super) struct BackendJson<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    weight: u32,
    state: &'static str,
    /// The error of the last failed probe.
    probe_failure: Option<&'a str>,
    mode: &'static str,
    /// Present when the drain has ended: by its deadline, or as no session is left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    drained: bool,
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

impl<'a> BackendJson<'a> {
    pub(super) fn new(status: &'a BackendStatus, about: &'a About) -> Self {
        Self {
            id: status.id.as_str(),
            url: about.url.as_deref(),
            insecure: about.insecure,
            weight: status.weight,
            state: status.state.as_str(),
            probe_failure: status.probe_failure.as_deref(),
            mode: mode(status.mode),
            drained: status.is_drained(),
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

/// The mode set by the operator. A drain past its deadline is still a drain.
pub(super) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Active => "active",
        Mode::Draining | Mode::Drained => "draining",
        Mode::Disabled => "disabled",
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
