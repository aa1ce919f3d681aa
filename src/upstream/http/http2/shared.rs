//! The connections of each runtime thread, which all its requests share. One is opened at a time, however many
//! requests wait for it; another one is opened when all streams are in use.

use std::{
    fmt,
    future::Future,
    mem,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::connection::{Connection, Http2, Options};
use crate::{
    error::BoxError,
    upstream::http::{
        idle_pool::{shard_count, thread_slot},
        protocol::Protocol,
        stream::Opened,
    },
    util::lock,
};

type Connections = Vec<Arc<Connection>>;

pub(in crate::upstream::http) struct Shared {
    shards: Arc<[Shard]>,
    idle_timeout: Duration,
}

#[repr(align(64))]
struct Shard {
    /// The oldest first. It is filled first, so that those which are not needed become idle.
    connections: Mutex<Connections>,
    /// Held by the request that opens a connection.
    dial_permit: Semaphore,
    /// How many dials have failed, and why the last one did.
    failures: AtomicU64,
    failure: Mutex<Option<Arc<BoxError>>>,
    /// Whether a task runs that closes idle connections.
    sweeping: AtomicBool,
}

/// What came of a dial.
pub(in crate::upstream::http) enum Dialed {
    Http2(Http2),
    /// The backend has chosen HTTP/1.1.
    Http1(Opened),
    /// It has chosen HTTP/1.1 on another connection meanwhile.
    ChoseHttp1,
}

/// The error of a connection attempt, for all requests that waited for it.
#[derive(Debug, Clone)]
struct SharedError(Arc<BoxError>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.0)
    }
}

impl Shared {
    pub(in crate::upstream::http) fn new(idle_timeout: Duration) -> Self {
        let shard = |_| Shard {
            connections: Mutex::default(),
            dial_permit: Semaphore::new(1),
            failures: AtomicU64::new(0),
            failure: Mutex::new(None),
            sweeping: AtomicBool::new(false),
        };
        Self { shards: (0..shard_count()).map(shard).collect(), idle_timeout }
    }

    fn shard(&self) -> usize {
        thread_slot() % self.shards.len()
    }

    /// A stream of this thread's connections of this generation, if one has room.
    pub(in crate::upstream::http) fn get(&self, generation: u64) -> Option<Http2> {
        self.shards[self.shard()].get(generation)
    }

    /// A stream of this thread's connections. If none has room, one is opened by `opening`. `generation` is that
    /// of the backend's address, or none once the backend is known to choose HTTP/1.1.
    pub(in crate::upstream::http) async fn dial(
        &self,
        generation: impl Fn() -> Option<u64>,
        opening: impl Future<Output = Result<Opened, BoxError>>,
        options: Options,
        deadline: Instant,
    ) -> Result<Dialed, BoxError> {
        let at = self.shard();
        let shard = &self.shards[at];
        let failed_before = shard.failures.load(Ordering::Acquire);
        let _permit = shard.dial_permit.acquire().await?;
        let Some(generation) = generation() else {
            return Ok(Dialed::ChoseHttp1);
        };
        if let Some(open) = shard.get(generation) {
            return Ok(Dialed::Http2(open));
        }
        if shard.failures.load(Ordering::Acquire) != failed_before {
            // The attempt that this one waited for has just failed. If each waiter tried again, each of a
            // thousand would wait for all before it.
            if let Some(error) = lock(&shard.failure).clone() {
                return Err(SharedError(error).into());
            }
        }
        let opened = async {
            let opened = opening.await?;
            match opened.protocol {
                Protocol::Http1 => Ok(Dialed::Http1(opened)),
                Protocol::Http2 => {
                    self.keep(at, opened, options, deadline).await.map(Dialed::Http2)
                }
            }
        };
        opened.await.map_err(|error: BoxError| {
            let error = Arc::new(error);
            *lock(&shard.failure) = Some(error.clone());
            shard.failures.fetch_add(1, Ordering::Release);
            SharedError(error).into()
        })
    }

    /// Begins HTTP/2 on a stream that was opened for HTTP/1.1, and for which the backend has chosen HTTP/2.
    pub(in crate::upstream::http) async fn adopt(
        &self,
        opened: Opened,
        options: Options,
        deadline: Instant,
    ) -> Result<Http2, BoxError> {
        self.keep(self.shard(), opened, options, deadline).await
    }

    async fn keep(
        &self,
        at: usize,
        opened: Opened,
        options: Options,
        deadline: Instant,
    ) -> Result<Http2, BoxError> {
        let connection = Connection::open(opened, options, deadline).await?;
        let stream = connection.take(false).ok_or("the backend closed a new HTTP/2 connection")?;
        let mut connections = lock(&self.shards[at].connections);
        connections.push(connection);
        let is_extra = connections.len() > 1;
        drop(connections);
        if is_extra {
            self.sweep_later(at);
        }
        Ok(stream)
    }

    /// Uses the connection of `dead` for no other request.
    pub(in crate::upstream::http) fn forget(&self, dead: &Http2) {
        for shard in &*self.shards {
            let removed: Connections =
                lock(&shard.connections).extract_if(.., |it| dead.is_of(it)).collect();
            if !removed.is_empty() {
                return;
            }
        }
    }

    /// Closes this shard's connections but the oldest when they have been idle for long.
    fn sweep_later(&self, at: usize) {
        if self.shards[at].sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let sweeper = Sweeper { shards: Arc::downgrade(&self.shards), at };
        let timeout = self.idle_timeout;
        let period = (timeout / 2).max(Duration::from_millis(10));
        drop(tokio::spawn(async move {
            loop {
                sleep(period).await;
                match sweeper.shards.upgrade() {
                    Some(shards) if shards[sweeper.at].sweep(timeout) => {}
                    _ => return,
                }
            }
        }));
    }
}

impl Shard {
    fn get(&self, generation: u64) -> Option<Http2> {
        let mut connections = lock(&self.connections);
        let (mut found, mut stale) = (None, false);
        for connection in &*connections {
            if !connection.is_current(generation) {
                stale = true;
            } else if connection.has_room() {
                found = connection.take(true);
                if found.is_some() {
                    break;
                }
                stale = true;
            }
        }
        let removed: Connections = match stale {
            true => connections.extract_if(.., |it| !it.is_current(generation)).collect(),
            false => Vec::new(),
        };
        drop(connections);
        // Not under the lock, as this may close them.
        drop(removed);
        found
    }

    /// Closes all but the oldest connection that are idle for too long. Whether there are others left.
    fn sweep(&self, timeout: Duration) -> bool {
        let mut connections = lock(&self.connections);
        let mut is_first = true;
        let closed: Connections = connections
            .extract_if(.., |it| {
                let is_extra = !mem::take(&mut is_first);
                it.has_ended() || (is_extra && it.is_idle_for(timeout))
            })
            .collect();
        let left = connections.len() > 1;
        drop(connections);
        drop(closed);
        left
    }
}

/// Allows the next task to start when this one ends, because there is one connection or its runtime has ended.
struct Sweeper {
    shards: Weak<[Shard]>,
    at: usize,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(shards) = self.shards.upgrade() {
            shards[self.at].sweeping.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = |shard: &Shard| {
            lock(&shard.connections).iter().filter(|connection| !connection.has_ended()).count()
        };
        let open: usize = self.shards.iter().map(open).sum();
        f.debug_struct("Shared").field("open", &open).finish_non_exhaustive()
    }
}
