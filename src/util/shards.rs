//! Shards of counters: each of the first 64 threads that record has its own shard, which it changes without
//! an atomic read-modify-write.

use std::cell::Cell;

pub(crate) use super::shard_owners::Access;
use super::shard_owners::{SHARED, ShardOwners, THREADS};
use crate::util::sync::AtomicU64;

/// The shards that threads own.
static OWNERS: ShardOwners = ShardOwners(AtomicU64::new(0));

thread_local! {
    static SHARD: OwnedShard = const { OwnedShard(Cell::new(NOT_ASKED)) };
}

/// The thread has not recorded anything yet.
const NOT_ASKED: u8 = u8::MAX;
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
        let index = OWNERS.claim();
        self.0.set(index);
        index
    }
}

impl Drop for OwnedShard {
    fn drop(&mut self) {
        OWNERS.release(self.0.get());
    }
}

/// One `T` for each thread with a shard, and one for all other threads.
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Aligned<T>]>);

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned<T>(T);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self((0..=THREADS).map(|_| Aligned::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// The shard of this thread.
    #[inline]
    pub(crate) fn with(&self, record: impl FnOnce(&T, Access)) {
        // While a thread ends, its shard may belong to another one already.
        let index = SHARD.try_with(OwnedShard::index).unwrap_or(SHARED);
        if let Some(Aligned(shard)) = self.0.get(usize::from(index)) {
            record(shard, Access::to(index));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Aligned(shard)| shard)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::Ordering::Relaxed},
        thread,
    };

    use super::*;

    #[test]
    fn nothing_is_lost_with_more_threads_than_shards_and_with_threads_that_end() {
        // Miri is slow.
        const TIMES: u64 = if cfg!(miri) { 3 } else { 1000 };
        let counters = Arc::new(Sharded::<AtomicU64>::default());
        for _ in 0..3 {
            let threads: Vec<_> = (0..THREADS + 20)
                .map(|_| {
                    let counters = counters.clone();
                    thread::spawn(move || {
                        for _ in 0..TIMES {
                            counters.with(|counter, access| access.add(counter, 1));
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        let total: u64 = counters.iter().map(|counter| counter.load(Relaxed)).sum();
        assert_eq!(total, 3 * (THREADS as u64 + 20) * TIMES);
    }
}
