//! The configuration and state that all services of a layer share.

use std::{fmt, sync::Arc, time::Duration};

use super::{handoff::HandoffHook, rebalance::Rebalancer, shared_choice::SharedChoices};
use crate::{
    affinity::{BoundAffinity, Head},
    health::{AnyProbe, Driver, Settings},
    id::BackendId,
    outcome::{Busy, Failover, Strict},
    pool::Backends,
    session::ActionHeader,
    strategy::Strategy,
    util::{Rng, WallClock},
};

/// The configuration and state that all services of a layer share.
pub(crate) struct Core<S> {
    pub(crate) backends: Backends<S>,
    pub(crate) affinity: Arc<dyn BoundAffinity>,
    /// Whether the affinity remembers pins.
    pub(crate) remembers: bool,
    /// The idle timeout of the affinity in seconds; 0 for none.
    pub(crate) idle_timeout: u32,
    pub(crate) strategy: Arc<dyn Strategy>,
    /// Whether the strategy measures latencies.
    pub(crate) wants_latency: bool,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) local: Option<BackendId>,
    pub(crate) bypass: Option<Arc<Bypass>>,
    pub(crate) actions: ActionHeader,
    pub(crate) shared_choices: Arc<SharedChoices>,
    /// Generates the ids of sessions that their clients hold.
    pub(crate) ids: Arc<Rng>,
    pub(crate) rebalancer: Option<Arc<Rebalancer>>,
    pub(crate) before_move: Option<HandoffHook>,
    pub(crate) options: Options,
    pub(crate) probe: Option<AnyProbe<S>>,
}

/// Whether a request bypasses affinity.
pub(crate) type Bypass = dyn Fn(&Head<'_>) -> bool + Send + Sync;

/// The options of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) health: Settings,
    pub(crate) unavailable: Failover,
    pub(crate) busy: Busy,
    pub(crate) home_wait: Duration,
    pub(crate) max_attempts: usize,
    pub(crate) ready_timeout: Duration,
    pub(crate) max_waiters: usize,
    pub(crate) retry_after: Duration,
    pub(crate) retry_idempotent: bool,
    pub(crate) panic: bool,
    pub(crate) strict: Strict,
    pub(crate) return_from_backup: bool,
    pub(crate) info: InfoOptions,
}

/// What is added to requests and responses about sessions and outcomes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InfoOptions {
    pub(crate) headers: SessionHeaders,
    /// Whether requests get the session info as an extension.
    pub(crate) session_extension: bool,
    /// Whether requests and responses get the outcome as an extension.
    pub(crate) outcome_extension: bool,
    /// How many replicas the session info names.
    pub(crate) replicas: usize,
}

/// What happens to the headers of the session info in requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SessionHeaders {
    /// The headers of the client are forwarded.
    #[default]
    Forward,
    /// The headers of the client are removed.
    Strip,
    /// The headers of the client are removed, and those of the session info are written.
    Write,
}

impl InfoOptions {
    /// Whether requests describe their session to the backend.
    #[inline]
    pub(crate) fn describes_session(self) -> bool {
        self.writes_headers() || self.session_extension
    }

    #[inline]
    pub(crate) fn writes_headers(self) -> bool {
        self.headers == SessionHeaders::Write
    }

    #[inline]
    pub(crate) fn strips_headers(self) -> bool {
        self.headers != SessionHeaders::Forward
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            health: Settings::new(),
            unavailable: Failover::default(),
            busy: Busy::default(),
            home_wait: Duration::ZERO,
            max_attempts: 16,
            ready_timeout: Duration::from_secs(1),
            max_waiters: 1024,
            retry_after: Duration::from_secs(1),
            retry_idempotent: true,
            panic: false,
            strict: Strict::from(false),
            return_from_backup: false,
            info: InfoOptions::default(),
        }
    }
}

impl<S> Clone for Core<S> {
    fn clone(&self) -> Self {
        Self {
            backends: self.backends.clone(),
            affinity: self.affinity.clone(),
            remembers: self.remembers,
            idle_timeout: self.idle_timeout,
            strategy: self.strategy.clone(),
            wants_latency: self.wants_latency,
            clock: self.clock.clone(),
            local: self.local.clone(),
            bypass: self.bypass.clone(),
            actions: self.actions.clone(),
            shared_choices: self.shared_choices.clone(),
            ids: self.ids.clone(),
            rebalancer: self.rebalancer.clone(),
            before_move: self.before_move.clone(),
            options: self.options,
            probe: self.probe.clone(),
        }
    }
}

impl<S> fmt::Debug for Core<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyLayer")
            .field("backends", &self.backends)
            .field("affinity", &self.affinity)
            .field("strategy", &self.strategy)
            .field("local", &self.local)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<S> Core<S> {
    /// What starts the background task of the pool.
    #[inline]
    pub(crate) fn driver(&self) -> Driver<'_, S> {
        let (pool, settings) = (self.backends.pool(), &self.options.health);
        Driver { pool, settings, probe: self.probe.as_ref() }
    }
}
