//! The end of a backend's work: its sessions end one by one, or a deadline comes.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Backends, PoolError};
use crate::{
    id::BackendId,
    outcome::Failover,
    util::{Limiter, clock, string_enum::words},
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

/// A drain that is to begin: from [`Backends::drain`]. It begins when it is awaited or
/// [started](Self::start).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_sticky::PoolError> {
/// use std::time::Duration;
/// use tower_sticky::{Backends, DrainEnd};
///
/// let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
/// let report = backends.drain("a").deadline(Duration::from_secs(600)).await?;
/// assert_eq!(report.end, DrainEnd::Completed, "nobody was there");
/// backends.remove("a")?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a drain begins when it is awaited or started"]
pub struct Drain<S> {
    backends: Backends<S>,
    id: String,
    deadline: Option<Duration>,
    then: Failover,
    idle_for: Option<Duration>,
    hand_over: Option<u32>,
}

impl<S> Drain<S> {
    pub(super) fn new(backends: Backends<S>, id: &str) -> Self {
        let then = Failover::Repin;
        let id = id.to_owned();
        Self { backends, id, deadline: None, then, idle_for: None, hand_over: None }
    }

    /// How long it may take at most. After that the backend gets no more requests, whatever was counted,
    /// also when the drain has been reported as completed before: see
    /// [`Mode::Drained`](crate::Mode::Drained). Streams and upgraded connections that are still open
    /// are cut off: these are responses whose reader had to wait for more. A request that is not answered
    /// yet is left to finish, and so is an answer that has come and is not read yet. Default: no
    /// deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// What becomes of sessions that come after the deadline; default [`Failover::Repin`].
    pub fn then(mut self, failover: Failover) -> Self {
        self.then = failover;
        self
    }

    /// For how long a session must not have been seen to count as ended. Default: for as long as its
    /// affinity remembers an idle session, which is its idle timeout, else its absolute timeout, else
    /// 30 minutes.
    pub fn idle_for(mut self, idle: Duration) -> Self {
        self.idle_for = Some(idle);
        self
    }

    /// Lets its sessions move to other backends now instead of staying until they end: each with its
    /// next request, at most `max_per_second` of them, once
    /// [`before_move`](crate::StickyLayer::before_move) has carried its state over. Those that could not
    /// be carried over stay for now. Default: nobody moves before the deadline.
    ///
    /// Of many hundred sessions, the number of those that are left is an estimate, and the drain may
    /// end while some that rest are there yet: the backend goes on serving them.
    ///
    /// A session moves to the backend that ranks first for it of those that are ready, as in a failure.
    pub fn hand_over(mut self, max_per_second: u32) -> Self {
        self.hand_over = Some(max_per_second);
        self
    }

    /// Begins now. The drain goes on when the handle that is returned is dropped; it is cancelled by
    /// [`Backends::set_mode`].
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn start(self) -> Result<Draining<S>, PoolError> {
        let (now, report) = (Instant::now(), watch::Sender::new(None));
        let plan = Plan {
            started: now,
            deadline: self.deadline.map(|deadline| clock::after(now, deadline)),
            then: self.then,
            hand_over: self.hand_over.map(|rate| Arc::new(Limiter::new(rate))),
            idle_for: self.idle_for,
            sessions_before: None,
            is_reported: false,
            last_told: None,
            report: report.clone(),
        };
        self.backends.pool().begin_drain(&self.id, plan)?;
        Ok(Draining { backends: self.backends, report: report.subscribe() })
    }
}

impl<S: Send + Sync + 'static> IntoFuture for Drain<S> {
    type Output = Result<DrainReport, PoolError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.start()?.ended().await) })
    }
}

/// A drain under way: from [`Drain::start`].
pub struct Draining<S> {
    backends: Backends<S>,
    report: watch::Receiver<Option<DrainReport>>,
}

impl<S> Draining<S> {
    /// Waits for its end.
    pub async fn ended(mut self) -> DrainReport {
        loop {
            // Looked after by the pool's task as well, but nobody may have started that.
            let due = self.backends.pool().housekeep(Instant::now());
            if let Some(report) = &*self.report.borrow_and_update() {
                return report.clone();
            }
            // The sender is dropped only after its report was sent.
            let _ = timeout_at(due, self.report.changed()).await;
        }
    }
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
    phase: watch::Receiver<Phase>,
}

impl DrainSignal {
    /// Waits until the backend is being drained; for ever if that never happens.
    pub async fn begun(&mut self) {
        self.wait(|phase| *phase != Phase::Serving).await;
    }

    /// Waits until the deadline of a drain has come; for ever if that never happens.
    pub async fn over(&mut self) {
        self.wait(|phase| *phase == Phase::Over).await;
    }

    async fn wait(&mut self, until: impl FnMut(&Phase) -> bool) {
        if self.phase.wait_for(until).await.is_err() {
            // The backend and all that it had to do are gone, so nobody is drained any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    #[default]
    Serving,
    Draining,
    /// The deadline of a drain has come.
    Over,
}

/// What was said of a drain, until it ends.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) started: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) then: Failover,
    pub(super) idle_for: Option<Duration>,
    /// How many sessions may leave, if they are to.
    pub(super) hand_over: Option<Arc<Limiter>>,
    pub(super) sessions_before: Option<u64>,
    /// Whether its end was reported, though its deadline is still to come.
    pub(super) is_reported: bool,
    /// The progress that was told last: requests in flight, streams and sessions.
    pub(super) last_told: Option<(usize, usize, Option<u64>)>,
    /// Where the report goes.
    pub(super) report: watch::Sender<Option<DrainReport>>,
}

/// The drain of one backend.
#[derive(Debug, Default)]
pub(super) struct Drainage {
    phase: watch::Sender<Phase>,
    plan: Mutex<Option<Plan>>,
}

impl Drainage {
    pub(super) fn plan(&self) -> MutexGuard<'_, Option<Plan>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more session may leave now; it counts as gone.
    pub(super) fn lets_go(&self) -> bool {
        let limiter = self.plan().as_ref().and_then(|plan| plan.hand_over.clone());
        limiter.is_some_and(|limiter| limiter.admits())
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn signal(&self) -> DrainSignal {
        DrainSignal { phase: self.phase.subscribe() }
    }
}

impl<S> fmt::Debug for Drain<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("backend", &self.id)
            .field("deadline", &self.deadline)
            .field("then", &self.then)
            .field("idle_for", &self.idle_for)
            .field("hand_over", &self.hand_over)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Draining<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").field("report", &*self.report.borrow()).finish_non_exhaustive()
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainSignal").field("phase", &*self.phase.borrow()).finish()
    }
}
