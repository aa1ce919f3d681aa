//! [`SessionScope`]: the layer that sets the scope of each request.

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

/// Sets the [`Scope`] of each request to a backend's application, which the stores of this module use. It
/// must be **outside** the layer of tower-sessions.
///
/// The scope ends when the response is returned, so it does not cover work of the response's body. The
/// [`SessionInfo`] is also added to the request's extensions.
///
/// tower-sessions responds with 500 if it cannot save. If a store has
/// [refused](crate::session_data::Refused) the save, this layer changes that to 409 (Conflict): the client
/// may retry. If the pin of the request is outdated, so that its saves would be refused again, the layer
/// also adds [`SessionAction::End`] to the response. The session then gets a new pin with the next request,
/// and keeps its data.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::{FencedCache, MemoryStore, SessionScope};
///
/// // Use a `RedisStore` in place of `store` if the backends are several processes.
/// let (cache, store) = (MemoryStore::new(), MemoryStore::new());
/// let app: Router = Router::new()
///     .route("/cart", get(|| async { "a cart" }))
///     .layer(SessionManagerLayer::new(FencedCache::new(cache, store)))
///     // The gateway is another process, with `StickyLayer::session_headers(true)`.
///     .layer(SessionScope::from_headers());
/// ```
#[derive(Debug, Clone)]
pub struct SessionScope {
    headers: bool,
    action: Option<HeaderName>,
}

impl SessionScope {
    /// Reads the [`SessionInfo`] from the request's extensions, for a gateway in the same process that has
    /// [`session_extensions`](crate::StickyLayer::session_extensions) enabled.
    pub const fn new() -> Self {
        Self { headers: false, action: None }
    }

    /// Reads the [`SessionInfo`] from the request's extensions, or else from the headers that a gateway adds
    /// with [`session_headers`](crate::StickyLayer::session_headers).
    ///
    /// Only for an application that clients can reach only through such a gateway, which removes these
    /// headers from their requests: with a forged epoch a client could lock the owner of a session out.
    pub const fn from_headers() -> Self {
        Self { headers: true, action: None }
    }

    /// The response header that tells the gateway to end an outdated pin. It must be the gateway's
    /// [`application_header`](crate::StickyLayer::application_header). By default only the response's
    /// extensions are used, for a gateway in the same process.
    ///
    /// # Errors
    ///
    /// When `name` is not a header name, or is one that HTTP itself defines.
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
        let scope = info.map(Scope::new);
        if let Some(scope) = &scope {
            request.extensions_mut().insert(scope.clone());
        }
        let future = scope::enter_sync(scope.clone(), || self.inner.call(request));
        let action = self.options.action.clone();
        ScopedFuture { scoped: scope::enter(scope.clone(), future), scope, action }
    }
}

pin_project! {
    /// The future of [`ScopedService`].
    pub struct ScopedFuture<F> {
        #[pin]
        scoped: TaskLocalFuture<Option<Scope>, F>,
        scope: Option<Scope>,
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
        let mut result = ready!(this.scoped.poll(cx));
        if let (Ok(response), Some(scope)) = (&mut result, this.scope)
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
        Poll::Ready(result)
    }
}

impl<F> std::fmt::Debug for ScopedFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScopedFuture").field("scope", &self.scope).finish_non_exhaustive()
    }
}
