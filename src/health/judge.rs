//! Passive detection on the level of the pool: who may be ejected.

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{Settings, SuccessRate, Trouble};
use crate::{
    Cause,
    backend::{BackendState, Pool},
};

/// A request to this backend failed: it is counted, and the backend ejected if it has come to that.
#[cold]
pub(crate) fn blame<S>(
    pool: &Pool<S>,
    state: &BackendState,
    trouble: Trouble,
    on_trial: bool,
    settings: &Settings,
) {
    if settings.success_rate.is_some() {
        state.window.count(true);
    }
    let cause = match trouble {
        Trouble::Refused => Cause::ConnectFailed,
        // Nobody asked to judge answers.
        Trouble::Broken | Trouble::Answer if settings.consecutive_failures == 0 => return,
        Trouble::Broken | Trouble::Answer => Cause::Failures,
    };
    let mut eject = false;
    pool.update(state, cause, |sources| {
        eject = sources.passive.failed(trouble, on_trial, settings, Instant::now());
    });
    if eject {
        self::eject(pool, state, cause, settings);
    }
}

/// Takes a backend out, if that leaves enough of the others in.
pub(super) fn eject<S>(pool: &Pool<S>, state: &BackendState, cause: Cause, settings: &Settings) {
    // Two at a time could both find room for one.
    let _ejecting = pool.ejecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !state.is_ejected() && !has_room(pool, settings.max_ejected) {
        tracing::debug!(backend = %state.id, %cause, "not ejected: too many are");
        return;
    }
    let now = Instant::now();
    pool.update(state, cause, |sources| sources.passive.eject(settings.ejection, now));
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
    let counts: Vec<_> = states.iter().map(|state| state.window.take()).collect();
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
