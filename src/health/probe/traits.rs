//! The `Probe` trait, and its type-erased form.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{
    error::{BoxError, ConfigError},
    id::BackendId,
};

/// An active health check of a backend, through the backend's own service.
///
/// A closure that takes the service and the backend's id is a probe:
///
/// ```
/// # #[derive(Clone)] struct Database;
/// # impl Database { async fn ping(&self) -> Result<(), std::io::Error> { Ok(()) } }
/// use tower_sticky::{BackendId, Health};
///
/// let health = Health::new().probe(|database: Database, _: BackendId| async move {
///     database.ping().await
/// });
/// ```
///
/// See [`Health::probe`](crate::Health::probe) for when probes run and what their results do.
pub trait Probe<S>: Send + Sync + 'static {
    /// Probes once. An error is a failed probe; its text is shown in
    /// [`BackendStatus::probe_failure`](crate::BackendStatus::probe_failure). A panic is a failed probe
    /// as well, and so is a future that takes longer than
    /// [`Health::probe_timeout`](crate::Health::probe_timeout), which is dropped.
    ///
    /// `service` is a clone that is ready, so it may be called once. It should be dropped before the
    /// future resolves, as it may hold a permit.
    fn probe(
        &self,
        service: S,
        backend: &BackendId,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Checks the configuration, when a layer is given the probe. Default: valid.
    ///
    /// # Errors
    ///
    /// When the configuration is invalid.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    #[doc(hidden)]
    fn is_none(&self) -> bool {
        false
    }
}

impl<S, F, A, E> Probe<S> for F
where
    S: Send,
    F: Fn(S, BackendId) -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    async fn probe(&self, service: S, backend: &BackendId) -> Result<(), BoxError> {
        self(service, backend.clone()).await.map_err(Into::into)
    }
}

/// No probe: the default of [`Health`](crate::Health).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoProbe;

impl<S: Send> Probe<S> for NoProbe {
    async fn probe(&self, _: S, _: &BackendId) -> Result<(), BoxError> {
        Ok(())
    }

    fn is_none(&self) -> bool {
        true
    }
}

/// Any probe of services of type `S`.
pub(crate) struct AnyProbe<S>(Arc<dyn Erased<S>>);

pub(super) trait Erased<S>: Send + Sync {
    fn probe<'a>(&'a self, service: S, backend: &'a BackendId) -> ProbeFuture<'a>;
}

pub(super) type ProbeFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

impl<S: 'static, P: Probe<S>> Erased<S> for P {
    fn probe<'a>(&'a self, service: S, backend: &'a BackendId) -> ProbeFuture<'a> {
        Box::pin(Probe::probe(self, service, backend))
    }
}

impl<S: 'static> AnyProbe<S> {
    /// Checks and erases a probe; `None` for [`NoProbe`].
    pub(crate) fn new<P: Probe<S>>(probe: P) -> Result<Option<Self>, ConfigError> {
        probe.check()?;
        Ok((!probe.is_none()).then(|| Self(Arc::new(probe))))
    }

    pub(crate) fn probe<'a>(&'a self, service: S, backend: &'a BackendId) -> ProbeFuture<'a> {
        self.0.probe(service, backend)
    }
}

impl<S> Clone for AnyProbe<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
