//! Idle HTTP/1.1 connections of a backend, by runtime thread.

use std::{
    cell::Cell,
    fmt, mem,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{http1::Http1, proxy_protocol::Reuse};
use crate::util::lock;

/// A small number that identifies this thread.
pub(super) fn thread_slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
    }
    SLOT.with(|slot| {
        slot.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Ordering::Relaxed);
            slot.set(Some(mine));
            mine
        })
    })
}

/// How many shards there are: one per thread that can run at once.
pub(super) fn shard_count() -> usize {
    // It reads files of the system: milliseconds for each of many backends.
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

/// Last in, first out: the connections that are not needed stay idle long enough to be closed.
pub(super) struct Pool {
    shards: Box<[Shard]>,
    max_idle: usize,
    idle_timeout: Duration,
    /// Of the connections that may be used: see [`Address`](crate::proxy::address::Address).
    generation: AtomicU64,
    /// Whether the task runs that closes connections after the idle timeout.
    sweeping: AtomicBool,
    /// Ends that task when the pool is dropped.
    dropped: Arc<Notify>,
}

/// On a cache line of its own, so that threads do not slow each other down.
#[repr(align(64))]
#[derive(Default)]
struct Shard(Mutex<Idle>);

type Idle = Vec<Entry>;

/// An idle connection.
struct Entry {
    /// Of the client whose requests it may serve, so that others are passed over without a look at them.
    tag: u64,
    /// Boxed, as it is a kilobyte and moves often.
    connection: Box<Http1>,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        lock(&self.0)
    }
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        Self {
            shards: (0..shard_count()).map(|_| Shard::default()).collect(),
            max_idle,
            idle_timeout,
            generation: AtomicU64::new(0),
            sweeping: AtomicBool::new(false),
            dropped: Arc::default(),
        }
    }

    /// This thread's shard.
    pub(super) fn shard(&self) -> usize {
        thread_slot() % self.shards.len()
    }

    /// An idle connection of this generation that is open, as far as is known.
    pub(super) fn take(&self, generation: u64) -> Option<Box<Http1>> {
        if self.generation.load(Ordering::Relaxed) < generation {
            self.close_older(generation);
        }
        let shard = &self.shards[self.shard()];
        loop {
            // The lock is not held while a connection is checked.
            let mut connection = shard.lock().pop()?.connection;
            // One look at the clock, for the response's timeout, too.
            let idle_since = mem::replace(&mut connection.since, Instant::now());
            if connection.since.duration_since(idle_since) >= self.idle_timeout {
                // All below it are older.
                let old = mem::take(&mut *shard.lock());
                drop(old);
                return None;
            }
            let is_current = connection.generation >= generation;
            if is_current && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// The same among the connections of this client.
    pub(super) fn take_for(&self, client: SocketAddr, generation: u64) -> Option<Box<Http1>> {
        if self.generation.load(Ordering::Relaxed) < generation {
            self.close_older(generation);
        }
        let shard = &self.shards[self.shard()];
        let wanted = Reuse::Client(client);
        let tag = wanted.tag();
        loop {
            let mut connection = {
                let mut idle = shard.lock();
                let is_wanted =
                    |entry: &Entry| entry.tag == tag && entry.connection.reuse == wanted;
                let position = idle.iter().rposition(is_wanted)?;
                idle.remove(position).connection
            };
            let idle_since = mem::replace(&mut connection.since, Instant::now());
            let is_young = connection.since.duration_since(idle_since) < self.idle_timeout;
            if is_young && connection.generation >= generation && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps `connection` for the next request, if it can serve one.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<Http1>) {
        // It is checked again when it is taken. Here only the end of a response may still have to be
        // noticed.
        let is_wanted = self.max_idle > 0
            && !matches!(connection.reuse, Reuse::Never)
            && connection.generation >= self.generation.load(Ordering::Relaxed)
            && (connection.is_idle() || connection.is_usable());
        if !is_wanted {
            return;
        }
        connection.since = Instant::now();
        connection.reused = true;
        let mut idle = self.shards[connection.shard].lock();
        // Other clients may be gone, and their connections of no use.
        let is_full = idle.len() >= self.max_idle;
        let replaces = is_full && matches!(connection.reuse, Reuse::Client(_));
        let oldest = replaces.then(|| idle.remove(0));
        if !is_full || oldest.is_some() {
            idle.push(Entry { tag: connection.reuse.tag(), connection });
            drop(idle);
            self.sweep_later();
        }
    }

    fn sweep_later(self: &Arc<Self>) {
        if self.sweeping.load(Ordering::Relaxed) || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        all_pools().add(self);
        // No connection is idle for more than one and a half times the timeout.
        let period = (self.idle_timeout / 2).max(Duration::from_millis(10));
        let (sweeper, dropped) = (Sweeper(Arc::downgrade(self)), self.dropped.clone());
        drop(tokio::spawn(async move {
            loop {
                let _ = timeout(period, dropped.notified()).await;
                match sweeper.0.upgrade() {
                    Some(pool) if pool.sweep() => {}
                    _ => return,
                }
            }
        }));
    }

    /// Closes the connections of generations before this one.
    #[cold]
    fn close_older(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
        for shard in &self.shards {
            let mut idle = shard.lock();
            let (kept, closed): (Idle, Idle) = mem::take(&mut *idle)
                .into_iter()
                .partition(|it| it.connection.generation >= generation);
            *idle = kept;
            drop(idle);
            drop(closed);
        }
    }

    /// Closes up to `most` of the connections that have been idle for longest. Returns how many.
    fn close_oldest(&self, most: usize) -> usize {
        let mut closed = Idle::new();
        for shard in &self.shards {
            let mut idle = shard.lock();
            let count = (most - closed.len()).min(idle.len());
            closed.extend(idle.drain(..count));
        }
        closed.len()
    }

    /// Closes connections that the backend has closed or that are idle for too long. Whether any are left.
    fn sweep(&self) -> bool {
        let mut left = false;
        for shard in &self.shards {
            let idle = mem::take(&mut *shard.lock());
            let mut kept: Idle = idle
                .into_iter()
                .filter_map(|mut entry| {
                    let young = entry.connection.since.elapsed() < self.idle_timeout;
                    (young && entry.connection.is_usable()).then_some(entry)
                })
                .collect();
            let mut now = shard.lock();
            // Those that came back meanwhile are younger.
            kept.append(&mut now);
            left |= !kept.is_empty();
            *now = kept;
        }
        left
    }
}

/// The pools of this process that have, or had, idle connections: file descriptors are a resource of the
/// process.
#[derive(Default)]
struct AllPools {
    pools: Vec<Weak<Pool>>,
    /// How many there may be before dropped ones are removed.
    enough: usize,
}

fn all_pools() -> MutexGuard<'static, AllPools> {
    static ALL: LazyLock<Mutex<AllPools>> = LazyLock::new(Mutex::default);
    lock(&ALL)
}

impl AllPools {
    fn add(&mut self, pool: &Arc<Pool>) {
        if self.pools.len() >= self.enough {
            let this = Arc::as_ptr(pool);
            self.pools.retain(|it| it.strong_count() > 0 && !std::ptr::eq(it.as_ptr(), this));
            self.enough = 2 * self.pools.len() + 16;
        }
        self.pools.push(Arc::downgrade(pool));
    }
}

/// Closes up to `most` idle connections of this process, to free resources for a new one. Returns how many.
pub(super) fn close_idle(most: usize) -> usize {
    let pools: Vec<_> = all_pools().pools.iter().filter_map(Weak::upgrade).collect();
    let mut closed = 0;
    for pool in pools {
        closed += pool.close_oldest(most - closed);
    }
    closed
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

/// Allows the next task to start when this one ends, because the pool is empty or its runtime has ended.
struct Sweeper(Weak<Pool>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.sweeping.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle: usize = self.shards.iter().map(|shard| shard.lock().len()).sum();
        f.debug_struct("Pool").field("idle", &idle).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
