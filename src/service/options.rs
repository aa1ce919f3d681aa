//! What may be said of a layer.

use std::{future::Future, sync::Arc, time::Duration};

use super::StickyLayer;
use crate::{
    affinity::{Head, header_name},
    dispatch::{HandoffHook, Move, Rebalance},
    error::{BoxError, ConfigError},
    health::{AnyProbe, Health, Probe},
    outcome::{Busy, Failover, Strict},
    strategy::Strategy,
    util::{WallClock, clock::YEAR},
};

impl<S, E> StickyLayer<S, E> {
    /// Who takes a new session; default
    /// [`LeastConnections`](crate::strategy::LeastConnections).
    #[must_use]
    pub fn strategy(self, strategy: impl Strategy) -> Self {
        self.with(|core| {
            core.options.wants_latency = strategy.wants_latency();
            core.strategy = Arc::new(strategy);
        })
    }

    /// How the pool finds out which backends can serve. Of several layers over one pool, the one
    /// that starts the readiness poll decides.
    ///
    /// # Panics
    ///
    /// When the probe cannot work, with the message of the error; see [`try_health`](Self::try_health).
    #[must_use]
    pub fn health<P: Probe<S>>(self, health: Health<P>) -> Self
    where
        S: 'static,
    {
        match self.try_health(health) {
            Ok(layer) => layer,
            #[expect(clippy::panic, reason = "documented; there is a way that returns the error")]
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`health`](Self::health), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When the probe cannot work, for example because its path is not one.
    pub fn try_health<P: Probe<S>>(self, health: Health<P>) -> Result<Self, ConfigError>
    where
        S: 'static,
    {
        let probe = AnyProbe::new(health.probe)?;
        Ok(self.with(|core| (core.options.health, core.probe) = (health.settings, probe)))
    }

    /// What to do with a session whose backend is down, suspect, disabled or refuses the connection;
    /// default [`Failover::Repin`]. One that has left the pool is not known any more: its sessions begin
    /// anew elsewhere, unless the layer is [strict](Self::strict).
    #[must_use]
    pub fn on_unavailable(self, failover: Failover) -> Self {
        self.with(|core| core.options.unavailable = failover)
    }

    /// How long the sessions of a backend that has begun to refuse connections wait for its return before
    /// [`on_unavailable`](Self::on_unavailable) decides; default zero: they do not.
    ///
    /// The time counts once for each outage of the backend, from its first refused connection (of one that
    /// timed out, from when it was begun) or from when its probes had it down. So a backend that stays away
    /// costs each session at most what is left of that time, and later requests nothing; one that is
    /// restarted within it loses no session. Meanwhile it is redialed every 25 to 50 ms, once for all who
    /// wait, who go on in order when it returns, with their requests untouched. Only an operator's
    /// [`Mode`](crate::Mode) ends the wait early.
    ///
    /// Only pins wait: new sessions, and those that are placed by the hash of a key, have another backend.
    /// At most [`max_waiters`](Self::max_waiters) requests wait for a backend; what comes beyond them is
    /// treated at once as `on_unavailable` says, with the reason [`Busy`](crate::Reason::Busy). The time
    /// comes on top of [`ready_timeout`](Self::ready_timeout), which begins after it.
    #[must_use]
    pub fn home_wait(self, wait: Duration) -> Self {
        self.with(|core| core.options.home_wait = wait.min(YEAR))
    }

    /// How many [suspects](crate::State::Suspect) are tried for one request when no better backend is left,
    /// at least 1; default 16. The one that failed least recently is the first.
    #[must_use]
    pub fn max_attempts(self, attempts: usize) -> Self {
        self.with(|core| core.options.max_attempts = attempts.max(1))
    }

    /// What to do with a session whose backend is at its limit, or is not ready yet; default: wait
    /// 200 ms, then borrow another one.
    #[must_use]
    pub fn on_busy(self, busy: Busy) -> Self {
        self.with(|core| core.options.busy = busy)
    }

    /// How long a request may wait for a backend to take it, all candidates together, counted from the
    /// first wait or failure; default 1 s. No further candidate is tried after that.
    #[must_use]
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        self.with(|core| core.options.ready_timeout = timeout)
    }

    /// How many requests may wait for one backend; more are refused at once; default 1024. One session
    /// may take one more of these places only while it has fewer than are free: alone it gets half of
    /// them, and there are some for others. Requests without a session get at most half of them together;
    /// sessions that cannot be told apart, as with plain tokens, obey the total only.
    #[must_use]
    pub fn max_waiters(self, waiters: usize) -> Self {
        self.with(|core| core.options.max_waiters = waiters)
    }

