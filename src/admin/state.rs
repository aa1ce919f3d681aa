//! `Admin`: what the handlers of the admin interface share.

use std::{future::Future, pin::Pin, sync::Arc};

use http::Request;
use tokio::sync::{Semaphore, watch};

use super::{
    access::Access,
    application::{Application, Change},
    pool::AnyPool,
    session::Sessions,
    view::PoolView,
};
use crate::{dispatch::Explanation, pool::PoolError};

/// The future of an explanation.
pub(super) type Explaining = Pin<Box<dyn Future<Output = Explanation> + Send>>;

/// Explains a request.
pub(super) type Explainer = dyn Fn(Request<()>) -> Explaining + Send + Sync;

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
    pub(super) access: Access,
    /// Of browsers that have logged in.
    pub(super) sessions: Arc<Sessions>,
    pub(super) explainer: Option<Arc<Explainer>>,
    /// The name on each page.
    pub(super) title: Arc<str>,
    /// Whether nothing may be changed.
    pub(super) read_only: bool,
    /// The paths, for the answer to a request for another one.
    pub(super) paths: Arc<str>,
}

impl Admin {
    /// What the pages show.
    pub(super) fn view(&self) -> PoolView {
        self.pool.view(&|id| self.application.about(id))
    }

    /// Explains a request, if the application has said how. An error says why not.
    pub(super) async fn explain(&self, request: Request<()>) -> Result<Explanation, String> {
        match &self.explainer {
            Some(explainer) => Ok(explainer(request).await),
            None => Err("this application has not said which layer serves the pool, so that \
                         nothing can be explained (AdminRouter::layer)"
                .to_owned()),
        }
    }

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
