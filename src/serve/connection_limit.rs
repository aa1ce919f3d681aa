//! `ConnectionLimit`: how many connections of clients may be open at once, over one or several servers.

use std::sync::{
    Arc, Mutex,
    atomic::{
        AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::util::lock;

/// How many connections of clients may be open at once, upgraded ones included. Clones share the limit: several
/// servers can have one, for example a server and the one that has replaced it, whose connections go on.
///
/// # Example
///
/// ```no_run
/// # async fn run(app: axum::Router) -> std::io::Result<()> {
/// use tower_sticky::serve::{ConnectionLimit, Listener, Server};
///
/// let limit = ConnectionLimit::new(10_000);
/// let listener = Listener::bind("127.0.0.1:8080").await?;
/// let server = Server::new(app).listener(listener).connection_limit(limit.clone()).start()?;
/// limit.set(20_000);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// One permit for each connection.
    permits: Arc<Semaphore>,
    /// Locked while the limit changes, and while a permit is returned.
    size: Mutex<Size>,
    /// How many servers wait for a permit.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Size {
    maximum: u32,
    /// How many of the permits that are taken are not to be returned, because the limit was lowered.
    excess: u32,
}

impl ConnectionLimit {
    /// A limit of so many connections, at least 1. Further clients wait in the system's queue until one closes.
    pub fn new(connections: u32) -> Self {
        let maximum = connections.max(1);
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(maximum as usize)),
            size: Mutex::new(Size { maximum, excess: 0 }),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// The limit.
    pub fn get(&self) -> u32 {
        lock(&self.0.size).maximum
    }

    /// Changes the limit to so many connections, at least 1. Where more are open than a lower limit allows, they go
    /// on, and no further one is accepted until enough of them have closed.
    pub fn set(&self, connections: u32) {
        let Inner { permits, size, .. } = &*self.0;
        let mut size = lock(size);
        let before = std::mem::replace(&mut size.maximum, connections.max(1));
        let fewer = before.saturating_sub(size.maximum);
        let forgotten = permits.forget_permits(fewer as usize);
        size.excess += fewer - u32::try_from(forgotten).unwrap_or(fewer);
        let more = size.maximum.saturating_sub(before);
        let kept = more.min(size.excess);
        size.excess -= kept;
        permits.add_permits((more - kept) as usize);
    }

    /// Whether a server waits for a connection to close.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.waiting.load(Relaxed) > 0
    }

    /// Waits for a permit for a connection, which counts among those that are `open`.
    pub(super) async fn acquire(&self, open: &Arc<OpenConnections>) -> Option<ConnectionPermit> {
        let permit = match self.0.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::new(&self.0.waiting);
                self.0.permits.clone().acquire_owned().await.ok()?
            }
        };
        open.count.fetch_add(1, SeqCst);
        Some(ConnectionPermit { permit: Some(permit), limit: self.clone(), open: open.clone() })
    }
}

/// Counts a server that waits, as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The permit of a connection. It is returned when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    permit: Option<OwnedSemaphorePermit>,
    limit: ConnectionLimit,
    open: Arc<OpenConnections>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut size = lock(&self.limit.0.size);
        match self.permit.take() {
            Some(permit) if size.excess > 0 => {
                size.excess -= 1;
                permit.forget();
            }
            permit => drop(permit),
        }
        drop(size);
        self.open.leave();
    }
}

/// The permits that one server has: of its connections, and the one for the next connection.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    count: AtomicUsize,
    none: Notify,
}

impl OpenConnections {
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Waits until all have been returned.
    pub(super) async fn ended(&self) {
        loop {
            let none = self.none.notified();
            if self.count.load(SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }

    fn leave(&self) {
        if self.count.fetch_sub(1, SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections can be opened beside these.
    fn room(limit: &ConnectionLimit) -> usize {
        limit.0.permits.available_permits()
    }

    #[tokio::test]
    async fn a_lower_limit_holds_once_enough_connections_have_closed() {
        let (limit, open) = (ConnectionLimit::new(4), Arc::default());
        let mut permits = Vec::new();
        for _ in 0..4 {
            permits.push(limit.acquire(&open).await);
        }
        limit.set(2);
        assert_eq!((limit.get(), open.count(), room(&limit)), (2, 4, 0));
        permits.truncate(2);
        assert_eq!(room(&limit), 0, "two are open, and two are allowed");
        permits.truncate(1);
        assert_eq!(room(&limit), 1);
        limit.set(0);
        assert_eq!((limit.get(), room(&limit)), (1, 0), "at least one");
        permits.clear();
        assert_eq!((open.count(), room(&limit)), (0, 1));
    }

    #[tokio::test]
    async fn a_higher_limit_holds_at_once() {
        let (limit, open) = (ConnectionLimit::new(3), Arc::default());
        let permits = [limit.acquire(&open).await, limit.acquire(&open).await];
        limit.set(1);
        assert_eq!(room(&limit), 0);
        limit.set(4);
        assert_eq!(room(&limit), 2, "two are open, and four are allowed");
        drop(permits);
        assert_eq!(room(&limit), 4);
    }

    #[tokio::test]
    async fn a_server_that_waits_is_told_of() {
        let (limit, open) = (ConnectionLimit::new(1), Arc::default());
        let permit = limit.acquire(&open).await;
        let waiting = tokio::spawn({
            let (limit, open) = (limit.clone(), open.clone());
            async move { limit.acquire(&open).await }
        });
        tokio::task::yield_now().await;
        assert!(limit.is_exhausted());
        drop(permit);
        assert!(waiting.await.unwrap().is_some());
        assert!(!limit.is_exhausted());
        open.ended().await;
    }
}
