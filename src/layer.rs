//! The policy of a sticky service, and its builder.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BackendId, Backends, Busy, ConfigError, Failover, Health, NoInner, Propagate, Rebalance,
    Respond, StickyService,
    actions::Actions,
    affinity::{Affinity, BoundAffinity, Head, header_name},
    clock::{SystemClock, WallClock},
    dispatch::FirstChoices,
    health::{AnyProbe, Probe, Settings, ensure_driven},
    rebalance::Rebalancer,
    strategy::{LeastConnections, Strategy, chance::Chance},
};

/// Keeps each session on the backend that holds it: a policy and a set of backends.
///
/// What becomes of the service that the layer wraps is one of three roles:
///
/// - **none**: [`into_service`](Self::into_service) makes a service of the backends alone, for a
///   gateway or a client;
/// - **the local node**: with [`local`](Self::local) the wrapped service is one of the backends, and
///   the others are its peers;
/// - **the last resort**: otherwise the wrapped service answers **only when no backend can take the
///   request**. See [`last_resort`](Self::last_resort).
///
/// The layer spawns nothing and keeps no state per wrapped service, so it may be applied any number
/// of times, as Axum does for each route and method.
///
/// # Example
///
/// ```
/// use axum::{Router, body::Body, response::Response};
/// use tower_sticky::{Backends, KeyRing, StickyLayer, affinity};
///
/// # let node = |name: &'static str| tower::service_fn(move |_: axum::extract::Request| async move {
/// #     Ok::<_, std::convert::Infallible>(Response::new(Body::from(name)))
/// # });
/// // `node` makes any clonable Tower service, for example a `proxy::Upstream`.
/// let backends = Backends::from_iter([("a", node("a")), ("b", node("b"))]);
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let sticky = StickyLayer::new(backends.clone(), affinity::Cookie::sealed("SERVER_ID", keys));
/// let app: Router = Router::new().fallback_service(sticky.into_service());
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
pub struct StickyLayer<S, E = Respond> {
    core: Arc<Core<S>>,
    on_error: PhantomData<fn() -> E>,
}

/// What all services of a layer share.
pub(crate) struct Core<S> {
    pub(crate) backends: Backends<S>,
    pub(crate) affinity: Arc<dyn BoundAffinity>,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) local: Option<BackendId>,
    pub(crate) bypass: Option<Arc<Bypass>>,
    pub(crate) actions: Actions,
    pub(crate) first_choices: Arc<FirstChoices>,
    /// Ids of sessions that are held by their clients.
    pub(crate) ids: Arc<Chance>,
    pub(crate) rebalancer: Option<Arc<Rebalancer>>,
    pub(crate) options: Options,
    pub(crate) probe: Option<AnyProbe<S>>,
}

type Bypass = dyn Fn(&Head<'_>) -> bool + Send + Sync;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) health: Settings,
    pub(crate) unavailable: Failover,
    pub(crate) busy: Busy,
    pub(crate) ready_timeout: Duration,
    pub(crate) max_waiters: usize,
    pub(crate) retry_after: Duration,
    pub(crate) retry_idempotent: bool,
    pub(crate) panic: bool,
    pub(crate) strict: bool,
    pub(crate) return_from_backup: bool,
    pub(crate) telling: Telling,
    pub(crate) extensions: bool,
    pub(crate) wants_latency: bool,
}

/// What backends are told about sessions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Telling {
    /// Whether what a request says in our headers is taken out.
    pub(crate) strip: bool,
    pub(crate) headers: bool,
    pub(crate) extensions: bool,
    pub(crate) replicas: usize,
}

impl Telling {
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.headers || self.extensions
    }
}

