//! What all requests of a layer share.

use std::{fmt, sync::Arc, time::Duration};

use tower_service::Service;

use super::{handoff::HandoffHook, rebalance::Rebalancer, shared_choice::SharedChoices};
use crate::{
    affinity::{BoundAffinity, Head},
    health::{AnyProbe, Settings, ensure_driver},
    id::BackendId,
    outcome::{Busy, Failover, Strict},
    pool::Backends,
    session::ActionHeader,
    strategy::Strategy,
    util::{Rng, WallClock},
};

/// What all services of a layer share.
pub(crate) struct Core<S> {
    pub(crate) backends: Backends<S>,
    pub(crate) affinity: Arc<dyn BoundAffinity>,
    /// Whether that remembers sessions: asked for once.
    pub(crate) remembers: bool,
    /// For how many seconds it remembers one that is idle; 0 for ever.
    pub(crate) idle_for: u32,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) local: Option<BackendId>,
    pub(crate) bypass: Option<Arc<Bypass>>,
    pub(crate) actions: ActionHeader,
    pub(crate) first_choices: Arc<SharedChoices>,
    /// Ids of sessions that are held by their clients.
    pub(crate) ids: Arc<Rng>,
    pub(crate) rebalancer: Option<Arc<Rebalancer>>,
    pub(crate) before_move: Option<HandoffHook>,
    pub(crate) options: Options,
    pub(crate) probe: Option<AnyProbe<S>>,
}

/// Whether a request passes by.
pub(crate) type Bypass = dyn Fn(&Head<'_>) -> bool + Send + Sync;

/// What is decided once, for all requests.
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
    pub(crate) session_info: SessionInfoOptions,
    pub(crate) extensions: bool,
    pub(crate) wants_latency: bool,
}

/// What backends are told about sessions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SessionInfoOptions {
    /// Whether what a request says in our headers is taken out.
    pub(crate) strip: bool,
    pub(crate) headers: bool,
    pub(crate) extensions: bool,
    pub(crate) replicas: usize,
}

impl SessionInfoOptions {
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.headers || self.extensions
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
            session_info: SessionInfoOptions::default(),
            extensions: false,
            wants_latency: false,
        }
    }
}

impl<S> Clone for Core<S> {
    fn clone(&self) -> Self {
        Self {
            backends: self.backends.clone(),
            affinity: self.affinity.clone(),
            remembers: self.remembers,
            idle_for: self.idle_for,
            strategy: self.strategy.clone(),
            clock: self.clock.clone(),
            local: self.local.clone(),
            bypass: self.bypass.clone(),
            actions: self.actions.clone(),
            first_choices: self.first_choices.clone(),
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
    /// Starts the task that watches the pool, unless one runs. Tells whether one runs now.
    #[inline]
    pub(crate) fn ensure_driver<Req>(&self) -> bool
    where
        S: Service<Req> + Clone + Send + Sync + 'static,
        Req: 'static,
    {
        let (pool, settings) = (self.backends.pool(), &self.options.health);
        ensure_driver::<S, Req>(pool, settings, self.probe.as_ref())
    }
}
