//! Redials suspect backends in the background until a connection succeeds.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Failure, Settings, record_failure};
use crate::{
    error::{BoxError, Redialer, Refusal, Shortage, TimedOut},
    pool::{BackendState, Cause, Pool, RecheckId},
};

/// The timeout of a redial.
const REDIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The delay of redials that exceed the rate limit.
const RATE_LIMIT_DELAY: Duration = Duration::from_millis(10);

/// A suspect, and when its redial is due.
struct DueRedial {
    state: Arc<BackendState>,
    redialer: Redialer,
    at: Instant,
}

/// Redials the suspects that are due, first those with sessions. Those that requests wait for have a rate limit of
/// their own. Returns when the next redial is due.
pub(super) fn redial_suspects<S>(
    pool: &Arc<Pool<S>>,
    settings: &Settings,
    now: Instant,
) -> Option<Instant>
where
    S: Send + Sync + 'static,
{
    let snapshot = pool.load();
    let suspects = snapshot.index().states().iter().filter(|state| state.has_evidence());
    let redials = suspects.filter(|state| !state.is_out_of_service()).filter_map(due_redial);
    let (mut due, later): (Vec<_>, Vec<_>) = redials.partition(|suspect| suspect.at <= now);
    let mut next = later.iter().map(|suspect| suspect.at).min();
    let window = pool.window(None);
    due.sort_by_cached_key(|DueRedial { state, at, .. }| {
        (state.session_counter.is_empty(window), *at)
    });
    for suspect in due {
        let awaited = suspect.state.has_recovery_waiters();
        let limiter = if awaited { &pool.urgent_redials } else { &pool.redials };
        if limiter.admits() {
            spawn_redial(pool, suspect, settings);
        } else {
            let again = now + RATE_LIMIT_DELAY;
            next = Some(next.map_or(again, |next| next.min(again)));
        }
    }
    next
}

/// The next redial of a backend, if a connection can end its evidence and no recheck is running.
fn due_redial(state: &Arc<BackendState>) -> Option<DueRedial> {
    let sources = state.sources();
    let rechecks = &sources.evidence.rechecks;
    let redialer = sources.evidence.redialer().filter(|_| !rechecks.is_running())?.clone();
    Some(DueRedial { at: rechecks.due()?, state: state.clone(), redialer })
}

fn spawn_redial<S>(pool: &Arc<Pool<S>>, suspect: DueRedial, settings: &Settings)
where
    S: Send + Sync + 'static,
{
    let DueRedial { state, redialer, .. } = suspect;
    let (recheck, generation) = {
        let mut sources = state.sources();
        let Some(recheck) = sources.evidence.rechecks.begin(false) else { return };
        (recheck, sources.generation)
    };
    // Ends the recheck in any case, as requests may wait for it.
    let guard = RecheckGuard { state, recheck };
    let (pool, settings) = (Arc::downgrade(pool), *settings);
    drop(tokio::spawn(async move {
        let began = Instant::now();
        let result = match timeout(REDIAL_TIMEOUT, redialer.redial()).await {
            Ok(result) => result,
            Err(_) => Err(TimedOut::CONNECT.into()),
        };
        let Some(pool) = pool.upgrade() else { return };
        guard.state.recorder.redialed(result.is_ok());
        match result {
            Ok(()) => record_connection(&pool, &guard.state, generation, &settings),
            // A local shortage says nothing about the backend, so it is redialed later.
            Err(error) if Shortage::in_chain(error.as_ref()).is_some() => {
                let backoff = settings.backoff(guard.state.tag);
                guard.state.sources().evidence.rechecks.fail(
                    guard.recheck,
                    &backoff,
                    Instant::now(),
                );
            }
            Err(error) => record_refusal(&pool, &guard, generation, &error, began, &settings),
        }
        drop(guard);
        // The driver has to know when the next redial is due.
        pool.wake.notify_one();
    }));
}

/// A running recheck, which ends when this is dropped.
struct RecheckGuard {
    state: Arc<BackendState>,
    recheck: RecheckId,
}

impl Drop for RecheckGuard {
    fn drop(&mut self) {
        self.state.end_recheck(self.recheck);
    }
}

fn record_connection<S>(
    pool: &Pool<S>,
    state: &BackendState,
    generation: u64,
    settings: &Settings,
) {
    pool.update(state, Cause::Connected, |sources| {
        if sources.generation == generation {
            sources.evidence.record_connection(&settings.backoff(state.tag), Instant::now());
        }
    });
}

fn record_refusal<S>(
    pool: &Pool<S>,
    guard: &RecheckGuard,
    generation: u64,
    error: &BoxError,
    began: Instant,
    settings: &Settings,
) {
    let state = &guard.state;
    tracing::debug!(backend = %state.id, %error, "a redial failed");
    // The service may have been replaced since.
    if state.sources().generation != generation {
        return;
    }
    let refusal = Refusal { began, ..Refusal::of(error) };
    record_failure(pool, state, Failure::Refused(refusal), Some(guard.recheck), settings);
    if state.has_recovery_waiters() {
        state
            .sources()
            .evidence
            .rechecks
            .make_due_soon(settings.backoff(state.tag).seed, Instant::now());
    }
}