impl<S> StickyLayer<S> {
    /// A layer over `backends` that recognises sessions by `affinity`. Errors become responses: see
    /// [`Respond`] and [`propagate_errors`](Self::propagate_errors).
    ///
    /// # Panics
    ///
    /// When the affinity's configuration cannot work, with the message of the error. For
    /// configuration that is not known when the program is written, see [`try_new`](Self::try_new).
    pub fn new(backends: Backends<S>, affinity: impl Affinity) -> Self {
        match Self::try_new(backends, affinity) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`new`](Self::new), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When the affinity's configuration cannot work: it says what was wrong, and what to do.
    pub fn try_new(backends: Backends<S>, affinity: impl Affinity) -> Result<Self, ConfigError> {
        let affinity = affinity.bind(backends.name())?;
        if affinity.remembers() {
            backends.pool().remembers(affinity.idle_for());
        }
        let core = Core {
            backends,
            affinity,
            strategy: Arc::new(LeastConnections::new()),
            clock: Arc::new(SystemClock),
            local: None,
            bypass: None,
            actions: Actions::default(),
            first_choices: Arc::default(),
            ids: Arc::new(Chance::new()),
            rebalancer: None,
            options: Options::default(),
            probe: None,
        };
        Ok(Self { core: Arc::new(core), on_error: PhantomData })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            health: Settings::new(),
            unavailable: Failover::default(),
            busy: Busy::default(),
            ready_timeout: Duration::from_secs(1),
            max_waiters: 1024,
            retry_after: Duration::from_secs(1),
            retry_idempotent: false,
            panic: false,
            strict: false,
            return_from_backup: false,
            telling: Telling::default(),
            extensions: false,
            wants_latency: false,
        }
    }
}

impl<S, E> StickyLayer<S, E> {
    /// Who takes a new session; default [`LeastConnections`].
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

    /// What to do with a session whose backend is down, disabled or refuses the connection; default
    /// [`Failover::Repin`].
    #[must_use]
    pub fn on_unavailable(self, failover: Failover) -> Self {
        self.with(|core| core.options.unavailable = failover)
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
    /// them, and there are some for others. Requests whose session has no key obey the total only.
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
    /// `false`. Only idempotent requests without a body are given back; they may have been executed.
    #[must_use]
    pub fn retry_idempotent(self, retry: bool) -> Self {
        self.with(|core| core.options.retry_idempotent = retry)
    }

    /// Whether a session is served by its own backend or not at all; default `false`.
    ///
    /// Then a token that names no backend, or is not one of ours, is answered with
    /// [`UnknownSession`](crate::StickyError::UnknownSession) (410) instead of a new session, and a
    /// session whose backend cannot serve with [`Unavailable`](crate::StickyError::Unavailable) or
    /// [`Busy`](crate::StickyError::Busy) (503), whatever [`on_unavailable`](Self::on_unavailable)
    /// and [`on_busy`](Self::on_busy) say. A session that has expired begins anew.
    /// [`Wish::strict`](crate::Wish::strict) decides for one request.
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        self.with(|core| core.options.strict = strict)
    }

    /// Whether a session that a [backup](crate::BackendOptions::backup) has taken returns to a primary
    /// backend with its next request, once one is ready; default `false`: it stays, as everybody does.
    #[must_use]
    pub fn return_from_backup(self, returns: bool) -> Self {
        self.with(|core| core.options.return_from_backup = returns)
    }

    /// Whether sessions that rest move to backends that have less to do, for example after new ones
    /// have joined. Default: nobody moves who need not.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds, or when the affinity's pins do not say when their sessions were
    /// last seen: then there is no telling who rests.
    pub fn rebalance(self, rebalance: Rebalance) -> Result<Self, ConfigError> {
        if !self.core.affinity.is_dated() {
            return Err(ConfigError::new(
                "rebalance: only sealed tokens say when their session was last seen; use a sealed \
                 Cookie, Header or Envelope, alone or in a Chain",
            ));
        }
        let rebalancer = rebalance.check()?;
        self.core.backends.pool().watch_balance();
        Ok(self.with(|core| core.rebalancer = Some(Arc::new(rebalancer))))
    }

    /// Which requests neither read nor write a pin, for example those of static files and health
    /// checks; the strategy chooses for them. [`Wish::bypass`](crate::Wish::bypass) decides for one
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