    /// What `Retry-After` says on a response with 503, in whole seconds; default 1 s.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        self.with(|core| core.options.retry_after = retry_after)
    }

    /// Whether a request that its backend gives back as [`Unanswered`](crate::Unanswered), because
    /// the connection ended before any byte of an answer, goes once to another backend; default
    /// `true`. Only idempotent requests without a body are given back; they may have been executed. The
    /// session moves with the request, unless [`on_unavailable`](Self::on_unavailable) says otherwise.
    #[must_use]
    pub fn retry_idempotent(self, retry: bool) -> Self {
        self.with(|core| core.options.retry_idempotent = retry)
    }

    /// Whether a session is served by its own backend or not at all; default `false`. A [`Strict`] in
    /// place of `true` says with which status.
    ///
    /// Then a token that names no backend, or is not one of ours, is answered with
    /// [`UnknownSession`](crate::StickyError::UnknownSession) (410) instead of a new session, and the
    /// client is told to forget it. In a [`Chain`](crate::affinity::Chain) that is so when no member
    /// carries anything usable. A session whose backend is known and cannot serve is answered with
    /// [`Unavailable`](crate::StickyError::Unavailable) or [`Busy`](crate::StickyError::Busy) (503),
    /// whatever [`on_unavailable`](Self::on_unavailable) and [`on_busy`](Self::on_busy) say. A session
    /// that has expired begins anew. [`Preference::strict`](crate::Wish::strict) decides for one request.
    #[must_use]
    pub fn strict(self, strict: impl Into<Strict>) -> Self {
        let strict = strict.into();
        self.with(|core| core.options.strict = strict)
    }

    /// Whether a session that a [backup](crate::BackendOptions::backup) has taken returns to a primary
    /// backend with its next request, once one is ready; default `false`: it stays, as everybody does.
    #[must_use]
    pub fn return_from_backup(self, returns: bool) -> Self {
        self.with(|core| core.options.return_from_backup = returns)
    }

    /// What to do before a session moves to another backend, for example carry its state over. The
    /// request that moves it waits for that, for at most `patience`.
    ///
    /// When it fails, or takes longer, a session that could stay does so (it moves because of
    /// [`rebalance`](Self::rebalance), [`return_from_backup`](Self::return_from_backup) or
    /// [`Drain::hand_over`](crate::Drain::hand_over)); one that cannot, because its backend is down,
    /// disabled or drained, goes on at the new one.
    ///
    /// Only sessions that have an id move with it, which those with plain tokens have not. Of parallel
    /// requests of a session that could stay, one carries it over and the others are served where it
    /// was; of one that could not, each may call the hook.
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

    /// Whether sessions that rest move to backends that have less to do, for example after new ones
    /// have joined. Default: nobody moves who need not.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds, or when the affinity's pins do not say when their sessions were
    /// last seen: then there is no telling who rests.
    pub fn rebalance(self, rebalance: Rebalance) -> Result<Self, ConfigError> {
        if !self.core.affinity.is_sealed() {
            return Err(ConfigError::new(
                "rebalance: only sealed tokens say when their session was last seen; use a sealed \
                 Cookie, Header or Envelope, alone or in a Chain",
            ));
        }
        let rebalancer = rebalance.check()?;
        self.core.backends.pool().enable_balance();
        Ok(self.with(|core| core.rebalancer = Some(Arc::new(rebalancer))))
    }

    /// Which requests neither read nor write a pin, for example those of static files and health
    /// checks; the strategy chooses for them. [`Preference::bypass`](crate::Wish::bypass) decides for one
    /// request.
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

    /// The response header in which a backend may say a [`SessionAction`](crate::SessionAction):
    /// `end`, `pin`, `no-pin` or `move <id>`. It is taken out before the client sees it. Default:
    /// none, and only handlers in this process have a word, in the response's extensions.
    ///
    /// # Errors
    ///
    /// When `name` is not a header name, or is one that HTTP itself uses.
    pub fn application_header(self, name: &str) -> Result<Self, ConfigError> {
        let name = header_name(name)?;
        Ok(self.with(|core| core.actions.header = Some(name)))
    }

    /// Whether all backends are tried when all are down by their probes, instead of failing at once;
    /// default `false`. Suspects are always tried.
    #[must_use]
    pub fn panic_mode(self, panic: bool) -> Self {
        self.with(|core| core.options.panic = panic)
    }

    /// Whether the [`Outcome`](crate::Outcome) is put into the extensions of the request, for the
    /// service that answers it, and of the response; default `false`.
    ///
    /// An extension is allocated, so this is the one part of the way of a pinned request that costs
    /// allocations (at most three for each of the two). Counters and spans have the outcome always.
    #[must_use]
    pub fn outcome_extensions(self, extensions: bool) -> Self {
        self.with(|core| core.options.extensions = extensions)
    }

    /// Whether each request tells its backend, in its extensions, which session it belongs to, in which
    /// epoch, and what became of it: a [`SessionInfo`](crate::SessionInfo). For backends in this
    /// process; default `false`. It costs allocations, as
    /// [`outcome_extensions`](Self::outcome_extensions) does.
    #[must_use]
    pub fn session_extensions(self, extensions: bool) -> Self {
        self.with(|core| core.options.session_info.extensions = extensions)
    }

    /// Whether each request tells its backend the same in headers (see
    /// [`SessionInfo`](crate::SessionInfo)), for backends in other processes. Said at all, also with
    /// `false`, it takes out what a client says in these headers. Default: neither.
    #[must_use]
    pub fn session_headers(self, headers: bool) -> Self {
        self.with(|core| {
            core.options.session_info.strip = true;
            core.options.session_info.headers = headers;
        })
    }

    /// How many backends a request names to which its session would go if its own failed
    /// ([`SessionInfo::replicas`](crate::SessionInfo::replicas)); default 0. State that the application
    /// has copied there is found there: for such sessions the rank alone decides, and zones do not.
    /// Backends that take no new sessions are not named (weight 0, draining, down; backups beside
    /// primaries): with only such ones left there is nowhere to copy to, and the application
    /// decides whether it says yes all the same.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        self.with(|core| core.options.session_info.replicas = replicas)
    }

    /// The wall clock that dates tokens; default the system's.
    #[must_use]
    pub fn clock(self, clock: impl WallClock) -> Self {
        self.with(|core| core.clock = Arc::new(clock))
    }
}
