//! How far the drain of one backend is, and who hears of it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    id::BackendId,
    outcome::Failover,
    util::{RateLimiter, lock, string_enum::words},
};

words! {
    /// How a drain ended.
    DrainEnd {
        /// The last session has ended.
        Completed = "completed",
        /// The deadline came: sessions that were left go elsewhere, and streams were cut off.
        Deadline = "deadline",
        /// The operator wants something else of the backend now.
        Cancelled = "cancelled",
        /// The backend was removed.
        Left = "left",
    }
}

/// What became of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// The backend.
    pub backend: BackendId,
    /// How it ended.
    pub end: DrainEnd,
    /// How long it took.
    pub elapsed: Duration,
    /// About how many sessions there were at its beginning; `None` when they cannot be told apart, or had
    /// not been watched for long enough: see [`BackendStatus::sessions`](crate::BackendStatus::sessions).
    pub sessions_before: Option<u64>,
    /// About how many are left.
    pub sessions_left: Option<u64>,
    /// Requests that are still in flight, streams included.
    pub in_flight: usize,
    /// Streams that were cut off.
    pub streams_cut: usize,
}

/// Tells something that works for the sessions of a backend when to come to an end.
///
/// # Example
///
/// ```
/// # async fn farewell() {}
/// # async fn serve(mut signal: tower_sticky::DrainSignal) {
/// tokio::select! {
///     () = signal.begun() => farewell().await, // say goodbye, and ask the client to come again
///     () = std::future::pending() => {}        // the work
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct DrainSignal {
    phase: watch::Receiver<DrainPhase>,
}

impl DrainSignal {
    /// Waits until the backend is being drained; for ever if that never happens.
    pub async fn begun(&mut self) {
        self.wait(|phase| *phase != DrainPhase::Serving).await;
    }

    /// Waits until the deadline of a drain has come; for ever if that never happens.
    pub async fn over(&mut self) {
        self.wait(|phase| *phase == DrainPhase::Ended).await;
    }

    async fn wait(&mut self, until: impl FnMut(&DrainPhase) -> bool) {
        if self.phase.wait_for(until).await.is_err() {
            // The backend and all that it had to do are gone, so nobody is drained any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DrainPhase {
    #[default]
    Serving,
    Draining,
    /// The deadline of a drain has come.
    Ended,
}

/// What was said of a drain, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct DrainPlan {
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) then: Failover,
    pub(crate) idle_for: Option<Duration>,
    /// How many sessions may leave, if they are to.
    pub(crate) handoffs: Option<Arc<RateLimiter>>,
    pub(crate) sessions_before: Option<u64>,
    /// Whether its end was reported, though its deadline is still to come.
    pub(crate) is_reported: bool,
    /// The progress that was told last: requests in flight, streams and sessions.
    pub(crate) last_progress: Option<(usize, usize, Option<u64>)>,
    /// Where the report goes.
    pub(crate) report: watch::Sender<Option<DrainReport>>,
}

/// The drain of one backend.
#[derive(Debug, Default)]
pub(crate) struct DrainState {
    phase: watch::Sender<DrainPhase>,
    plan: Mutex<Option<DrainPlan>>,
}

impl DrainState {
    pub(crate) fn plan(&self) -> MutexGuard<'_, Option<DrainPlan>> {
        lock(&self.plan)
    }

    /// Whether one more session may leave now; it counts as gone.
    pub(crate) fn admits_handoff(&self) -> bool {
        let limiter = self.plan().as_ref().and_then(|plan| plan.handoffs.clone());
        limiter.is_some_and(|limiter| limiter.admits())
    }

    pub(crate) fn set_phase(&self, phase: DrainPhase) {
        self.phase.send_replace(phase);
    }

    pub(crate) fn signal(&self) -> DrainSignal {
        DrainSignal { phase: self.phase.subscribe() }
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainSignal").field("phase", &*self.phase.borrow()).finish()
    }
}
