//! What happens to a pool, as it happens.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    id::BackendId,
    outcome::Reason,
    pool::{DrainReport, Mode, State},
    util::string_enum::words,
};

/// How many events a listener may be behind before it misses some.
const BACKLOG: usize = 1024;

/// Something that happened to a pool; from [`Backends::events`](crate::Backends::events).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A backend was added.
    Joined {
        /// The backend.
        backend: BackendId,
    },
    /// A backend was given another service, for example at a new address.
    Replaced {
        /// The backend.
        backend: BackendId,
    },
    /// A backend is reached at another address, as its name has moved or its last address refused
    /// connections: see [`Backends::address_changed`](crate::Backends::address_changed).
    AddressChanged {
        /// The backend.
        backend: BackendId,
        /// Where it was reached before.
        from: SocketAddr,
        /// Where it is reached now.
        to: SocketAddr,
    },
    /// A backend was removed.
    Left {
        /// The backend.
        backend: BackendId,
    },
    /// A backend's health changed.
    State {
        /// The backend.
        backend: BackendId,
        /// What it was before.
        from: State,
        /// What it is now.
        to: State,
        /// What brought the change about.
        cause: Cause,
    },
    /// The operator wants something else of a backend.
    Mode {
        /// The backend.
        backend: BackendId,
        /// What it was before.
        from: Mode,
        /// What it is now.
        to: Mode,
    },
    /// A backend's share of new sessions was changed.
    Weight {
        /// The backend.
        backend: BackendId,
        /// What it was before.
        from: u32,
        /// What it is now.
        to: u32,
    },
    /// A drain makes progress: told when it has changed, at most once a second.
    Draining {
        /// The backend.
        backend: BackendId,
        /// Requests in flight.
        in_flight: usize,
        /// Of these, streams and upgraded connections.
        streams: usize,
        /// About how many sessions are left; `None` when they cannot be told apart.
        sessions: Option<u64>,
    },
    /// A drain has ended.
    Drained {
        /// What became of it.
        report: DrainReport,
    },
    /// A session goes on at another backend.
    Moved {
        /// Where it was; `None` when that backend has left the pool.
        from: Option<BackendId>,
        /// Where it is now.
        to: BackendId,
        /// Why.
        reason: Option<Reason>,
    },
    /// The listener was too slow for so many events, which it will not get.
    Missed {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// The backend that it is about: of a move the new one.
    pub fn backend(&self) -> Option<&BackendId> {
        match self {
            Self::Joined { backend }
            | Self::Replaced { backend }
            | Self::AddressChanged { backend, .. }
            | Self::Left { backend }
            | Self::State { backend, .. }
            | Self::Mode { backend, .. }
            | Self::Weight { backend, .. }
            | Self::Draining { backend, .. }
            | Self::Drained { report: DrainReport { backend, .. } }
            | Self::Moved { to: backend, .. } => Some(backend),
            Self::Missed { .. } => None,
        }
    }
}

words! {
    /// What brought a change of a backend's health about.
    Cause {
        /// The readiness poll found it so.
        Readiness = "readiness",
        /// A connection to it was refused, or timed out.
        ConnectFailed = "connect-failed",
        /// Connections to it ended before an answer.
        Broken = "broken",
        /// A connection to it succeeded again.
        Connected = "connected",
        /// It answered with failures, too many in a row.
        Failures = "failures",
        /// It failed more often than the others.
        SuccessRate = "success-rate",
        /// An active probe found it so.
        Probe = "probe",
        /// The ejection is over: it is on trial.
        EjectionOver = "ejection-over",
        /// It answered a request.
        Answered = "answered",
        /// It was given another service, of which nothing is known yet.
        Replaced = "replaced",
    }
}

/// The events of a pool from now on: a [`Stream`], or [`next`](Self::next) by hand. It ends when the
/// last handle of the pool is gone.
///
/// A listener that does not listen is no burden: up to 1,024 events are kept for it, and of those
/// that come after that it is told the number.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_sticky::PoolError> {
/// use tower_sticky::{Backends, Event, Mode};
///
/// let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
/// let mut events = backends.events();
/// backends.set_mode("a", Mode::Draining)?;
/// match events.next().await {
///     Some(Event::Mode { backend, to, .. }) => println!("{backend} is now {to}"),
///     other => println!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "events are lost unless they are listened to"]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

impl Events {
    /// The next event; `None` when the pool is gone.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.missed.swap(0, Relaxed) {
            0 => self.receiver.poll_recv(cx),
            count => Poll::Ready(Some(Event::Missed { count })),
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

/// Tells the listeners of one pool.
#[derive(Default)]
pub(crate) struct Publisher {
    /// Whether anybody has ever listened: if not, an event is not even made.
    any: AtomicBool,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    sender: mpsc::Sender<Event>,
    missed: Arc<AtomicU64>,
}

impl Publisher {
    pub(crate) fn listen(&self) -> Events {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let missed = Arc::default();
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Listener { sender, missed: Arc::clone(&missed) });
        self.any.store(true, Relaxed);
        Events { receiver, missed }
    }

    /// Tells everybody who listens about `event`.
    #[inline]
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        if self.any.load(Relaxed) {
            self.tell(&event());
        }
    }

    #[cold]
    fn tell(&self, event: &Event) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| match listener.sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                listener.missed.fetch_add(1, Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
        self.any.store(!listeners.is_empty(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(id: usize) -> Event {
        Event::Left { backend: BackendId::new(format!("b{id}")).unwrap() }
    }

    #[tokio::test]
    async fn everybody_who_listens_is_told_from_then_on() {
        let publisher = Publisher::default();
        publisher.publish(|| unreachable!("nobody listens"));
        let mut first = publisher.listen();
        publisher.publish(|| left(1));
        let mut second = publisher.listen();
        publisher.publish(|| left(2));
        assert_eq!(first.next().await, Some(left(1)));
        assert_eq!(first.next().await, Some(left(2)));
        assert_eq!(second.next().await, Some(left(2)));
        drop((first, second));
        publisher.publish(|| left(3));
        publisher.publish(|| unreachable!("nobody listens any more"));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_was_missed() {
        let publisher = Publisher::default();
        let mut events = publisher.listen();
        for id in 0..BACKLOG + 7 {
            publisher.publish(|| left(id));
        }
        assert_eq!(events.next().await, Some(Event::Missed { count: 7 }));
        for id in 0..BACKLOG {
            assert_eq!(events.next().await, Some(left(id)));
        }
        drop(publisher);
        assert_eq!(events.next().await, None, "the pool is gone");
    }
}
