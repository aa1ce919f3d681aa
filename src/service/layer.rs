//! The policy of a sticky service, and its builder.

use std::{fmt, marker::PhantomData, sync::Arc};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    affinity::Affinity,
    dispatch::{Core, Options},
    error::ConfigError,
    id::BackendId,
    pool::Backends,
    service::{NoInner, Propagate, Respond, StickyService},
    session::ActionHeader,
    strategy::LeastConnections,
    util::{Rng, SystemClock},
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
    pub(super) core: Arc<Core<S>>,
    on_error: PhantomData<fn() -> E>,
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
            #[expect(clippy::panic, reason = "documented; there is a way that returns the error")]
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`new`](Self::new), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When the affinity's configuration cannot work: it says what was wrong, and what to do.
    #[expect(clippy::needless_pass_by_value, reason = "callers build it in place")]
    pub fn try_new(backends: Backends<S>, affinity: impl Affinity) -> Result<Self, ConfigError> {
        let affinity = affinity.bind(backends.name())?;
        let remembers = affinity.remembers();
        if remembers {
            backends.pool().track_external_pins(affinity.idle_timeout());
        }
        let idle_for = affinity.idle_timeout().map_or(0, |idle| idle.as_secs());
        let core = Core {
            backends,
            affinity,
            remembers,
            idle_for: idle_for.min(u64::from(u32::MAX)) as u32,
            strategy: Arc::new(LeastConnections::new()),
            clock: Arc::new(SystemClock),
            local: None,
            bypass: None,
            actions: ActionHeader::default(),
            first_choices: Arc::default(),
            ids: Arc::new(Rng::new()),
            rebalancer: None,
            before_move: None,
            options: Options::default(),
            probe: None,
        };
        Ok(Self { core: Arc::new(core), on_error: PhantomData })
    }
}

impl<S, E> StickyLayer<S, E> {
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
        self.core.ensure_driver::<Req>()
    }

    /// The pool's handle.
    pub fn backends(&self) -> &Backends<S> {
        &self.core.backends
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Core<S>)) -> Self {
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
            #[expect(clippy::panic, reason = "documented; there is a way that returns the error")]
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
