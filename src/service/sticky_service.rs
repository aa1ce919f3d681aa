//! `StickyService`: sends each request to the backend of its session.

use std::{
    convert::Infallible,
    fmt,
    future::{Pending, pending},
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    dispatch::{Core, Dispatch, Explanation, HeldPin},
    error::BoxError,
    health::Answers,
    pool::Backends,
    service::{NoBody, OnError, ResponseFuture, StickyBody},
};

/// Sends each request to the backend of its session; created by [`StickyLayer`](crate::StickyLayer).
///
/// It is always ready, because the backend is known only once the request is. The future then waits for a
/// clone of that backend's service, and calls that same clone. Requests are never cloned, and neither
/// requests nor bodies need to be `Clone` or `Sync`.
///
/// Clones are cheap and share all state.
pub struct StickyService<S, I = NoInner, E = crate::service::Respond> {
    core: Arc<Core<S>>,
    /// Shared, so that `I` is only cloned when it is needed, and not with the service or for each future.
    inner: Option<Arc<I>>,
    on_error: PhantomData<fn() -> E>,
}

impl<S, I, E> StickyService<S, I, E> {
    pub(crate) fn new(core: Arc<Core<S>>, inner: Option<Arc<I>>) -> Self {
        Self { core, inner, on_error: PhantomData }
    }

    pub(crate) fn core(&self) -> &Core<S> {
        &self.core
    }

    /// The handle of the pool.
    pub fn backends(&self) -> &Backends<S> {
        &self.core.backends
    }

    /// Explains a request: see [`StickyLayer::explain`](crate::StickyLayer::explain).
    pub async fn explain<B>(&self, request: &Request<B>) -> Explanation
    where
        S: Clone,
    {
        self.core.explain(request).await
    }

    /// Dispatches a request, for the session that the caller holds or that the request identifies.
    // Inlined always, as otherwise the request is moved once more.
    #[inline(always)]
    pub(crate) fn call_for<B>(
        &self,
        held: Option<Arc<HeldPin>>,
        request: Request<B>,
    ) -> ResponseFuture<S, I, E, B>
    where
        S: Service<Request<B>> + Clone + Send + Sync + 'static,
        I: Service<Request<B>>,
        B: 'static,
    {
        self.core.driver().ensure::<Request<B>>();
        // Before the request is moved: what comes after a move is built beside a copy of it.
        let inner = self.inner.clone();
        let dispatch = Dispatch::new(self.core.clone(), inner.is_some(), held);
        let answers = |core: Arc<Core<S>>| -> Arc<dyn Answers> { core };
        ResponseFuture::new(dispatch, answers, request, inner)
    }
}

impl<S, I, E, B, RB, IB> Service<Request<B>> for StickyService<S, I, E>
where
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>>,
    S: Clone + Send + Sync + 'static,
    RB: Body<Data = Bytes, Error: Into<BoxError>>,
    I: Service<Request<B>, Response = Response<IB>, Error: Into<BoxError>> + Clone,
    IB: Body<Data = Bytes, Error: Into<BoxError>>,
    E: OnError,
    B: 'static,
{
    type Response = Response<StickyBody<RB, IB>>;
    type Error = E::Error;
    type Future = ResponseFuture<S, I, E, B>;

    /// Always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.call_for(None, request)
    }
}

impl<S, I, E> Clone for StickyService<S, I, E> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), inner: self.inner.clone(), on_error: PhantomData }
    }
}

impl<S, I, E> fmt::Debug for StickyService<S, I, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyService").field("layer", &self.core).finish_non_exhaustive()
    }
}

/// The inner service of a [`StickyService`] without one; it is never called.
#[derive(Debug, Clone)]
pub struct NoInner(());

impl<B> Service<Request<B>> for NoInner {
    type Response = Response<NoBody>;
    type Error = Infallible;
    type Future = Pending<Result<Response<NoBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        pending()
    }
}
