//! All metrics: names, types and descriptions.

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    /// The name of its samples, and of a histogram without the suffixes of its samples.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($(#[$attribute:meta])* $kind:ident $constant:ident = $name:literal, $help:literal;)+) => {
        $($(#[$attribute])* pub(super) const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, help: $help };)+
    };
}

metrics! {
    Counter REQUESTS = "sticky_requests_total",
        "Requests by the backend that answered, outcome, reason and class of the status.";
    Counter MOVES = "sticky_moves_total",
        "Sessions that were moved to another backend.";
    Counter VIOLATIONS = "sticky_violations_total",
        "Pinned requests that another backend answered without a policy for it: a bug.";
    Counter TOKENS_ISSUED = "sticky_tokens_issued_total",
        "Tokens that were written to responses.";
    Counter TOKENS_REFUSED = "sticky_tokens_refused_total",
        "Tokens of requests that could not be used.";
    Counter CLIENT_ERRORS = "sticky_client_errors_total",
        "Requests whose own body failed.";
    Counter SHORTAGES = "sticky_shortages_total",
        "Requests that failed because this machine had no descriptor, port or memory left.";
    Counter DRAINS = "sticky_drains_total",
        "Drains that have ended.";
    Counter CONNECTIONS_FAILED = "sticky_backend_connections_failed_total",
        "Connections that failed under a request.";
    #[cfg(feature = "proxy")]
    Counter CONNECTIONS_OPENED = "sticky_backend_connections_opened_total",
        "Connections that were opened to the backend, and have passed their handshake.";
    #[cfg(feature = "proxy")]
    Counter CONNECTIONS_REUSED = "sticky_backend_connections_reused_total",
        "Requests that were sent on a connection that was open already.";
    Counter REDIALS = "sticky_backend_redials_total",
        "Connections that were tried in the background to a backend that had failed.";
    Counter PROBES = "sticky_backend_probes_total",
        "Active probes that were answered, and those that failed.";
    Counter EJECTIONS = "sticky_backend_ejections_total",
        "Ejections of a backend whose answers failed.";
    Histogram WAIT = "sticky_wait_seconds",
        "How long requests that had to wait have waited for a backend to become ready.";
    Histogram FIRST_BYTE = "sticky_time_to_first_byte_seconds",
        "From the arrival of a request to the head of its backend's response.";
    Histogram DURATION = "sticky_request_duration_seconds",
        "From the arrival of a request to the end of its response's body.";
    Histogram BACKEND_FIRST_BYTE = "sticky_backend_time_to_first_byte_seconds",
        "The time to the first byte, for each backend.";
    Histogram BACKEND_DURATION = "sticky_backend_request_duration_seconds",
        "The duration of requests, for each backend.";
    Histogram HTTP_SERVER = "http_server_request_duration_seconds",
        "Requests from their arrival to the end of their response, as OpenTelemetry names them.";
    Gauge HTTP_ACTIVE = "http_server_active_requests",
        "Requests that have arrived and not ended.";
    Histogram HTTP_CLIENT = "http_client_request_duration_seconds",
        "Attempts from the sending of a request to the head of the response, or to the failure.";
    Gauge BACKENDS = "sticky_backends",
        "Backends in the pool.";
    Gauge SESSIONS = "sticky_backend_sessions",
        "Sessions that were seen within the idle timeout, an estimate; absent until that is known.";
    Gauge SESSIONS_SEEN = "sticky_backend_sessions_seen",
        "Sessions that were seen so far, at least.";
    Gauge UNCONFIRMED = "sticky_backend_unconfirmed_tokens",
        "Tokens of the last minute that no client has sent back.";
    Gauge IN_FLIGHT = "sticky_backend_in_flight",
        "Requests until the end of their response's body.";
    Gauge STREAMS = "sticky_backend_streams",
        "Open streams and upgraded connections among the requests in flight.";
    Gauge WAITING = "sticky_backend_waiting",
        "Requests that wait for the backend.";
    Gauge WEIGHT = "sticky_backend_weight",
        "The share of new sessions, relative to the other backends.";
    Gauge LIMIT = "sticky_backend_limit",
        "The most requests in flight; 0 for no limit.";
    Gauge STORE_SESSIONS = "sticky_store_sessions",
        "Learned sessions in the table, expired ones included; of a store on Redis the local copies.";
    Counter STORE_EVICTIONS = "sticky_store_evictions_total",
        "Learned sessions, or local copies, that were evicted to make room for others.";
    Histogram STORE_CALL = "sticky_store_call_seconds",
        "Calls to Redis, those that failed included.";
    Counter STORE_CALLS_FAILED = "sticky_store_calls_failed_total",
        "Calls to Redis that were not answered in time, failed, or were refused.";
    Gauge STATE = "sticky_backend_state",
        "1 for the present health of the backend, else 0.";
    Gauge MODE = "sticky_backend_mode",
        "1 for what the operator has set the backend to do, else 0.";
}
