//! The timeouts of a connection, and its end when the server stops.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{shared::Shared, watch::Watch};

/// After how long without a request an HTTP/1.1 connection is parked; it may take up to twice as long.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The same for this idle timeout, which is longer.
pub(super) fn park_after(idle_timeout: Duration) -> Duration {
    PARK_AFTER.min(idle_timeout / 4)
}

/// How serving a connection has ended.
pub(super) enum End {
    Closed(hyper::Result<()>),
    /// The connection is open, and was idle for some time. Only in HTTP/1.1.
    Idle,
}

/// The output of `future`, or `None` when `end` comes before it.
pub(super) async fn until<F: Future>(
    future: F,
    end: impl Future<Output = ()>,
) -> Option<F::Output> {
    let (mut future, mut end) = (pin!(future), pin!(end));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Waits for the stop of the server, and for `time` after that.
pub(super) async fn stopped_for(shared: &Shared) {
    shared.stop.wait().await;
    sleep(shared.stop_delay()).await;
}

/// Polls a connection to its end, and ends it when a timeout has passed or the server stops.
///
/// One timer per connection, which is moved when it fires and not with each request.
pub(super) async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    mut timeouts: Timeouts<'_>,
) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    let (watch, stop) = (timeouts.watch, &timeouts.shared.stop);
    let mut timer = pin!(sleep_until(timeouts.first_deadline()));
    let mut stopped = pin!(stop.wait());
    let mut listening = false;
    poll_fn(|cx| {
        // Polled once, to be woken. After that only a flag is read.
        if !listening {
            listening = true;
            let _ = stopped.as_mut().poll(cx);
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Closed(ended));
            }
            if timeouts.must_finish(timer.as_mut()) {
                finish(connection.as_mut());
                continue;
            }
            let moved = timeouts.bring_forward(timer.as_mut());
            if watch.is_busy() && !moved && !timer.is_elapsed() {
                return Poll::Pending;
            }
            ready!(timer.as_mut().poll(cx));
            match timeouts.elapsed(timer.as_mut()) {
                Elapsed::Nothing => {}
                Elapsed::Parked => return Poll::Ready(End::Idle),
                Elapsed::Idle => finish(connection.as_mut()),
                Elapsed::Limit => return Poll::Ready(End::Closed(Ok(()))),
            }
        }
    })
    .await
}

/// The timeouts of a connection.
pub(super) struct Timeouts<'a> {
    watch: &'a Watch,
    shared: &'a Shared,
    /// Whether bytes without a request in flight are the begin of a head: in HTTP/1.1.
    sees_heads: bool,
    /// After how long without a request the connection is parked, or ended in HTTP/2.
    idle_after: Duration,
    /// When the head that is being read must be complete.
    head: Option<Instant>,
    requests: u64,
    /// How many requests there were when the timer was set to the end of an idle time.
    idle_at: Option<u64>,
    /// The same, when a request was in flight.
    busy_at: Option<u64>,
    /// Whether the timer is set to a late deadline, because a request takes long.
    long_timer: bool,
    /// How often the client had taken something when it blocked, and when that was.
    blocked: Option<(u64, Instant)>,
    /// Until when a request may still arrive, when the server stops.
    stop_at: Option<Instant>,
    finishing: bool,
}

/// What the end of the timer means.
enum Elapsed {
    Nothing,
    /// The connection is parked.
    Parked,
    /// No more requests are taken.
    Idle,
    /// The connection is cut.
    Limit,
}

impl<'a> Timeouts<'a> {
    pub(super) fn new(
        watch: &'a Watch,
        shared: &'a Shared,
        is_http1: bool,
        first_head: Instant,
    ) -> Self {
        let idle_timeout = shared.limits.idle_timeout;
        Self {
            watch,
            shared,
            sees_heads: is_http1,
            idle_after: if is_http1 { park_after(idle_timeout) } else { idle_timeout },
            head: Some(first_head),
            requests: 0,
            idle_at: None,
            busy_at: None,
            long_timer: false,
            blocked: None,
            stop_at: None,
            finishing: false,
        }
    }

