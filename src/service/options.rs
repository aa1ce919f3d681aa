//! The options of a `StickyLayer`.

use std::{future::Future, sync::Arc, time::Duration};

use super::StickyLayer;
use crate::{
    affinity::{Head, header_name},
    dispatch::{HandoffHook, Move, Rebalance, SessionHeaders},
    error::{BoxError, ConfigError},
    health::{AnyProbe, Health, Probe},
    outcome::{Busy, Failover, Strict},
    strategy::Strategy,
    util::{WallClock, clock::YEAR},
};

impl<S, E> StickyLayer<S, E> {
    /// The strategy that chooses the backend of a new session; default
    /// [`LeastConnections`](crate::strategy::LeastConnections).
    #[must_use]
    pub fn strategy(self, strategy: impl Strategy) -> Self {
        self.with(|core| {
            core.wants_latency = strategy.wants_latency();
            if strategy.wants_sessions() {
                core.backends.pool().balance().enable();
            }
            core.strategy = Arc::new(strategy);
        })
    }

    /// How the pool checks which backends can serve. Of several layers over one pool, the one that starts
    /// the readiness poll decides.
    ///
    /// # Panics
    ///
    /// When the probe is invalid, with the message of the error; see [`try_health`](Self::try_health).
    #[must_use]
    pub fn health<P: Probe<S>>(self, health: Health<P>) -> Self
    where
        S: 'static,
    {
        match self.try_health(health) {
            Ok(layer) => layer,
            #[expect(clippy::panic, reason = "documented; the `try_` variant returns the error")]
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`health`](Self::health), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When the probe is invalid, for example its path.
    pub fn try_health<P: Probe<S>>(self, health: Health<P>) -> Result<Self, ConfigError>
    where
        S: 'static,
    {
        let probe = AnyProbe::new(health.probe)?;
        Ok(self.with(|core| (core.options.health, core.probe) = (health.settings, probe)))
    }

    /// The policy for sessions whose backend is down, suspect or disabled, or refuses the connection; default
    /// [`Failover::Repin`]. Sessions of a backend that has left the pool start on another one, unless the
    /// layer is [strict](Self::strict).
    #[must_use]
    pub fn on_unavailable(self, failover: Failover) -> Self {
        self.with(|core| core.options.unavailable = failover)
    }

    /// How long the sessions of a backend that refuses connections wait for it to recover before
    /// [`on_unavailable`](Self::on_unavailable) applies; default zero: they do not wait.
    ///
    /// The time counts once for each outage of the backend, from its first refused connection (if that timed
    /// out, from its start) or from when its probes failed. If the backend stays down, each session waits at
    /// most for the rest of that time, and later requests do not wait. A backend that is restarted within it
    /// loses no session. Meanwhile it is redialed every 25 to 50 ms for all waiting requests, which are sent
    /// in order when it recovers, unchanged. Only an operator's [`Mode`](crate::Mode) ends the wait early.
    ///
    /// Only pinned sessions wait: new sessions, and those that are routed by the hash of a key, use another
    /// backend. At most [`max_waiters`](Self::max_waiters) requests wait for a backend; `on_unavailable`
    /// applies to further ones at once, with the reason [`Busy`](crate::Reason::Busy).
    /// [`ready_timeout`](Self::ready_timeout) starts after this time.
    #[must_use]
    pub fn home_wait(self, wait: Duration) -> Self {
        self.with(|core| core.options.home_wait = wait.min(YEAR))
    }

    /// How many [suspects](crate::State::Suspect) are tried for one request when no better backend is left,
    /// at least 1; default 16. The one whose last failure is the oldest is tried first.
    #[must_use]
    pub fn max_attempts(self, attempts: usize) -> Self {
        self.with(|core| core.options.max_attempts = attempts.max(1))
    }

    /// The policy for sessions whose backend is at its limit or not ready; default: wait 200 ms, then
    /// borrow another backend.
    #[must_use]
    pub fn on_busy(self, busy: Busy) -> Self {
        self.with(|core| core.options.busy = busy)
    }

    /// How long a request may wait for backends, for all candidates together, counted from the first wait or
    /// failure; default 1 s. After that no further candidate is tried.
    #[must_use]
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        self.with(|core| core.options.ready_timeout = timeout)
    }

