//! The drain of one backend: its plan and phase, its report, and the signal to its users.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    id::BackendId,
    outcome::Failover,
    util::{RateLimiter, clock, lock, string_enum::words},
};

words! {
    /// How a drain ended.
    DrainEnd {
        /// The last session has ended.
        Completed = "completed",
        /// The deadline has passed: the remaining sessions go elsewhere, and streams were cut off.
        Deadline = "deadline",
        /// The mode was set, or another drain was begun.
        Cancelled = "cancelled",
        /// The backend was removed.
        Left = "left",
    }
}

/// The result of a drain: how it ended, and what was left. It is what a [`Drain`](crate::Drain)
/// resolves to, and it is in the [`Event`](crate::Event) of the end of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// The backend.
    pub backend: BackendId,
    /// How it ended.
    pub end: DrainEnd,
    /// How long it took.
    pub elapsed: Duration,
    /// The number of sessions at its beginning, an estimate; `None` when they cannot be told apart, or had
    /// not been counted for long enough: see [`BackendStatus::sessions`](crate::BackendStatus::sessions).
    pub sessions_before: Option<u64>,
    /// The number of sessions that are left, an estimate.
    pub sessions_left: Option<u64>,
    /// Requests that are still in flight, streams included.
    pub in_flight: usize,
    /// Streams that were cut off.
    pub streams_cut: usize,
}

/// Tells a task that works for the sessions of a backend when to finish.
///
/// From [`Backends::drain_signal`](crate::Backends::drain_signal) and
/// [`UpgradeEnd::signal`](crate::UpgradeEnd::signal).
///
/// # Example
///
/// ```
/// # async fn close() {}
/// # async fn serve(mut signal: tower_sticky::DrainSignal) {
/// tokio::select! {
///     () = signal.begun() => close().await, // ask the client to reconnect
///     () = std::future::pending() => {}     // the work
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct DrainSignal {
    phase: watch::Receiver<DrainPhase>,
}

impl DrainSignal {
    /// Waits until the backend is being drained. Never resolves if that does not happen.
    pub async fn begun(&mut self) {
        self.wait(|phase| *phase != DrainPhase::Serving).await;
    }

    /// Waits until the deadline of a drain has passed. Never resolves if that does not happen.
    pub async fn over(&mut self) {
        self.wait(|phase| *phase == DrainPhase::Ended).await;
    }

    async fn wait(&mut self, until: impl FnMut(&DrainPhase) -> bool) {
        if self.phase.wait_for(until).await.is_err() {
            // The state of the backend was dropped, so no drain can begin.
            std::future::pending::<()>().await;
        }
    }
}

/// The phase of the drain of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DrainPhase {
    #[default]
    Serving,
    Draining,
    /// The deadline has passed.
    Ended,
}

/// The options and progress of a drain, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct DrainPlan {
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) then: Failover,
    pub(crate) idle_for: Option<Duration>,
    /// Limits the rate at which sessions move to other backends; `None` if they stay.
    pub(crate) handoffs: Option<Arc<RateLimiter>>,
    pub(crate) sessions_before: Option<u64>,
    /// Whether its completion was reported while its deadline has not passed.
    pub(crate) is_reported: bool,
    /// The progress that was last published: requests in flight, streams and sessions.
    pub(crate) last_progress: Option<(usize, usize, Option<u64>)>,
    /// Sends the report to those that wait for the end.
    pub(crate) report: watch::Sender<Option<DrainReport>>,
}

impl DrainPlan {
    /// A drain that begins now, with a limit of its time if there is one.
    pub(crate) fn new(deadline: Option<Duration>) -> Self {
        let started = Instant::now();
        Self {
            started,
            deadline: deadline.map(|deadline| clock::after(started, deadline)),
            then: Failover::Repin,
            idle_for: None,
            handoffs: None,
            sessions_before: None,
            is_reported: false,
            last_progress: None,
            report: watch::Sender::new(None),
        }
    }
}

/// The progress of a drain, in [`BackendStatus::drain`](crate::BackendStatus::drain).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainStatus {
    /// How long it has been going on.
    pub elapsed: Duration,
    /// The time until its deadline, if it has one.
    pub remaining: Option<Duration>,
    /// The number of sessions at its beginning, as in [`DrainReport::sessions_before`].
    pub sessions_before: Option<u64>,
    /// Whether no session is left. It continues until its deadline.
    pub completed: bool,
}

impl DrainStatus {
    pub(in crate::pool) fn of(plan: &DrainPlan) -> Self {
        let now = Instant::now();
        Self {
            elapsed: now.saturating_duration_since(plan.started),
            remaining: plan.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            sessions_before: plan.sessions_before,
            completed: plan.is_reported,
        }
    }
}

/// The drain of one backend, if any.
#[derive(Debug, Default)]
pub(crate) struct DrainState {
    phase: watch::Sender<DrainPhase>,
    plan: Mutex<Option<DrainPlan>>,
}

impl DrainState {
    pub(crate) fn plan(&self) -> MutexGuard<'_, Option<DrainPlan>> {
        lock(&self.plan)
    }

    /// Whether sessions may move at all.
    pub(crate) fn hands_over(&self) -> bool {
        self.plan().as_ref().is_some_and(|plan| plan.handoffs.is_some())
    }

    /// Whether one more session may move now. A session that may move is counted.
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::streams::OpenStreams;

    /// Not in the file of the streams, which the models include.
    #[test]
    fn streams_that_were_open_are_cut_and_later_ones_are_not() {
        let streams = OpenStreams::new();
        let (mut first, mut second) = (None, None);
        assert!(streams.register(&mut first, 7, || 3, Waker::noop()));
        let id = first.unwrap();
        assert!(!streams.is_cut(&id));
        assert_eq!((streams.since(&id), streams.has_session(7)), (Some(3), true));
        assert_eq!(streams.cut(), 1);
        assert!(streams.is_cut(&id));
        assert!(!streams.register(&mut Some(id), 7, || 4, Waker::noop()), "it must end");
        assert!(streams.register(&mut second, 8, || 5, Waker::noop()));
        assert!(!streams.is_cut(&second.unwrap()));
        streams.end(id);
        assert!(!streams.has_session(7) && streams.has_session(8));
    }
}
