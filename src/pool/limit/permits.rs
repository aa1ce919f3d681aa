//! `ConcurrencyLimit`: the permits of a backend, and the requests that wait for them.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    fair_queue::{FairQueue, Ticket},
    quota::WaitQuota,
};
use crate::util::{
    lock,
    sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering::Relaxed},
};

/// Something with a concurrency limit.
pub(crate) trait HasLimit {
    fn permits(&self) -> &ConcurrencyLimit;
}

/// Limits the requests that a backend has in flight, and the requests that wait for a permit or for its
/// service to become ready.
///
/// A waker runs foreign code, so it is called and dropped after the lock is released.
pub(crate) struct ConcurrencyLimit {
    /// A copy of [`Inner::max`], so that a backend without a limit takes no lock.
    max: AtomicUsize,
    /// Whether there is a limit and no permit is free.
    full: AtomicBool,
    inner: Mutex<Inner>,
}

/// The locked state. Updates `full` when the lock is released.
struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    full: &'a AtomicBool,
}

struct Inner {
    /// 0 for no limit.
    max: usize,
    taken: usize,
    quota: WaitQuota,
    /// The requests that wait for a permit. A request that is removed by `grant` has a permit, so the
    /// queue is empty while a permit is free.
    queue: FairQueue<Waker>,
}

impl ConcurrencyLimit {
    /// Without a limit.
    pub(crate) fn new() -> Self {
        let inner = Inner { max: 0, taken: 0, quota: WaitQuota::new(), queue: FairQueue::new() };
        Self { max: AtomicUsize::new(0), full: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    /// The most permits; 0 for no limit, when no permit is needed.
    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.max.load(Relaxed)
    }

    /// Whether no permit is free.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().quota.taken()
    }

    /// Sets the most permits; 0 for no limit. Permits that are held continue to count, and waiting
    /// requests get permits as far as the new limit allows.
    pub(crate) fn set_limit(&self, max: usize) {
        let mut inner = self.lock();
        inner.max = max;
        self.max.store(max, Relaxed);
        let woken: Vec<Waker> = std::iter::from_fn(|| inner.grant()).collect();
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> Locked<'_> {
        let inner = lock(&self.inner);
        Locked { inner, full: &self.full }
    }
}

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.full.store(self.inner.is_full(), Relaxed);
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        self.max != 0 && self.taken >= self.max
    }

    fn try_acquire(&mut self) -> bool {
        let free = !self.is_full();
        self.taken += usize::from(free);
        free
    }

    /// Grants a free permit to the next request in the queue. Returns its waker, to be called without the
    /// lock.
    fn grant(&mut self) -> Option<Waker> {
        if self.is_full() {
            return None;
        }
        let next = self.queue.next()?;
        self.taken += 1;
        Some(next)
    }

    fn release(&mut self) -> Option<Waker> {
        self.taken = self.taken.saturating_sub(1);
        self.grant()
    }
}

/// A permit. Dropping it passes it to the next request in the queue.
pub(crate) struct Permit<H: HasLimit>(Arc<H>);

impl<H: HasLimit> Permit<H> {
    /// Takes a permit; `None` when none is free. Waiting requests come first.
    // Not inlined, like the functions below, to keep the path of requests without a limit short.
    #[inline(never)]
    pub(crate) fn try_acquire(holder: &Arc<H>) -> Option<Self> {
        let taken = holder.permits().lock().try_acquire();
        taken.then(|| Self(holder.clone()))
    }
}

impl<H: HasLimit> Drop for Permit<H> {
    #[inline(never)]
    fn drop(&mut self) {
        let woken = self.0.permits().lock().release();
        if let Some(woken) = woken {
            woken.wake();
        }
    }
}

/// A request that waits, until it is dropped.
pub(crate) struct Waiter<H: HasLimit> {
    holder: Arc<H>,
    key: u64,
    /// Its position in the queue, from its first poll for a permit until it gets one.
    ticket: Option<Ticket>,
}

impl<H: HasLimit> Waiter<H> {
    /// A waiter for the session with this key (or [`NO_SESSION`](super::NO_SESSION), or
    /// [`UNIDENTIFIED`](super::UNIDENTIFIED)), of at most `max`. `None` when too many requests wait, in
    /// total or of this session.
    pub(crate) fn try_new(holder: &Arc<H>, key: u64, max: usize) -> Option<Self> {
        let taken = holder.permits().lock().quota.try_acquire(key, max);
        taken.then(|| Self { holder: holder.clone(), key, ticket: None })
    }

    /// Waits for a permit.
    #[inline(never)]
    pub(crate) fn poll_permit(&mut self, cx: &mut Context<'_>) -> Poll<Permit<H>> {
        // Declared before the lock, so that a replaced waker is dropped after its release.
        let mut waker = cx.waker().clone();
        let mut inner = self.holder.permits().lock();
        let granted = match self.ticket {
            None => inner.try_acquire(),
            Some(ticket) => match inner.queue.get_mut(ticket) {
                Some(old) => {
                    std::mem::swap(old, &mut waker);
                    return Poll::Pending;
                }
                None => true,
            },
        };
        if granted {
            self.ticket = None;
            return Poll::Ready(Permit(self.holder.clone()));
        }
        self.ticket = Some(inner.queue.push(self.key, waker));
        Poll::Pending
    }
}

impl<H: HasLimit> Drop for Waiter<H> {
    #[inline(never)]
    fn drop(&mut self) {
        let mut inner = self.holder.permits().lock();
        inner.quota.release(self.key);
        let waker = self.ticket.and_then(|ticket| inner.queue.remove(ticket));
        // It was granted a permit that it has not taken.
        let unused = self.ticket.is_some() && waker.is_none();
        let woken = if unused { inner.release() } else { None };
        drop(inner);
        drop(waker);
        if let Some(woken) = woken {
            woken.wake();
        }
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("ConcurrencyLimit")
            .field("max", &inner.max)
            .field("taken", &inner.taken)
            .field("waiting", &inner.quota.taken())
            .finish()
    }
}
