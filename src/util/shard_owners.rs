//! Which thread owns which shard, and how counters in it are changed.

use crate::util::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// How many threads have a shard of their own at one time.
pub(super) const THREADS: usize = 64;

/// The shard of all threads without their own.
pub(super) const SHARED: u8 = THREADS as u8;

/// The shards that threads own, one bit each.
pub(super) struct ShardOwners(pub(super) AtomicU64);

impl ShardOwners {
    /// Takes a shard, or [`SHARED`] if none is free.
    #[cold]
    pub(super) fn claim(&self) -> u8 {
        // Acquires what the last owner of the shard has stored.
        let claimed = self.0.fetch_update(AcqRel, Acquire, |owned| {
            let free = owned.trailing_ones();
            (free < u64::BITS).then(|| owned | 1 << free)
        });
        claimed.map_or(SHARED, |owned| owned.trailing_ones() as u8)
    }

    /// Returns a shard, if `index` is that of one.
    pub(super) fn release(&self, index: u8) {
        if index < SHARED {
            self.0.fetch_and(!(1 << index), Release);
        }
    }
}

/// How the counters of a shard are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// No other thread changes them.
    Exclusive,
    Shared,
}

impl Access {
    /// The access to the shard `index` of a thread that has claimed it.
    #[inline]
    pub(super) fn to(index: u8) -> Self {
        if index == SHARED { Self::Shared } else { Self::Exclusive }
    }

    #[inline]
    pub(crate) fn add(self, counter: &AtomicU64, amount: u64) {
        match self {
            Self::Exclusive => counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed),
            Self::Shared => {
                counter.fetch_add(amount, Relaxed);
            }
        }
    }
}
