//! Visits every sample of some pools, metric by metric, as the text formats want them.

use super::{
    catalog::{self, Metric},
    pool_view::PoolView,
};
use crate::{
    outcome::{
        Reason, TokenCause,
        recording::{ByReason, ByRequestTotals, Connection, HistogramTotals, Requests},
    },
    pool::{BackendState, BackendStatus, DrainEnd, Mode, State},
};

/// Names and values of the labels of one sample.
pub(super) type Labels<'a> = [(&'static str, &'a str)];

/// Takes the samples.
pub(super) trait Sink {
    /// The samples that follow belong to this metric.
    fn begin(&mut self, metric: Metric);

    /// A counter or a gauge.
    fn value(&mut self, labels: &Labels<'_>, value: u64);

    fn histogram(&mut self, labels: &Labels<'_>, totals: &HistogramTotals);
}

/// Visits all metrics of the pools.
pub(super) fn visit(pools: &[PoolView], sink: &mut impl Sink) {
    visit_requests(pools, sink);
    visit_sessions(pools, sink);
    visit_durations(pools, sink);
    visit_http(pools, sink);
    visit_events(pools, sink);
    visit_gauges(pools, sink);
    visit_states(pools, sink);
}

fn visit_requests(pools: &[PoolView], sink: &mut impl Sink) {
    sink.begin(catalog::REQUESTS);
    for pool in pools {
        let mut tell = |backend: &str, requests: &Requests| {
            requests.each(|verdict, reason, class, count| {
                let labels = [
                    ("pool", &*pool.name),
                    ("backend", backend),
                    ("outcome", verdict.as_str()),
                    ("reason", reason.map_or("", Reason::as_str)),
                    ("class", class.as_str()),
                ];
                sink.value(&labels, count);
            });
        };
        tell("", pool.recorder.unanswered_requests());
        for (_, state) in &pool.backends {
            tell(state.id.as_str(), state.recorder.requests());
        }
    }
    of_pools(pools, sink, catalog::CLIENT_ERRORS, |pool| pool.stats.reason(Reason::ClientError));
    of_pools(pools, sink, catalog::SHORTAGES, |pool| pool.stats.reason(Reason::Shortage));
}

fn visit_sessions(pools: &[PoolView], sink: &mut impl Sink) {
    sink.begin(catalog::MOVES);
    for pool in pools {
        visit_moves(pool, sink);
    }
    of_pools(pools, sink, catalog::VIOLATIONS, |pool| pool.stats.violations());
    sink.begin(catalog::TOKENS_ISSUED);
    for pool in pools {
        for cause in TokenCause::ALL {
            let labels = [("pool", &*pool.name), ("cause", cause.as_str())];
            sink.value(&labels, pool.recorder.tokens_written(*cause));
        }
    }
    sink.begin(catalog::TOKENS_REFUSED);
    for pool in pools {
        for reason in Reason::ALL.iter().filter(|reason| reason.is_token_error()) {
            let labels = [("pool", &*pool.name), ("reason", reason.as_str())];
            sink.value(&labels, pool.stats.token_errors(*reason));
        }
    }
}

fn visit_moves(pool: &PoolView, sink: &mut impl Sink) {
    let moves = pool.recorder.moves();
    let mut tell = |from: &str, to: &str, counts: &ByReason| {
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str()).chain([""]);
        for (reason, count) in reasons.zip(counts).filter(|(_, count)| **count > 0) {
            let labels = [("pool", &*pool.name), ("from", from), ("to", to), ("reason", reason)];
            sink.value(&labels, *count);
        }
    };
    for ((from, to), counts) in &moves.pairs {
        if let (Some(from), Some(to)) = (pool.id(*from), pool.id(*to)) {
            tell(from, to, counts);
        }
    }
    tell("other", "other", &moves.other);
}

fn visit_durations(pools: &[PoolView], sink: &mut impl Sink) {
    let mut tell = |metric, totals: fn(&PoolView) -> HistogramTotals| {
        sink.begin(metric);
        for pool in pools {
            sink.histogram(&[("pool", &*pool.name)], &totals(pool));
        }
    };
    tell(catalog::WAIT, |pool| pool.recorder.waits());
    tell(catalog::FIRST_BYTE, |pool| pool.recorder.first_bytes());
    tell(catalog::DURATION, |pool| pool.recorder.wholes());
    let mut tell = |metric, totals: fn(&BackendState) -> Option<HistogramTotals>| {
        sink.begin(metric);
        for (pool, _, state) in each(pools) {
            if let Some(totals) = totals(state) {
                sink.histogram(&backend_labels(pool, state), &totals);
            }
        }
    };
    tell(catalog::BACKEND_FIRST_BYTE, |state| state.recorder.histograms().map(|(first, _)| first));
    tell(catalog::BACKEND_DURATION, |state| state.recorder.histograms().map(|(_, whole)| whole));
}

/// What OpenTelemetry's conventions for HTTP ask for.
fn visit_http(pools: &[PoolView], sink: &mut impl Sink) {
    let totals: Vec<_> = pools.iter().map(|pool| (pool, pool.recorder.requests())).collect();
    sink.begin(catalog::HTTP_SERVER);
    for (pool, totals) in &totals {
        visit_by_request(pool, totals, sink);
    }
    sink.begin(catalog::HTTP_ACTIVE);
    for (pool, totals) in &totals {
        for (kind, active) in &totals.active {
            let method = ("http_request_method", kind.method());
            let labels = [("pool", &*pool.name), method, ("url_scheme", kind.scheme())];
            sink.value(&labels, *active);
        }
    }
    sink.begin(catalog::HTTP_CLIENT);
    for pool in pools {
        visit_by_request(pool, &pool.recorder.attempts(), sink);
    }
}

fn visit_by_request(pool: &PoolView, totals: &ByRequestTotals, sink: &mut impl Sink) {
    for ((kind, ending), durations) in &totals.durations {
        let (status, error) = ending.labels();
        let labels = [
            ("pool", &*pool.name),
            ("http_request_method", kind.method()),
            ("url_scheme", kind.scheme()),
            ("http_response_status_code", &*status),
            ("error_type", &*error),
        ];
        sink.histogram(&labels, durations);
    }
}

fn visit_events(pools: &[PoolView], sink: &mut impl Sink) {
    sink.begin(catalog::CONNECTIONS_FAILED);
    for (pool, _, state) in each(pools) {
        for connection in Connection::ALL {
            let count = state.recorder.connections(connection);
            sink.value(&with(pool, state, ("cause", connection.as_str())), count);
        }
    }
    let mut tell = |metric, count: fn(&BackendState, bool) -> u64| {
        sink.begin(metric);
        for (pool, _, state) in each(pools) {
            for (result, succeeded) in [("success", true), ("failure", false)] {
                let labels = with(pool, state, ("result", result));
                sink.value(&labels, count(state, succeeded));
            }
        }
    };
    tell(catalog::REDIALS, |state, succeeded| state.recorder.redials(succeeded));
    tell(catalog::PROBES, |state, succeeded| state.recorder.probes(succeeded));
    sink.begin(catalog::EJECTIONS);
    for (pool, _, state) in each(pools) {
        sink.value(&backend_labels(pool, state), state.recorder.ejections());
    }
    sink.begin(catalog::DRAINS);
    for pool in pools {
        for end in DrainEnd::ALL {
            let labels = [("pool", &*pool.name), ("end", end.as_str())];
            sink.value(&labels, pool.recorder.drains(*end as usize));
        }
    }
}

fn visit_gauges(pools: &[PoolView], sink: &mut impl Sink) {
    of_pools(pools, sink, catalog::BACKENDS, |pool| pool.backends.len() as u64);
    let mut tell = |metric, value: fn(&BackendStatus) -> Option<u64>| {
        sink.begin(metric);
        for (pool, status, state) in each(pools) {
            if let Some(value) = value(status) {
                sink.value(&backend_labels(pool, state), value);
            }
        }
    };
    tell(catalog::SESSIONS, |status| status.sessions);
    tell(catalog::SESSIONS_SEEN, |status| Some(status.sessions_seen));
    tell(catalog::UNCONFIRMED, |status| Some(status.unconfirmed));
    tell(catalog::IN_FLIGHT, |status| Some(status.in_flight as u64));
    tell(catalog::STREAMS, |status| Some(status.streams as u64));
    tell(catalog::WAITING, |status| Some(status.waiting as u64));
    tell(catalog::WEIGHT, |status| Some(status.weight.into()));
    tell(catalog::LIMIT, |status| Some(status.limit as u64));
}

fn visit_states(pools: &[PoolView], sink: &mut impl Sink) {
    sink.begin(catalog::STATE);
    for (pool, status, state) in each(pools) {
        for value in [State::Ready, State::Busy, State::Suspect, State::Down] {
            let is_present = u64::from(status.state == value);
            sink.value(&with(pool, state, ("state", value.as_str())), is_present);
        }
    }
    sink.begin(catalog::MODE);
    for (pool, status, state) in each(pools) {
        for value in [Mode::Active, Mode::Draining, Mode::Disabled, Mode::Drained] {
            let is_present = u64::from(status.mode == value);
            sink.value(&with(pool, state, ("mode", value.as_str())), is_present);
        }
    }
}

/// A metric with one sample for each pool.
fn of_pools(
    pools: &[PoolView],
    sink: &mut impl Sink,
    metric: Metric,
    value: impl Fn(&PoolView) -> u64,
) {
    sink.begin(metric);
    for pool in pools {
        sink.value(&[("pool", &*pool.name)], value(pool));
    }
}

/// All backends with their pools.
fn each(pools: &[PoolView]) -> impl Iterator<Item = (&PoolView, &BackendStatus, &BackendState)> {
    pools
        .iter()
        .flat_map(|pool| pool.backends.iter().map(move |(status, state)| (pool, status, &**state)))
}

fn backend_labels<'a>(pool: &'a PoolView, state: &'a BackendState) -> [(&'static str, &'a str); 2] {
    [("pool", &pool.name), ("backend", state.id.as_str())]
}

fn with<'a>(
    pool: &'a PoolView,
    state: &'a BackendState,
    label: (&'static str, &'static str),
) -> [(&'static str, &'a str); 3] {
    [("pool", &pool.name), ("backend", state.id.as_str()), label]
}
