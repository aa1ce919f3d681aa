//! `Drain`: removes the sessions of a backend until none is left or a deadline has passed.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Backends, PoolError,
    backend::{DrainPlan, DrainReport, DrainSignal},
};
use crate::{outcome::Failover, util::RateLimiter};

/// The builder of a drain, from [`Backends::drain`]. The drain begins when this is awaited or
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
/// assert_eq!(report.end, DrainEnd::Completed, "there was no session");
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

impl<S> Backends<S> {
    /// Drains a backend: it keeps its sessions and takes no new ones. The future resolves when the last
    /// session has ended, or when the deadline has passed:
    ///
    /// - a session has ended when the application ends it ([`SessionAction::End`]), or when it has no
    ///   request in flight and was idle for as long as its affinity remembers it
    ///   ([`Drain::idle_for`]);
    /// - where the hash of a key chooses the backend, keys move to other backends immediately, and only
    ///   requests in flight count.
    ///
    /// A second drain of the same backend cancels the first one.
    ///
    /// [`SessionAction::End`]: crate::SessionAction::End
    pub fn drain(&self, id: &str) -> Drain<S> {
        Drain::new(self.clone(), id)
    }

    /// A signal for tasks that work for the sessions of a backend, such as the handler of a stream: it
    /// tells when a drain begins and when its deadline has passed. `None` when no backend has this id.
    pub fn drain_signal(&self, id: &str) -> Option<DrainSignal> {
        let snapshot = self.pool().load();
        let position = snapshot.index().position_of(id.as_bytes())?;
        Some(snapshot.index().states()[position].drain_signal())
    }
}

impl<S> Drain<S> {
    pub(super) fn new(backends: Backends<S>, id: &str) -> Self {
        let then = Failover::Repin;
        let id = id.to_owned();
        Self { backends, id, deadline: None, then, idle_for: None, hand_over: None }
    }

    /// The longest time that the drain may take. After that the backend gets no more requests, even if
    /// sessions are left, or if the drain was reported as completed before: see
    /// [`Mode::Drained`](crate::Mode::Drained). Open streams, which are responses whose reader had to
    /// wait for more, and upgraded connections are cut off. A request that is not answered yet may
    /// finish, and so may a response that has arrived but is not read yet. Default: no deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// What happens to sessions that return after the deadline; default [`Failover::Repin`].
    pub fn then(mut self, failover: Failover) -> Self {
        self.then = failover;
        self
    }

    /// How long a session must be idle to count as ended. Default: as long as its affinity remembers an
    /// idle session, which is its idle timeout, else its absolute timeout, else 30 minutes.
    pub fn idle_for(mut self, idle: Duration) -> Self {
        self.idle_for = Some(idle);
        self
    }

    /// Moves the sessions to other backends instead of letting them stay until they end: each with its
    /// next request, at most `max_per_second` of them, after
    /// [`before_move`](crate::StickyLayer::before_move) has transferred its state. A session whose state
    /// could not be transferred stays for now. Default: no session moves before the deadline.
    ///
    /// With more than a few hundred sessions, the number of those that are left is an estimate. The
    /// drain may then complete while a few idle sessions are left, which the backend continues to serve.
    ///
    /// A session moves to the ready backend that ranks first for it, as in a failover.
    pub fn hand_over(mut self, max_per_second: u32) -> Self {
        self.hand_over = Some(max_per_second);
        self
    }

    /// Begins the drain. It continues when the returned handle is dropped, and
    /// [`Backends::set_mode`] cancels it.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn start(self) -> Result<Draining<S>, PoolError> {
        let mut plan = DrainPlan::new(self.deadline);
        plan.then = self.then;
        plan.handoffs = self.hand_over.map(|rate| Arc::new(RateLimiter::new(rate)));
        plan.idle_for = self.idle_for;
        let report = plan.report.clone();
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

/// A drain that has begun, from [`Drain::start`].
pub struct Draining<S> {
    backends: Backends<S>,
    report: watch::Receiver<Option<DrainReport>>,
}

impl<S> Draining<S> {
    /// Waits until the drain has ended.
    pub async fn ended(mut self) -> DrainReport {
        loop {
            // The pool's task does this as well, but it may not have been started.
            let due = self.backends.pool().housekeep(Instant::now());
            if let Some(report) = &*self.report.borrow_and_update() {
                return report.clone();
            }
            // The sender is dropped only after it has sent a report.
            let _ = timeout_at(due, self.report.changed()).await;
        }
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
