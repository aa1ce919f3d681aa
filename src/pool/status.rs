//! `BackendStatus` and `PoolStatus`: the status of a pool at one time.

use std::time::SystemTime;

use super::{BackendState, Cause, DrainStatus, Mode, State, sessions::Window};
use crate::{id::BackendId, outcome::Stats};

/// The status of one backend, from [`Backends::snapshot`](crate::Backends::snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStatus {
    /// The backend's id.
    pub id: BackendId,
    /// Its share of new sessions, relative to the others; 0 takes none.
    pub weight: u32,
    /// Its health.
    pub state: State,
    /// Since when its health has been so, but for being at its limit.
    pub state_since: SystemTime,
    /// What its health has changed by; `None` if it has not changed since it joined.
    pub state_cause: Option<Cause>,
    /// What the operator has set it to do.
    pub mode: Mode,
    /// Since when it has been in this mode.
    pub mode_since: SystemTime,
    /// The progress of its drain, if one was begun by [`Backends::drain`](crate::Backends::drain).
    pub drain: Option<DrainStatus>,
    /// The error of the last failed probe, until [`rise`](crate::Health::rise) probes in a row have
    /// succeeded; at most 256 bytes.
    pub probe_failure: Option<String>,
    /// Requests in flight, each counted until the end of its response's body.
    pub in_flight: usize,
    /// Open streams among them: responses whose reader had to wait for more, and upgraded connections.
    pub streams: usize,
    /// The number of sessions that were seen within the idle timeout. Up to about two hundred are counted
    /// exactly; more are estimated, with a standard error of 4.6 %. `None` when sessions cannot be told
    /// apart, as with plain tokens, and until sessions have been counted for one idle timeout.
    pub sessions: Option<u64>,
    /// A lower bound of the number of sessions: those that were seen.
    pub sessions_seen: u64,
    /// Tokens that were issued in the last 60 s and have not been sent back. They are not counted as sessions.
    pub unconfirmed: u64,
    /// Long streams whose end was forgotten before the idle timeout of their sessions, as there were more
    /// than 16,384.
    pub forgotten_streams: u64,
    /// Requests that wait for a permit or for the service to become ready.
    pub waiting: usize,
    /// Requests dispatched to it since it joined.
    pub requests: u64,
    /// The most requests that may be in flight; 0 for no limit.
    pub limit: usize,
    /// Whether it takes sessions only when no other backend is up.
    pub backup: bool,
    /// Its zone, if one was set.
    pub zone: Option<String>,
    /// Whether it is the local node, which the layer's inner service serves.
    pub local: bool,
}

impl BackendStatus {
    /// Whether its drain has ended: by its deadline, or because its last session has. It can be stopped.
    pub fn is_drained(&self) -> bool {
        self.mode == Mode::Drained || self.drain.as_ref().is_some_and(|drain| drain.completed)
    }

    /// The status without `sessions`, which the pool fills in.
    pub(super) fn new(state: &BackendState, window: Window, local: bool) -> Self {
        let since = state.since.get();
        let drain = state.drain.plan().as_ref().map(DrainStatus::of);
        Self {
            state_since: since.state,
            state_cause: since.cause,
            mode_since: since.mode,
            drain,
            id: state.id.clone(),
            weight: state.weight(),
            state: state.state(),
            mode: state.mode(),
            probe_failure: state.sources().probes.failure().map(str::to_owned),
            in_flight: state.in_flight(),
            streams: state.streams.len(),
            sessions: None,
            sessions_seen: state.session_counter.seen(window),
            unconfirmed: state.session_counter.unconfirmed(window.now),
            forgotten_streams: state.stream_ends.evicted(),
            waiting: state.waiting(),
            requests: state.requests(),
            limit: state.limit(),
            backup: state.is_backup(),
            zone: state.zone(),
            local,
        }
    }
}

/// The status of a pool, from [`Backends::snapshot`](crate::Backends::snapshot).
///
/// # Example
///
/// ```
/// use tower_sticky::Backends;
///
/// let backends = Backends::from_iter([("a", ()), ("b", ())]);
/// let status = backends.snapshot();
/// for backend in &status.backends {
///     println!("{} is {}, {} in flight", backend.id, backend.state.as_str(), backend.in_flight);
/// }
/// println!("{} requests, {} moves", status.stats.requests(), status.stats.moves());
/// # assert_eq!(status.backends.len(), 2);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The backends, in the order in which they joined.
    pub backends: Vec<BackendStatus>,
    /// Counters of the outcomes of all requests so far. Changes of the members do not reset them.
    pub stats: Stats,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::pool::{Backends, Entered};

    #[tokio::test(start_paused = true)]
    async fn backend_is_drained_when_nothing_is_left_or_its_time_is_over() {
        let minute = Duration::from_secs(60);
        let backends = Backends::from_iter([("a", ()), ("b", ())]);
        let states = backends.pool().load().index().states().to_vec();
        let drained = || {
            backends.pool().housekeep(Instant::now());
            ["a", "b"].map(|id| backends.get(id).unwrap().is_drained())
        };
        let short = Entered::new(states[0].clone());
        let _long = Entered::new(states[1].clone());
        assert_eq!(drained(), [false, false]);
        for id in ["a", "b"] {
            backends.drain(id).deadline(minute).start().unwrap();
        }
        assert_eq!(drained(), [false, false], "requests are in flight");
        drop(short);
        assert_eq!(drained(), [true, false]);
        assert_eq!(backends.get("a").unwrap().mode, Mode::Draining, "until its deadline");
        backends.drain("a").start().unwrap();
        assert_eq!(drained(), [true, false], "a drain without a deadline");
        advance(minute).await;
        assert_eq!(drained(), [true, true]);
        assert_eq!(backends.get("b").unwrap().mode, Mode::Drained);
    }
}