    fn first_deadline(&self) -> Instant {
        let idle = Instant::now() + self.idle_after;
        self.head.map_or(idle, |head| head.min(idle))
    }

    /// Whether the server stops and the connection has to take no more requests from now on.
    fn must_finish(&mut self, timer: Pin<&mut Sleep>) -> bool {
        if self.finishing || !self.shared.stop.is_set() {
            return false;
        }
        if !self.sees_heads || self.watch.is_busy() {
            self.finishing = true;
            return true;
        }
        if self.stop_at.is_none() {
            let end = Instant::now() + self.shared.stop_delay();
            self.stop_at = Some(end);
            timer.reset(self.head.map_or(end, |head| head.min(end)));
        }
        false
    }

    /// Sets the timer to an earlier deadline if there is one. Whether it did.
    fn bring_forward(&mut self, mut timer: Pin<&mut Sleep>) -> bool {
        let mut moved = false;
        if self.watch.requests() != self.requests {
            self.requests = self.watch.requests();
            self.head = None;
        }
        if self.sees_heads && self.head.is_none() && self.watch.has_partial_head() {
            let deadline = Instant::now() + self.shared.limits.header_timeout;
            self.head = Some(deadline);
            timer.as_mut().reset(deadline);
            moved = true;
        }
        if self.long_timer && !self.watch.is_busy() {
            self.long_timer = false;
            timer.as_mut().reset(Instant::now() + self.idle_after);
            moved = true;
        }
        if !self.watch.is_blocked() {
            self.blocked = None;
        } else if self.blocked.is_none_or(|(written, _)| written != self.watch.writes()) {
            let now = Instant::now();
            self.blocked = Some((self.watch.writes(), now));
            let deadline = now + self.shared.limits.write_timeout;
            if deadline < timer.deadline() {
                timer.reset(deadline);
                moved = true;
            }
        }
        moved
    }

    /// Whether hyper has nothing that would be lost with it.
    fn may_park(&self) -> bool {
        !self.finishing && self.stop_at.is_none() && self.watch.is_quiet()
    }

    /// The timer has elapsed: what that means, and the next deadline.
    fn elapsed(&mut self, timer: Pin<&mut Sleep>) -> Elapsed {
        let (now, limits) = (Instant::now(), &self.shared.limits);
        let blocked = self.blocked.map(|(_, since)| since + limits.write_timeout);
        if blocked.is_some_and(|deadline| now >= deadline) {
            return Elapsed::Limit;
        }
        let idle = now + self.idle_after;
        let next = match self.head {
            _ if self.watch.is_busy() => {
                self.idle_at = None;
                self.long_timer = self.busy_at.replace(self.requests) == Some(self.requests);
                Some(if self.long_timer { now + limits.idle_timeout } else { idle })
            }
            Some(deadline) if now >= deadline => return Elapsed::Limit,
            _ if self.stop_at.is_some_and(|end| now >= end) && !self.watch.has_partial_head() => {
                None
            }
            Some(deadline) => Some(deadline),
            None if self.idle_at == Some(self.requests) && !self.sees_heads => None,
            None if self.idle_at == Some(self.requests) && self.may_park() => {
                return Elapsed::Parked;
            }
            None => {
                self.idle_at = Some(self.requests);
                Some(idle)
            }
        };
        let (next, elapsed) = next.map_or_else(
            || {
                // HTTP/2 sends GOAWAY, which may take some time.
                let deadline = now + limits.header_timeout;
                (self.head, self.stop_at, self.finishing) = (Some(deadline), None, true);
                (deadline, Elapsed::Idle)
            },
            |next| (next, Elapsed::Nothing),
        );
        timer.reset(blocked.map_or(next, |blocked| next.min(blocked)));
        elapsed
    }
}
