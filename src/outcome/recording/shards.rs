//! Shards of counters: each of the first 64 threads that record has its own shard, which it changes without
//! an atomic read-modify-write.

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

/// How many threads have a shard of their own at one time.
const THREADS: usize = 64;

/// The shards that threads own, one bit each.
static OWNED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SHARD: OwnedShard = const { OwnedShard(Cell::new(NOT_ASKED)) };
}

/// The thread has not recorded anything yet.
const NOT_ASKED: u8 = u8::MAX;
/// The shard of all threads without their own.
const SHARED: u8 = THREADS as u8;

/// The index of the shard that a thread owns, until the thread ends.
struct OwnedShard(Cell<u8>);

impl OwnedShard {
    #[inline]
    fn index(&self) -> u8 {
        match self.0.get() {
            NOT_ASKED => self.claim(),
            index => index,
        }
    }

    #[cold]
    fn claim(&self) -> u8 {
        // Acquires what the last owner of the shard has stored.
        let claimed = OWNED.fetch_update(AcqRel, Acquire, |owned| {
            let free = owned.trailing_ones();
            (free < u64::BITS).then(|| owned | 1 << free)
        });
        let index = claimed.map_or(SHARED, |owned| owned.trailing_ones() as u8);
        self.0.set(index);
        index
    }
}

impl Drop for OwnedShard {
    fn drop(&mut self) {
        let index = self.0.get();
        if index < SHARED {
            OWNED.fetch_and(!(1 << index), Release);
        }
    }
}

/// One `T` for each thread with a shard, and one for all other threads.
#[derive(Debug)]
pub(super) struct Sharded<T>(Box<[Aligned<T>]>);

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned<T>(T);

/// How the counters of a shard are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// No other thread changes them.
    Exclusive,
    Shared,
}

impl Access {
    #[inline]
    pub(super) fn add(self, counter: &AtomicU64, amount: u64) {
        match self {
            Self::Exclusive => counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed),
            Self::Shared => {
                counter.fetch_add(amount, Relaxed);
            }
        }
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self((0..=THREADS).map(|_| Aligned::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// The shard of this thread.
    #[inline]
    pub(super) fn with(&self, record: impl FnOnce(&T, Access)) {
        // While a thread ends, its shard may belong to another one already.
        let index = SHARD.try_with(OwnedShard::index).unwrap_or(SHARED);
        let access = if index == SHARED { Access::Shared } else { Access::Exclusive };
        if let Some(Aligned(shard)) = self.0.get(usize::from(index)) {
            record(shard, access);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Aligned(shard)| shard)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn nothing_is_lost_with_more_threads_than_shards_and_with_threads_that_end() {
        let counters = Arc::new(Sharded::<AtomicU64>::default());
        for _ in 0..3 {
            let threads: Vec<_> = (0..THREADS + 20)
                .map(|_| {
                    let counters = counters.clone();
                    thread::spawn(move || {
                        for _ in 0..1000 {
                            counters.with(|counter, access| access.add(counter, 1));
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        let total: u64 = counters.iter().map(|counter| counter.load(Relaxed)).sum();
        assert_eq!(total, 3 * (THREADS as u64 + 20) * 1000);
    }
}