    /// The length of the wait queue of one backend, in requests; more are rejected at once; default 1024. A
    /// session may enqueue another request only while it has fewer in the queue than are free, so that one
    /// session gets at most half of the queue. All requests without a session together get at most half of
    /// it. For sessions without an id, as with plain tokens, only the total counts.
    #[must_use]
    pub fn max_waiters(self, waiters: usize) -> Self {
        self.with(|core| core.options.max_waiters = waiters)
    }

    /// The value of `Retry-After` in a 503 response, in whole seconds; default 1 s.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        self.with(|core| core.options.retry_after = retry_after)
    }

    /// Whether a request that its backend gives back as [`Unanswered`](crate::Unanswered), because the
    /// connection ended before the first byte of a response, is sent once to another backend; default
    /// `true`. Only idempotent requests without a body are given back. The backend may have executed them.
    /// The session moves with the request, unless [`on_unavailable`](Self::on_unavailable) forbids that.
    #[must_use]
    pub fn retry_idempotent(self, retry: bool) -> Self {
        self.with(|core| core.options.retry_idempotent = retry)
    }

    /// Whether only the pinned backend may serve a session; default `false`. A [`Strict`] instead of `true`
    /// sets the statuses.
    ///
    /// A request with a token of an unknown backend, or a token that is not valid here, is rejected with
    /// [`UnknownSession`](crate::StickyError::UnknownSession) (410) instead of starting a new session, and
    /// the token is removed from the client. In a [`Chain`](crate::affinity::Chain) that happens when no
    /// member has a valid pin or a key. A request of a session whose backend cannot serve is rejected with
    /// [`Unavailable`](crate::StickyError::Unavailable) or [`Busy`](crate::StickyError::Busy) (503), whatever
    /// [`on_unavailable`](Self::on_unavailable) and [`on_busy`](Self::on_busy) say. An expired session is
    /// replaced by a new one. [`Preference::strict`](crate::Preference::strict) decides for one request.
    #[must_use]
    pub fn strict(self, strict: impl Into<Strict>) -> Self {
        let strict = strict.into();
        self.with(|core| core.options.strict = strict)
    }

    /// Whether a session on a [backup](crate::BackendOptions::backup) returns to a primary backend with its
    /// next request, once one is ready; default `false`: it stays on the backup.
    #[must_use]
    pub fn return_from_backup(self, returns: bool) -> Self {
        self.with(|core| core.options.return_from_backup = returns)
    }

    /// A hook that runs before a session moves to another backend, for example to transfer its state. The
    /// request that moves the session waits for the hook, at most for `wait_limit`.
    ///
    /// When the hook fails or times out, a session that could stay does so. That is a move because of
    /// [`rebalance`](Self::rebalance), [`return_from_backup`](Self::return_from_backup) or
    /// [`Drain::hand_over`](crate::Drain::hand_over). A session that must move, because its backend is down,
    /// disabled or drained, moves anyway.
    ///
    /// The hook runs only for sessions with an id, which those with plain tokens do not have. Of parallel
    /// requests of a session that could stay, one runs the hook and the others go to the old backend. Of
    /// parallel requests of a session that must move, each may run it.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// # use tower_sticky::{Backends, KeyRing, StickyLayer, affinity::Cookie};
    /// # async fn copy_the_cart(_: String, _: String, _: String) -> std::io::Result<()> { Ok(()) }
    /// # let layer: StickyLayer<()> =
    /// #     StickyLayer::new(Backends::new(), Cookie::sealed("sid", KeyRing::generate()?));
    /// let layer = layer.before_move(Duration::from_secs(1), |session| {
    ///     copy_the_cart(session.id().to_string(), session.from().to_string(), session.to().to_string())
    /// });
    /// # Ok::<(), tower_sticky::ConfigError>(())
    /// ```
    #[must_use]
    pub fn before_move<F, Fut, Err>(self, wait_limit: Duration, hook: F) -> Self
    where
        F: Fn(Move) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Err>> + Send + 'static,
        Err: Into<BoxError>,
    {
        self.with(|core| core.before_move = Some(HandoffHook::new(wait_limit, hook)))
    }

    /// Moves idle sessions to backends with fewer sessions, for example after new backends have joined.
    /// Default: sessions only move when they must.
    ///
    /// # Errors
    ///
    /// When a setting is out of range, or when the tokens of the affinity have no time of the last request,
    /// so that idle sessions cannot be recognised.
    pub fn rebalance(self, rebalance: Rebalance) -> Result<Self, ConfigError> {
        if !self.core.affinity.is_sealed() {
            return Err(ConfigError::new(
                "rebalance: only sealed tokens say when their session was last seen; use a sealed \
                 Cookie, Header or Envelope, alone or in a Chain",
            ));
        }
        let rebalancer = rebalance.check()?;
        self.core.backends.pool().balance().enable();
        Ok(self.with(|core| core.rebalancer = Some(Arc::new(rebalancer))))
    }

    /// Which requests neither read nor write a pin, for example those for static files and health checks; the
    /// strategy chooses their backend. [`Preference::bypass`](crate::Preference::bypass) decides for one
    /// request.
    ///
    /// # Example
    ///
    /// ```
    /// # use tower_sticky::{Backends, StickyLayer, affinity::Cookie};
    /// # let layer: StickyLayer<()> = StickyLayer::new(Backends::new(), Cookie::plain("sid"));
    /// let layer = layer.bypass_if(|head| head.uri().path().starts_with("/static/"));
    /// ```
    #[must_use]
    pub fn bypass_if(self, bypass: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|core| core.bypass = Some(Arc::new(bypass)))
    }

    /// The response header in which a backend may set a [`SessionAction`](crate::SessionAction): `end`, `pin`,
    /// `no-pin` or `move <id>`. It is removed from the response. Default: none, so that actions are only read
    /// from the response's extensions, which services in this process can set.
    ///
    /// # Errors
    ///
    /// When `name` is not a valid header name, or is a header that HTTP itself uses.
    pub fn application_header(self, name: &str) -> Result<Self, ConfigError> {
        let name = header_name(name)?;
        Ok(self.with(|core| core.actions.header = Some(name)))
    }

    /// Whether backends are tried although the probes of all backends fail, instead of rejecting the request
    /// at once; default `false`. Suspects are always tried.
    #[must_use]
    pub fn panic_mode(self, panic: bool) -> Self {
        self.with(|core| core.options.panic = panic)
    }

    /// Whether the [`Outcome`](crate::Outcome) is added to the extensions of the request to the backend and of
    /// the response; default `false`.
    ///
    /// Extensions are allocated: at most three allocations for each of the two, where a pinned request has
    /// none otherwise. Counters and spans always have the outcome.
    #[must_use]
    pub fn outcome_extensions(self, extensions: bool) -> Self {
        self.with(|core| core.options.info.outcome_extension = extensions)
    }

    /// Whether each backend has histograms of its own in [`metrics`](crate::metrics), beside those of the pool;
    /// default `false`. They are 256 bytes and 34 series for each backend.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn backend_histograms(self, enabled: bool) -> Self {
        self.with(|core| core.backends.pool().recorder.record_per_backend(enabled))
    }

    /// Whether each request has a [`SessionInfo`](crate::SessionInfo) in its extensions, with its session, the
    /// epoch and the outcome, for backends in this process; default `false`. It allocates, like
    /// [`outcome_extensions`](Self::outcome_extensions).
    #[must_use]
    pub fn session_extensions(self, extensions: bool) -> Self {
        self.with(|core| core.options.info.session_extension = extensions)
    }

    /// Whether each request has the [`SessionInfo`](crate::SessionInfo) in its headers, for backends in other
    /// processes. With `true` and with `false`, these headers are removed from the requests of clients. By
    /// default they are neither added nor removed.
    #[must_use]
    pub fn session_headers(self, headers: bool) -> Self {
        self.with(|core| {
            core.options.info.headers =
                if headers { SessionHeaders::Write } else { SessionHeaders::Strip };
        })
    }

    /// How many backends [`SessionInfo::replicas`](crate::SessionInfo::replicas) names to which the session
    /// would move if its own backend failed; default 0. Above 0 only the rank decides where sessions move,
    /// and zones do not count, so that a session finds the state that the application has copied there.
    /// Backends that take no new sessions are not named (weight 0, draining, down; backups beside
    /// primaries). If no others are left, the list is empty, and the application decides whether it continues
    /// without a copy.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        self.with(|core| core.options.info.replicas = replicas)
    }

    /// The wall clock for the dates in tokens; default the system's.
    #[must_use]
    pub fn clock(self, clock: impl WallClock) -> Self {
        self.with(|core| core.clock = Arc::new(clock))
    }
}
