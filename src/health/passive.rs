//! Passive detection: records failures against backends, and ejects backends whose answers fail.

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
    /// The connection was refused or timed out.
    Refused(Refusal),
    /// The connection ended before any byte of an answer. `is_conclusive`: it was a fresh one.
    Broken { is_conclusive: bool, redialer: Option<Redialer> },
    /// No valid answer came, though the connection was not at fault.
    NoAnswer,
    /// A failing answer.
    FailedAnswer,
}

/// Records a failure of a backend. `recheck`: the recheck of a suspect that has failed, if it was one.
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
        // The driver has to know when the next recheck is due.
        pool.wake.notify_one();
    }
}

/// Ejects a backend, unless too many are ejected.
pub(super) fn eject<S>(pool: &Pool<S>, state: &BackendState, cause: Cause, settings: &Settings) {
    // Without the lock two threads could both eject the last backend that may be.
    let _ejecting = lock(&pool.ejecting);
    if !state.is_ejected() && !may_eject_one_more(pool, settings.max_ejected) {
        tracing::debug!(backend = %state.id, %cause, "not ejected: too many are");
        return;
    }
    let now = Instant::now();
    pool.update(state, cause, |sources| sources.evidence.ejection.eject(settings.ejection, now));
    state.recorder.ejected();
    pool.wake.notify_one();
}

/// Whether one more backend may be ejected.
fn may_eject_one_more<S>(pool: &Pool<S>, share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    let snapshot = pool.load();
    let states = snapshot.index().states();
    let ejected = states.iter().filter(|state| state.is_ejected()).count();
    let most = (states.len() as f64 * share).floor() as usize;
    share > 0.0 && ejected < most.max(1)
}

/// Ejects the backends that have failed more often than the others since the last comparison.
pub(super) fn compare<S>(pool: &Pool<S>, rate: &SuccessRate, settings: &Settings) {
    let snapshot = pool.load();
    let states = snapshot.index().states();
    let counts: Vec<_> = states.iter().map(|state| state.answer_counts.take()).collect();
    for position in rate.outliers(&counts) {
        eject(pool, &states[position], Cause::SuccessRate, settings);
    }
}

/// Whether the headers of a gRPC answer have the status `UNAVAILABLE`, which means that it has no messages.
fn is_unavailable(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status == "14")
}

/// Whether an answer counts as a failure of the backend.
#[inline]
pub(crate) fn is_failure(status: StatusCode, headers: &HeaderMap, grpc: bool) -> bool {
    status.is_server_error() || (grpc && is_unavailable(headers))
}
