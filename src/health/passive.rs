//! What failures and answers mean for a backend, and who of a pool may be ejected.

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{Settings, SuccessRate};
use crate::{
    error::{Redialer, Refusal},
    pool::{BackendState, Cause, Pool, RecheckId},
    util::lock,
};

/// How a request, a probe or a redial failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection came about.
    Refused(Refusal),
    /// The connection ended before any byte of an answer. `surely`: a fresh one did so, too.
    Broken { is_conclusive: bool, redialer: Option<Redialer> },
    /// No proper answer came on a connection that was not at fault.
    NoAnswer,
    /// An answer that says so.
    FailedAnswer,
}

/// Holds a failure against a backend. `look`: the request was the look at a suspect.
#[cold]
pub(crate) fn record_failure<S>(
    pool: &Pool<S>,
    state: &BackendState,
    failure: Failure,
    recheck: Option<RecheckId>,
    settings: &Settings,
) {
    if settings.success_rate.is_some() {
        state.answer_counts.count(true);
    }
    let (now, backoff) = (Instant::now(), settings.backoff(state.tag));
    let threshold = settings.connect_failures;
    let cause = match failure {
        Failure::Refused(_) => Cause::ConnectFailed,
        Failure::Broken { .. } => Cause::Broken,
        Failure::NoAnswer | Failure::FailedAnswer => Cause::Failures,
    };
    let is_refusal = matches!(failure, Failure::Refused(_));
    let is_answer = matches!(failure, Failure::FailedAnswer);
    let mut eject = false;
    pool.update(state, cause, |sources| {
        let evidence = &mut sources.evidence;
        match failure {
            Failure::Refused(refusal) => {
                evidence.record_refusal(refusal, recheck, threshold, &backoff, now);
            }
            Failure::Broken { is_conclusive, redialer } => {
                evidence.record_broken_connection(
                    is_conclusive,
                    redialer,
                    recheck,
                    threshold,
                    &backoff,
                    now,
                );
            }
            Failure::NoAnswer => evidence.record_failed_recheck(recheck, &backoff, now),
            Failure::FailedAnswer => evidence.record_answer(recheck.is_some(), now),
        }
        if !is_refusal {
            let (threshold, longest) = (settings.consecutive_failures, settings.ejection);
            eject = evidence.ejection.record_failure(threshold, recheck.is_some(), longest, now);
        }
    });
    if eject {
        self::eject(pool, state, Cause::Failures, settings);
    }
    if !is_answer {
        // The next look has a time that the driver has to know.
        pool.wake.notify_one();
    }
}

/// Takes a backend out, if that leaves enough of the others in.
pub(super) fn eject<S>(pool: &Pool<S>, state: &BackendState, cause: Cause, settings: &Settings) {
    // Two at a time could both find room for one.
    let _ejecting = lock(&pool.ejecting);
    if !state.is_ejected() && !has_room(pool, settings.max_ejected) {
        tracing::debug!(backend = %state.id, %cause, "not ejected: too many are");
        return;
    }
    let now = Instant::now();
    pool.update(state, cause, |sources| sources.evidence.ejection.eject(settings.ejection, now));
    pool.wake.notify_one();
}

/// Whether one more backend may be ejected.
fn has_room<S>(pool: &Pool<S>, share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    let snapshot = pool.load();
    let states = snapshot.index().states();
    let ejected = states.iter().filter(|state| state.is_ejected()).count();
    let most = (states.len() as f64 * share).floor() as usize;
    share > 0.0 && ejected < most.max(1)
}

/// Ejects those that failed more often than the others since the last time.
pub(super) fn compare<S>(pool: &Pool<S>, rate: &SuccessRate, settings: &Settings) {
    let snapshot = pool.load();
    let states = snapshot.index().states();
    let counts: Vec<_> = states.iter().map(|state| state.answer_counts.take()).collect();
    for position in rate.outliers(&counts) {
        eject(pool, &states[position], Cause::SuccessRate, settings);
    }
}

/// Whether the head of an answer to a gRPC request says `UNAVAILABLE`: then there are no messages.
fn is_unavailable(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status == "14")
}

/// Whether an answer counts as a failure of the backend.
#[inline]
pub(crate) fn is_failure(status: StatusCode, headers: &HeaderMap, grpc: bool) -> bool {
    status.is_server_error() || (grpc && is_unavailable(headers))
}
