//! Looking at suspects in the background: connections are opened until one succeeds.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{Failure, Settings, record_failure};
use crate::{
    error::{BoxError, Redialer, Refusal, Shortage, TimedOut},
    pool::{BackendState, Cause, LookId, Pool},
};

/// No connection takes longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when there have been too many redials.
const LATER: Duration = Duration::from_millis(10);

/// A suspect whose look is due.
struct Due {
    state: Arc<BackendState>,
    redialer: Redialer,
    at: Instant,
}

/// Redials every suspect whose time has come, those first whose sessions wait and then those that have
/// any. Tells when the next one will be due.
pub(super) fn redial_suspects<S>(
    pool: &Arc<Pool<S>>,
    settings: &Settings,
    now: Instant,
) -> Option<Instant>
where
    S: Send + Sync + 'static,
{
    let snapshot = pool.load();
    let noted = snapshot.index().states().iter().filter(|state| state.is_noted());
    let all = noted.filter(|state| !state.is_taken_out()).filter_map(due);
    let (mut due, later): (Vec<_>, Vec<_>) = all.partition(|suspect| suspect.at <= now);
    let mut next = later.iter().map(|suspect| suspect.at).min();
    due.sort_by_key(|Due { state, at, .. }| {
        (!state.is_awaited(), state.sessions.load(Relaxed) == 0, *at)
    });
    for suspect in due {
        let awaited = suspect.state.is_awaited();
        let limiter = if awaited { &pool.awaited_redials } else { &pool.redials };
        if limiter.admits() {
            begin(pool, suspect, settings);
        } else {
            next = Some(next.map_or(now + LATER, |next| next.min(now + LATER)));
        }
    }
    next
}

/// When a suspect is to be redialed, if that can end the evidence and is not under way.
fn due(state: &Arc<BackendState>) -> Option<Due> {
    let sources = state.sources();
    let looks = &sources.evidence.looks;
    let redialer = sources.evidence.redialer().filter(|_| !looks.is_under_way())?.clone();
    Some(Due { at: looks.due()?, state: state.clone(), redialer })
}

fn begin<S>(pool: &Arc<Pool<S>>, suspect: Due, settings: &Settings)
where
    S: Send + Sync + 'static,
{
    let Due { state, redialer, .. } = suspect;
    let (look, generation) = {
        let mut sources = state.sources();
        let Some(look) = sources.evidence.looks.begin(false) else { return };
        (look, sources.generation)
    };
    // Ends the look however this ends, so that nobody waits for it for ever.
    let open = OpenLook { state, look };
    let (pool, settings) = (Arc::downgrade(pool), *settings);
    drop(tokio::spawn(async move {
        let began = Instant::now();
        let result = match timeout(PATIENCE, redialer.redial()).await {
            Ok(result) => result,
            Err(_) => Err(TimedOut::CONNECT.into()),
        };
        let Some(pool) = pool.upgrade() else { return };
        match result {
            Ok(()) => note_connection(&pool, &open.state, generation, &settings),
            // The redial says nothing about the backend; the next one may.
            Err(error) if Shortage::in_chain(error.as_ref()).is_some() => {
                let backoff = settings.backoff(open.state.tag);
                open.state.sources().evidence.looks.fail(open.look, &backoff, Instant::now());
            }
            Err(error) => note_refusal(&pool, &open, generation, &error, began, &settings),
        }
        drop(open);
        // When to look again.
        pool.wake.notify_one();
    }));
}

/// A look that is under way, until this is dropped.
struct OpenLook {
    state: Arc<BackendState>,
    look: LookId,
}

impl Drop for OpenLook {
    fn drop(&mut self) {
        self.state.end_look(self.look);
    }
}

fn note_connection<S>(pool: &Pool<S>, state: &BackendState, generation: u64, settings: &Settings) {
    pool.update(state, Cause::Connected, |sources| {
        if sources.generation == generation {
            sources.evidence.connected(&settings.backoff(state.tag), Instant::now());
        }
    });
}

fn note_refusal<S>(
    pool: &Pool<S>,
    open: &OpenLook,
    generation: u64,
    error: &BoxError,
    began: Instant,
    settings: &Settings,
) {
    let state = &open.state;
    tracing::debug!(backend = %state.id, %error, "a redial failed");
    // The service may have been replaced since.
    if state.sources().generation != generation {
        return;
    }
    let refusal = Refusal { began, ..Refusal::of(error) };
    record_failure(pool, state, Failure::Refused(refusal), Some(open.look), settings);
    if state.is_awaited() {
        state.sources().evidence.looks.soon(settings.backoff(state.tag).seed, Instant::now());
    }
}
