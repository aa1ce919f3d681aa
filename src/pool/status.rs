//! What a pool tells about itself.

use super::{BackendState, Mode, State, sessions::Window};
use crate::{id::BackendId, outcome::Stats};

/// One backend as it is now; from [`Backends::snapshot`](crate::Backends::snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its id.
    pub id: BackendId,
    /// Its share of new sessions, relative to the others; 0 takes none.
    pub weight: u32,
    /// Whether it can serve.
    pub state: State,
    /// What the operator wants of it.
    pub mode: Mode,
    /// What the last failed probe said, until [`rise`](crate::Health::rise) probes in a row have
    /// succeeded; at most 256 bytes.
    pub probe_failure: Option<String>,
    /// Requests that it works on now, each counted until its response's body has ended.
    pub in_flight: usize,
    /// Of these, responses whose reader had to wait for more, and upgraded connections.
    pub streams: usize,
    /// About how many sessions it has: those that were seen within the time for which an idle session is
    /// remembered. Up to some two hundred are counted, more estimated to within some percent. `None` when
    /// sessions cannot be told apart, as with plain tokens, and while the backend has not been watched for
    /// that long: others may be idle since before.
    pub sessions: Option<u64>,
    /// At least so many sessions are there: those that were seen.
    pub sessions_seen: u64,
    /// Tokens that were issued in the last 60 s and have not come back. One that never does is no session.
    pub unconfirmed: u64,
    /// Ends of long streams that were forgotten before the idle timeout of their sessions was over, because
    /// there were more than 16,384.
    pub forgotten_streams: u64,
    /// Requests that wait for it to become free.
    pub waiting: usize,
    /// Requests dispatched to it since it joined.
    pub requests: u64,
    /// The most requests that may be in flight; 0 for no limit.
    pub limit: usize,
    /// Whether it takes sessions only when no other backend is up.
    pub backup: bool,
    /// Where it is, if that was said.
    pub zone: Option<String>,
    /// Whether it is the local node, which the layer's inner service serves.
    pub local: bool,
}

impl BackendStatus {
    /// Without the number of sessions, which the pool knows.
    pub(super) fn new(state: &BackendState, window: Window, local: bool) -> Self {
        Self {
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

/// A pool as it is now; from [`Backends::snapshot`](crate::Backends::snapshot).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The backends, in the order in which they joined.
    pub backends: Vec<BackendStatus>,
    /// What became of all requests so far. It survives every change of membership.
    pub stats: Stats,
}
