//! What a pool tells about itself.

use super::{BackendId, BackendState, Mode, State};
use crate::outcome::Stats;

/// One backend as it is now; from [`Backends::snapshot`](super::Backends::snapshot).
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
    /// Requests that wait for it to become free.
    pub waiting: usize,
    /// Requests dispatched to it since it joined.
    pub requests: u64,
    /// The most requests that may be in flight; 0 for no limit.
    pub limit: usize,
    /// Whether it is the local node, which the layer's inner service serves.
    pub local: bool,
}

impl BackendStatus {
    pub(super) fn new(state: &BackendState, local: bool) -> Self {
        Self {
            id: state.id.clone(),
            weight: state.weight(),
            state: state.state(),
            mode: state.mode(),
            probe_failure: state.sources().active.failure().map(str::to_owned),
            in_flight: state.in_flight(),
            waiting: state.waiting(),
            requests: state.requests(),
            limit: state.limit(),
            local,
        }
    }
}

/// A pool as it is now; from [`Backends::snapshot`](super::Backends::snapshot).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The backends, in the order in which they joined.
    pub backends: Vec<BackendStatus>,
    /// What became of all requests so far. It survives every change of membership.
    pub stats: Stats,
}