    /// Whether all backends are tried when all are down, instead of failing at once; default
    /// `false`.
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
        self.with(|core| core.options.telling.extensions = extensions)
    }

    /// Whether each request tells its backend the same in headers (see
    /// [`SessionInfo`](crate::SessionInfo)), for backends in other processes. Said at all, also with
    /// `false`, it takes out what a client says in these headers. Default: neither.
    #[must_use]
    pub fn session_headers(self, headers: bool) -> Self {
        self.with(|core| {
            core.options.telling.strip = true;
            core.options.telling.headers = headers;
        })
    }

    /// How many backends a request names to which its session would go if its own failed
    /// ([`SessionInfo::replicas`](crate::SessionInfo::replicas)); default 0. State that the application
    /// has copied there is found there: for such sessions the rank alone decides, and zones do not.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        self.with(|core| core.options.telling.replicas = replicas)
    }

    /// The wall clock that dates tokens; default the system's.
    #[must_use]
    pub fn clock(self, clock: impl WallClock) -> Self {
        self.with(|core| core.clock = Arc::new(clock))
    }

    /// Errors stay errors: the service's error becomes [`StickyError`](crate::StickyError).
    #[must_use]
    pub fn propagate_errors(self) -> StickyLayer<S, Propagate> {
        StickyLayer { core: self.core, on_error: PhantomData }
    }

    /// A service of the backends alone, without an inner service.
    pub fn into_service(self) -> StickyService<S, NoInner, E> {
        StickyService::new(self.core, None)
    }

    /// A service whose `inner` service is the last resort: it answers **only** when no backend can
    /// take the request, in place of a 503, for example with a page that says sorry. Such a response
    /// is not pinned. The same as [`Layer::layer`] without [`local`](Self::local).
    pub fn last_resort<I>(&self, inner: I) -> StickyService<S, I, E> {
        self.layer(inner)
    }

    /// Starts the readiness poll now instead of with the first request, on the current Tokio
    /// runtime. Tells whether it runs: outside of a runtime it does not.
    pub fn start<Req>(&self) -> bool
    where
        S: Service<Req> + Clone + Send + Sync + 'static,
        Req: 'static,
    {
        ensure_driven::<S, Req>(&self.core)
    }

    /// The pool's handle.
    pub fn backends(&self) -> &Backends<S> {
        &self.core.backends
    }

    fn with(mut self, change: impl FnOnce(&mut Core<S>)) -> Self {
        change(Arc::make_mut(&mut self.core));
        self
    }
}

impl<S: Clone, E> StickyLayer<S, E> {
    /// Makes the wrapped service the backend `id`: this node is one of the pool's members, and the
    /// other backends are its peers. Sessions of this node are served here, others are forwarded to
    /// their node; a request that a peer has forwarded is served here and never forwarded again.
    ///
    /// If the pool has a backend `id`, the wrapped service takes its place, so that every node can
    /// be given the same list; else it is added. The pool is this node's from then on: another layer
    /// over the same handle finds nothing behind `id`.
    ///
    /// What peers say to each other travels in the header `x-sticky-forwarded`. With a sealed affinity
    /// nobody else can say it; with plain tokens and keys anyone can, and is then served by whichever
    /// node they ask.
    ///
    /// # Panics
    ///
    /// When `id` is not a [`BackendId`]; see [`try_local`](Self::try_local).
    #[must_use]
    pub fn local(self, id: &str) -> Self {
        match self.try_local(id) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`local`](Self::local), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When `id` is not a [`BackendId`].
    pub fn try_local(self, id: &str) -> Result<Self, ConfigError> {
        let id = BackendId::new(id)?;
        self.core.backends.insert_local(&id);
        Ok(self.with(|core| core.local = Some(id)))
    }
}

impl<S, I, E> Layer<I> for StickyLayer<S, E> {
    type Service = StickyService<S, I, E>;

    fn layer(&self, inner: I) -> StickyService<S, I, E> {
        StickyService::new(self.core.clone(), Some(Arc::new(inner)))
    }
}

impl<S, E> Clone for StickyLayer<S, E> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), on_error: PhantomData }
    }
}

impl<S, E> fmt::Debug for StickyLayer<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl<S> Clone for Core<S> {
    fn clone(&self) -> Self {
        Self {
            backends: self.backends.clone(),
            affinity: self.affinity.clone(),
            strategy: self.strategy.clone(),
            clock: self.clock.clone(),
            local: self.local.clone(),
            bypass: self.bypass.clone(),
            actions: self.actions.clone(),
            first_choices: self.first_choices.clone(),
            ids: self.ids.clone(),
            rebalancer: self.rebalancer.clone(),
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
