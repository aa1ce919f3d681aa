//! `StickyLayer`: builds sticky services from a policy and a set of backends.

use std::{fmt, marker::PhantomData, sync::Arc};

use tower_layer::Layer;
use tower_service::Service;

use crate::{
    affinity::Affinity,
    dispatch::{Core, Explanation, Options},
    error::ConfigError,
    id::BackendId,
    pool::Backends,
    service::{NoInner, Propagate, Respond, StickyService},
    session::ActionHeader,
    strategy::LeastConnections,
    util::{Rng, SystemClock},
};

/// Keeps each session on its backend, with a policy and a set of backends.
///
/// The service that the layer wraps has one of three roles:
///
/// - **none**: [`into_service`](Self::into_service) creates a service from the backends alone, for a
///   gateway or a client;
/// - **the local node**: with [`local`](Self::local) the wrapped service is one of the backends, and
///   the others are its peers;
/// - **the last resort**: otherwise the wrapped service answers **only when no backend can serve the
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
/// // `node` creates any clonable Tower service, for example a `proxy::Upstream`.
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
    /// A layer over `backends` that recognises sessions by `affinity`. Errors are converted to responses: see
    /// [`Respond`] and [`propagate_errors`](Self::propagate_errors).
    ///
    /// # Panics
    ///
    /// When the affinity's configuration is invalid, with the message of the error. For configuration that
    /// is not known at compile time, see [`try_new`](Self::try_new).
    pub fn new(backends: Backends<S>, affinity: impl Affinity) -> Self {
        match Self::try_new(backends, affinity) {
            Ok(layer) => layer,
            #[expect(clippy::panic, reason = "documented; the `try_` variant returns the error")]
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`new`](Self::new), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// When the affinity's configuration is invalid.
    #[expect(clippy::needless_pass_by_value, reason = "callers build it in place")]
    pub fn try_new(backends: Backends<S>, affinity: impl Affinity) -> Result<Self, ConfigError> {
        let affinity = affinity.bind(backends.name())?;
        let remembers = affinity.remembers();
        if remembers {
            backends.pool().track_external_pins(affinity.idle_timeout());
        }
        let idle_timeout = affinity.idle_timeout().map_or(0, |timeout| timeout.as_secs());
        let core = Core {
            backends,
            affinity,
            remembers,
            idle_timeout: idle_timeout.min(u64::from(u32::MAX)) as u32,
            strategy: Arc::new(LeastConnections::new()),
            wants_latency: false,
            clock: Arc::new(SystemClock),
            local: None,
            bypass: None,
            actions: ActionHeader::default(),
            shared_choices: Arc::default(),
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
    /// Returns errors instead of converting them to responses: the service's error becomes
    /// [`StickyError`](crate::StickyError).
    #[must_use]
    pub fn propagate_errors(self) -> StickyLayer<S, Propagate> {
        StickyLayer { core: self.core, on_error: PhantomData }
    }

    /// A service from the backends alone, without an inner service.
    pub fn into_service(self) -> StickyService<S, NoInner, E> {
        StickyService::new(self.core, None)
    }

    /// A service whose `inner` service is the last resort: it answers **only** when no backend can serve the
    /// request, instead of a 503, for example with an error page. Its responses set no pin. The same as
    /// [`Layer::layer`] without [`local`](Self::local).
    pub fn last_resort<I>(&self, inner: I) -> StickyService<S, I, E> {
        self.layer(inner)
    }

    /// Starts the readiness poll now instead of with the first request, on the current Tokio runtime.
    /// Returns whether it runs; outside of a runtime it does not.
    pub fn start<Req>(&self) -> bool
    where
        S: Service<Req> + Clone + Send + Sync + 'static,
        Req: 'static,
    {
        self.core.driver().ensure::<Req>()
    }

    /// Starts the readiness poll and the probes of this layer in place of those of another layer over the same
    /// pool, for a configuration that is changed at run time. What is known of the backends stays, but for what
    /// probes have found if this layer has none. Returns whether they run; outside of a Tokio runtime they do not.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_sticky::{Health, StickyLayer};
    /// # fn change<S>(layer: StickyLayer<S>) -> StickyLayer<S>
    /// # where
    /// #     S: tower_service::Service<http::Request<()>> + Clone + Send + Sync + 'static,
    /// # {
    /// let changed = layer.clone().health(Health::new().connect_failures(3));
    /// changed.start_over::<http::Request<()>>();
    /// # changed
    /// # }
    /// ```
    pub fn start_over<Req>(&self) -> bool
    where
        S: Service<Req> + Clone + Send + Sync + 'static,
        Req: 'static,
    {
        self.core.driver().replace::<Req>()
    }

    /// Explains a request: what it carries, whose it is, and what would happen to it now, and why. Nothing is sent,
    /// counted or changed: no session is touched, not even in a store.
    ///
    /// Moves that a session may make although it could stay are not foreseen: for the balance, from a backup, and out
    /// of a drain.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_sticky::{Backends, StickyLayer, Verdict, affinity};
    ///
    /// let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
    /// let layer = StickyLayer::new(backends, affinity::Cookie::plain("SERVER_ID"));
    /// let request = http::Request::builder().header("cookie", "SERVER_ID=b").body(())?;
    /// let explanation = layer.explain(&request).await;
    /// assert_eq!(explanation.forecast.verdict, Verdict::Pinned);
    /// assert_eq!(explanation.forecast.backend.unwrap().as_str(), "b");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain<B>(&self, request: &http::Request<B>) -> Explanation
    where
        S: Clone,
    {
        self.core.explain(request).await
    }

    /// The handle of the pool.
    pub fn backends(&self) -> &Backends<S> {
        &self.core.backends
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Core<S>)) -> Self {
        change(Arc::make_mut(&mut self.core));
        self
    }
}

impl<S: Clone, E> StickyLayer<S, E> {
    /// Makes the wrapped service the backend `id`: this node is a member of the pool, and the other
    /// backends are its peers. The node serves its own sessions, and forwards requests of other sessions to
    /// their nodes. A request that a peer has forwarded is served here and never forwarded again.
    ///
    /// If the pool has a backend `id`, the wrapped service replaces it, so that every node can have the same
    /// list; else it is added. The pool then belongs to this layer: for another layer over the same handle,
    /// the backend `id` has no service.
    ///
    /// Forwarded requests are marked by the header `x-sticky-forwarded`. With a sealed affinity only peers
    /// can set it. With plain tokens and keys any client can, and is then served by the node that receives
    /// the request.
    ///
    /// # Panics
    ///
    /// When `id` is not a [`BackendId`]; see [`try_local`](Self::try_local).
    #[must_use]
    pub fn local(self, id: &str) -> Self {
        match self.try_local(id) {
            Ok(layer) => layer,
            #[expect(clippy::panic, reason = "documented; the `try_` variant returns the error")]
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`local`](Self::local), with an error instead of a panic.
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
