//! The slots of a backend that has a limit, and those that wait for it.

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

/// What has slots.
pub(crate) trait HasLimit {
    fn permits(&self) -> &ConcurrencyLimit;
}

/// How many requests a backend takes at a time, and who waits for it: for a slot, or for its service
/// to become ready.
///
/// A waker belongs to others: it is called, and dropped, after the lock is given back.
pub(crate) struct ConcurrencyLimit {
    /// The same as under the lock, so that a backend without a limit needs none.
    max: AtomicUsize,
    /// Whether there is a limit, and none is free.
    full: AtomicBool,
    inner: Mutex<Inner>,
}

/// The slots under their lock. What is known without it follows when it is given back.
struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    full: &'a AtomicBool,
}

struct Inner {
    /// 0 for no limit.
    max: usize,
    taken: usize,
    quota: WaitQuota,
    /// Those that wait for a slot. Who is taken out has got one, so a free slot means that nobody is
    /// in there.
    queue: FairQueue<Waker>,
}

impl ConcurrencyLimit {
    /// Without a limit.
    pub(crate) fn new() -> Self {
        let inner = Inner { max: 0, taken: 0, quota: WaitQuota::new(), queue: FairQueue::new() };
        Self { max: AtomicUsize::new(0), full: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    /// How many may be taken at a time; 0 for no limit: then none need be taken.
    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.max.load(Relaxed)
    }

    /// Whether none is free.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// How many hold a place.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().quota.taken()
    }

    /// Changes how many may be taken at a time; 0 for no limit. Those that are taken keep counting,
    /// and as many as now fit are given to those that wait.
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

    /// Gives a slot that is free to the next in turn, who is to be woken.
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

/// A slot that is taken, until it is dropped; then it goes to the next in turn.
pub(crate) struct Permit<H: HasLimit>(Arc<H>);

impl<H: HasLimit> Permit<H> {
    /// `None` when none is free. Nobody overtakes those that wait.
    // Not inlined, as what is below: it would be in the way of the requests that need no slot.
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

/// A place among those that wait, until it is dropped.
pub(crate) struct Waiter<H: HasLimit> {
    holder: Arc<H>,
    key: u64,
    /// Once it has asked for a slot, until it has it.
    ticket: Option<Ticket>,
}

impl<H: HasLimit> Waiter<H> {
    /// A place for the session with this key (or [`NO_SESSION`](crate::places::NO_SESSION), or
    /// [`UNIDENTIFIED`](crate::places::UNIDENTIFIED)), of `max` in all; `None` when there are too many, in all or of
    /// this session.
    pub(crate) fn try_new(holder: &Arc<H>, key: u64, max: usize) -> Option<Self> {
        let taken = holder.permits().lock().quota.try_acquire(key, max);
        taken.then(|| Self { holder: holder.clone(), key, ticket: None })
    }

    /// Waits for a slot, in turn.
    #[inline(never)]
    pub(crate) fn poll_permit(&mut self, cx: &mut Context<'_>) -> Poll<Permit<H>> {
        // One that gives way to another is dropped after the lock, as it is declared before.
        let mut waker = cx.waker().clone();
        let mut inner = self.holder.permits().lock();
        let mine = match self.ticket {
            None => inner.try_acquire(),
            Some(ticket) => match inner.queue.get_mut(ticket) {
                Some(old) => {
                    std::mem::swap(old, &mut waker);
                    return Poll::Pending;
                }
                None => true,
            },
        };
        if mine {
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
        let own = self.ticket.and_then(|ticket| inner.queue.remove(ticket));
        // It was given a slot and has not taken it.
        let unused = self.ticket.is_some() && own.is_none();
        let woken = if unused { inner.release() } else { None };
        drop(inner);
        drop(own);
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
