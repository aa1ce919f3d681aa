//! A service that is replaced while it serves: each request is served by the one of its beginning.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use tower_service::Service;

/// A handle to the service in force; clones share it. The service must always be ready.
#[derive(Debug)]
pub(crate) struct Swap<S>(Arc<ArcSwap<S>>);

impl<S> Swap<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(service)))
    }

    /// The service in force.
    pub(crate) fn get(&self) -> Arc<S> {
        self.0.load_full()
    }

    /// Serves the requests that begin from now on with `service`.
    pub(crate) fn set(&self, service: S) {
        self.0.store(Arc::new(service));
    }
}

impl<S> Clone for Swap<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, R> Service<R> for Swap<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> S::Future {
        let mut service = S::clone(&self.0.load());
        service.call(request)
    }
}
