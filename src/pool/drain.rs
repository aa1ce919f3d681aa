//! The end of a backend's work: its sessions end one by one, or a deadline comes.

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
use crate::{
    outcome::Failover,
    util::{RateLimiter, clock},
};

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

impl<S> Backends<S> {
    /// Drains a backend: it keeps its sessions and takes no new ones. Awaited, it resolves when the
    /// last session has ended, or when the deadline has come:
    ///
    /// - a session has ended when the application says so ([`SessionAction::End`]), or when it has not
    ///   been seen for as long as its affinity remembers it ([`Drain::idle_for`]), and has no request
    ///   in flight;
    /// - where a key decides, keys belong to others at once, and only requests in flight count.
    ///
    /// A second drain of the same backend takes the place of the first, which is cancelled by it.
    ///
    /// [`SessionAction::End`]: crate::SessionAction::End
    pub fn drain(&self, id: &str) -> Drain<S> {
        Drain::new(self.clone(), id)
    }

    /// What tells something that works for the sessions of a backend, such as the handler of a stream,
    /// when the backend is being drained, and when that is over; `None` when no backend has this id.
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
        let plan = DrainPlan {
            started: now,
            deadline: self.deadline.map(|deadline| clock::after(now, deadline)),
            then: self.then,
            handoffs: self.hand_over.map(|rate| Arc::new(RateLimiter::new(rate))),
            idle_for: self.idle_for,
            sessions_before: None,
            is_reported: false,
            last_progress: None,
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
