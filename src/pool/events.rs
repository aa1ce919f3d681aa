//! The events of a pool: changes of health, modes and members, drains, and moves of sessions.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
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
    util::{lock, string_enum::words},
};

/// How many events are queued for a listener before it misses some.
const BACKLOG: usize = 1024;

/// A change of a pool, from [`Backends::events`](crate::Backends::events).
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
    /// A backend is reached at another address, as its name resolves to another one or its last address
    /// refused connections: see [`Backends::address_changed`](crate::Backends::address_changed).
    AddressChanged {
        /// The backend.
        backend: BackendId,
        /// Its address before.
        from: SocketAddr,
        /// Its address now.
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
        /// Its health before.
        from: State,
        /// Its health now.
        to: State,
        /// The cause of the change.
        cause: Cause,
    },
    /// A backend's mode was changed.
    Mode {
        /// The backend.
        backend: BackendId,
        /// Its mode before.
        from: Mode,
        /// Its mode now.
        to: Mode,
    },
    /// A backend's share of new sessions was changed.
    Weight {
        /// The backend.
        backend: BackendId,
        /// Its weight before.
        from: u32,
        /// Its weight now.
        to: u32,
    },
    /// The progress of a drain: published when it has changed, at most once a second.
    Draining {
        /// The backend.
        backend: BackendId,
        /// Requests in flight.
        in_flight: usize,
        /// Open streams and upgraded connections among them.
        streams: usize,
        /// The number of sessions that are left, an estimate; `None` when they cannot be told apart.
        sessions: Option<u64>,
    },
    /// A drain has ended.
    Drained {
        /// Its result.
        report: DrainReport,
    },
    /// A session has moved to another backend.
    Moved {
        /// The backend that it has left; `None` when that is no longer in the pool.
        from: Option<BackendId>,
        /// The backend that it has moved to.
        to: BackendId,
        /// The reason for the move.
        reason: Option<Reason>,
    },
    /// The listener was too slow, and events were dropped.
    Missed {
        /// The number of dropped events.
        count: u64,
    },
}

impl Event {
    /// The backend that the event is about; for a move, the new one.
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
    /// The cause of a change of a backend's health.
    Cause {
        /// The readiness poll.
        Readiness = "readiness",
        /// A connection to it was refused, or timed out.
        ConnectFailed = "connect-failed",
        /// Connections to it ended before an answer.
        Broken = "broken",
        /// A connection to it succeeded again.
        Connected = "connected",
        /// Too many failing answers in a row.
        Failures = "failures",
        /// It failed more often than the others.
        SuccessRate = "success-rate",
        /// An active probe.
        Probe = "probe",
        /// The ejection has ended, and the backend is on trial.
        EjectionOver = "ejection-over",
        /// An answer to a request.
        Answered = "answered",
        /// It was given another service, whose health is not known yet.
        Replaced = "replaced",
    }
}

/// The events of a pool since [`Backends::events`](crate::Backends::events) was called: a [`Stream`],
/// which can also be read with [`next`](Self::next). It ends when the last handle of the pool is dropped.
///
/// A slow listener does not delay the pool: up to 1,024 events are queued for it, and those that do not
/// fit are dropped and counted in [`Event::Missed`].
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
#[must_use = "events are dropped unless they are read"]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
}

impl Events {
    /// Waits for the next event; `None` when the pool has been dropped.
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

/// Sends the events of one pool to its listeners.
#[derive(Default)]
pub(crate) struct Publisher {
    /// Whether there are listeners. If not, events are not even created.
    has_listeners: AtomicBool,
    listeners: Mutex<Vec<Listener>>,
}

struct Listener {
    sender: mpsc::Sender<Event>,
    missed: Arc<AtomicU64>,
}

impl Publisher {
    pub(crate) fn subscribe(&self) -> Events {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let missed = Arc::default();
        let mut listeners = lock(&self.listeners);
        listeners.push(Listener { sender, missed: Arc::clone(&missed) });
        self.has_listeners.store(true, Relaxed);
        Events { receiver, missed }
    }

    /// Sends `event` to all listeners.
    #[inline]
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        if self.has_listeners.load(Relaxed) {
            self.send(&event());
        }
    }

    #[cold]
    fn send(&self, event: &Event) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| match listener.sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                listener.missed.fetch_add(1, Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
        self.has_listeners.store(!listeners.is_empty(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(id: usize) -> Event {
        Event::Left { backend: BackendId::new(format!("b{id}")).unwrap() }
    }

    #[tokio::test]
    async fn listeners_get_all_events_after_they_subscribed() {
        let publisher = Publisher::default();
        publisher.publish(|| unreachable!("there is no listener"));
        let mut first = publisher.subscribe();
        publisher.publish(|| left(1));
        let mut second = publisher.subscribe();
        publisher.publish(|| left(2));
        assert_eq!(first.next().await, Some(left(1)));
        assert_eq!(first.next().await, Some(left(2)));
        assert_eq!(second.next().await, Some(left(2)));
        drop((first, second));
        publisher.publish(|| left(3));
        publisher.publish(|| unreachable!("there is no listener any more"));
    }

    #[tokio::test]
    async fn slow_listener_learns_how_many_events_it_missed() {
        let publisher = Publisher::default();
        let mut events = publisher.subscribe();
        for id in 0..BACKLOG + 7 {
            publisher.publish(|| left(id));
        }
        assert_eq!(events.next().await, Some(Event::Missed { count: 7 }));
        for id in 0..BACKLOG {
            assert_eq!(events.next().await, Some(left(id)));
        }
        drop(publisher);
        assert_eq!(events.next().await, None, "the publisher was dropped");
    }

    #[tokio::test]
    async fn events_are_a_stream() {
        let publisher = Publisher::default();
        let mut events = publisher.subscribe();
        publisher.publish(|| left(1));
        drop(publisher);
        for expected in [Some(left(1)), None] {
            let next = std::future::poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await;
            assert_eq!(next, expected);
        }
    }
}
