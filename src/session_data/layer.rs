//! The layer that gives each request its scope.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::scope::{self, Scope};
use crate::{
    affinity::header_name,
    error::ConfigError,
    session::{SessionAction, SessionInfo},
};

/// Gives each request of a backend's application its [`Scope`], by which the stores of this module go.
/// It goes **around** the layer of tower-sessions.
///
/// The scope lasts until the response is there; work that its body does later is not in it. The
/// [`SessionInfo`] is in the request's extensions too.
///
/// tower-sessions answers 500 when it cannot save. Where a store has [refused](crate::session_data::Refused) to, this
/// layer makes 409 (Conflict) of that: the client may try again. When the request's pin itself is out of
/// date, so that it would be refused again, it also says [`SessionAction::End`], and the session gets a
/// new pin with the next request: the data stays.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::{FencedCache, MemoryStore, SessionScope};
///
/// // The store stands for a `RedisStore`, which all backends share.
/// let (cache, store) = (MemoryStore::new(), MemoryStore::new());
/// let app: Router = Router::new()
///     .route("/cart", get(|| async { "a cart" }))
///     .layer(SessionManagerLayer::new(FencedCache::new(cache, store)))
///     // The gateway is another process: `StickyLayer::session_headers(true)`.
///     .layer(SessionScope::from_headers());
/// ```
#[derive(Debug, Clone)]
pub struct SessionScope {
    headers: bool,
    action: Option<HeaderName>,
}

impl SessionScope {
    /// Takes the [`SessionInfo`] from the request's extensions: the gateway is in this process, and says
    /// [`session_extensions`](crate::StickyLayer::session_extensions).
    pub const fn new() -> Self {
        Self { headers: false, action: None }
    }

    /// Takes it from the extensions, else from the headers that the gateway writes with
    /// [`session_headers`](crate::StickyLayer::session_headers).
    ///
    /// Only for an application that nobody reaches but through a gateway of yours, which takes out what
    /// clients say in these headers: an epoch from a client would lock the owner of a session out.
    pub const fn from_headers() -> Self {
        Self { headers: true, action: None }
    }

    /// The response header in which the gateway is told that a pin is out of date: what its
    /// [`application_header`](crate::StickyLayer::application_header) says. Default: only in the
    /// response's extensions, for a gateway in this process.
    ///
    /// # Errors
    ///
    /// When `name` is not a header name, or is one that HTTP itself uses.
    pub fn application_header(mut self, name: &str) -> Result<Self, ConfigError> {
        self.action = Some(header_name(name)?);
        Ok(self)
    }
}

impl Default for SessionScope {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for SessionScope {
    type Service = ScopedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ScopedService { inner, options: self.clone() }
    }
}

/// The service of [`SessionScope`].
#[derive(Debug, Clone)]
pub struct ScopedService<S> {
    inner: S,
    options: SessionScope,
}

impl<S, B, R> Service<Request<B>> for ScopedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ScopedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut info = SessionInfo::of(request.extensions()).cloned();
        if info.is_none() && self.options.headers {
            info = SessionInfo::from_headers(request.headers());
            if let Some(info) = &info {
                request.extensions_mut().insert(info.clone());
            }
        }
        let current = info.map(Scope::new);
        if let Some(current) = &current {
            request.extensions_mut().insert(current.clone());
        }
        let future = scope::enter_sync(current.clone(), || self.inner.call(request));
        let action = self.options.action.clone();
        ScopedFuture { scoped: scope::enter(current.clone(), future), current, action }
    }
}

pin_project! {
    /// The future of [`ScopedService`].
    pub struct ScopedFuture<F> {
        #[pin]
        scoped: TaskLocalFuture<Option<Scope>, F>,
        current: Option<Scope>,
        action: Option<HeaderName>,
    }
}

impl<F, R, E> Future for ScopedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.scoped.poll(cx));
        if let (Ok(response), Some(scope)) = (&mut answer, this.current)
            && scope.refused().is_some()
        {
            if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
                *response.status_mut() = StatusCode::CONFLICT;
            }
            if scope.has_stale_pin() {
                if let Some(name) = this.action.take() {
                    response.headers_mut().insert(name, HeaderValue::from_static("end"));
                }
                response.extensions_mut().insert(SessionAction::End);
            }
        }
        Poll::Ready(answer)
    }
}

impl<F> std::fmt::Debug for ScopedFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScopedFuture").field("current", &self.current).finish_non_exhaustive()
    }
}
