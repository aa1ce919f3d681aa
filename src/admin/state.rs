//! `Admin`: what the handlers of the admin interface share.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::{
    application::{Application, Change},
    pool::AnyPool,
};
use crate::pool::PoolError;

/// The stage of an application between its start and its end: see [`AdminRouter::stage`](super::AdminRouter::stage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It serves.
    Serving,
    /// It finishes the requests in flight.
    Stopping,
    /// All requests have finished. Streams of events end.
    Over,
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) pool: Arc<dyn AnyPool>,
    pub(super) application: Arc<dyn Application>,
    /// `None` for an application that does not say.
    pub(super) stage: Option<watch::Receiver<Stage>>,
    /// The places of those that follow the events.
    pub(super) listeners: Arc<Semaphore>,
    /// Whether nothing may be changed.
    pub(super) read_only: bool,
    /// The paths, for the answer to a request for another one.
    pub(super) paths: Arc<str>,
}

impl Admin {
    /// Makes a change, and tells the application.
    pub(super) fn change(&self, id: &str, change: &Change) -> Result<(), PoolError> {
        self.pool.change(id, change)?;
        self.application.changed(id, change);
        tracing::info!(backend = id, ?change, "backend changed by the operator");
        Ok(())
    }

    /// Removes a backend, and tells the application.
    pub(super) fn remove(&self, id: &str) -> Result<(), PoolError> {
        match self.application.remove(id) {
            Some(removed) => removed?,
            None => self.pool.change(id, &Change::Removed)?,
        }
        self.application.changed(id, &Change::Removed);
        tracing::info!(backend = id, "backend removed by the operator");
        Ok(())
    }
}
