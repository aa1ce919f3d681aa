//! A deadline that is moved more often than it is reached.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Moving the deadline away does not touch the runtime's timers: the sleep ends when it was first set to, and
/// is reset to the deadline only then. A connection that serves a thousand requests within one timeout registers
/// one timer.
#[derive(Debug)]
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Timer {
    pub(super) fn new(after: Duration) -> Self {
        let sleep = Box::pin(tokio::time::sleep(after));
        Self { deadline: sleep.deadline(), sleep }
    }

    /// Moves the deadline to so long after `since`. It never elapses before the one that was set first.
    pub(super) fn set(&mut self, since: Instant, after: Duration) {
        // A timeout beyond the clock's range is no timeout.
        self.deadline = since.checked_add(after).unwrap_or(self.deadline);
    }

    /// Moves the deadline to `deadline`, however early.
    pub(super) fn set_at(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.sleep.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_deadline_counts() {
        let start = Instant::now();
        let mut timer = Timer::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        timer.set(Instant::now(), Duration::from_secs(10));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 14);
        timer.set(Instant::now(), Duration::from_secs(10));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 24);
    }
}
