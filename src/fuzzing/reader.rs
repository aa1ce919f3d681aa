//! Reading the token of a request, without anything that follows from it.

use std::sync::Arc;

use http::Request;

use crate::{
    affinity::{Affinity, BoundAffinity, Head, ReadContext, RequestState},
    error::ConfigError,
    outcome::Reason,
    pool::Backends,
    util::WallClock,
};

/// Reads requests as the layer does, for one affinity and pool.
#[derive(Debug)]
pub struct Reader<S> {
    affinity: Arc<dyn BoundAffinity>,
    backends: Backends<S>,
    clock: Arc<dyn WallClock>,
}

impl<S: Clone> Reader<S> {
    /// # Errors
    ///
    /// When the affinity is not configured well.
    pub fn new(
        backends: Backends<S>,
        affinity: &impl Affinity,
        clock: impl WallClock,
    ) -> Result<Self, ConfigError> {
        let affinity = affinity.bind(backends.name())?;
        Ok(Self { affinity, backends, clock: Arc::new(clock) })
    }

    /// The position of the backend of the pin.
    ///
    /// # Errors
    ///
    /// Why the token was rejected; `None` without one.
    #[inline(never)]
    pub fn read<B>(&self, request: &Request<B>) -> Result<usize, Option<Reason>> {
        let snapshot = self.backends.pool().load();
        let mut state = RequestState::default();
        let mut context = ReadContext {
            index: snapshot.index(),
            clock: &*self.clock,
            state: &mut state,
            idle_threshold: None,
            pending: None,
            fallback: None,
        };
        let reading = self.affinity.read(&Head::of(request), &mut context);
        reading.position.ok_or(reading.reason)
    }
}
