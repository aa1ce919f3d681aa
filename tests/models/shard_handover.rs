//! Models of counters without an atomic read-modify-write, whose shard goes from one thread to the next.

use std::sync::Arc;

use loom::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use crate::{
    shard_owners::{Access, SHARED, ShardOwners},
    support::check,
};

/// The counters of some shards. The last one is shared.
struct Counters {
    owners: ShardOwners,
    shards: [AtomicU64; 3],
}

impl Counters {
    /// Only the first `free` shards are free.
    fn new(free: u32) -> Arc<Self> {
        let owners = ShardOwners(AtomicU64::new(u64::MAX << free));
        Arc::new(Self { owners, shards: [(); 3].map(|()| AtomicU64::new(0)) })
    }

    /// What a thread does from its first count to its end.
    fn count(&self) {
        let index = self.owners.claim();
        let shard = if index == SHARED { 2 } else { usize::from(index) };
        Access::to(index).add(&self.shards[shard], 1);
        self.owners.release(index);
    }

    fn assert_total(&self, expected: u64) {
        let total: u64 = self.shards.iter().map(|shard| shard.load(Relaxed)).sum();
        assert_eq!(total, expected, "a count is lost");
        assert_eq!(self.owners.0.load(Relaxed).trailing_ones(), 0, "all shards are free again");
    }
}

fn nothing_is_lost_with(free: u32) {
    check(move || {
        let counters = Counters::new(free);
        let threads = [(); 2].map(|()| {
            let counters = counters.clone();
            thread::spawn(move || counters.count())
        });
        counters.count();
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        counters.assert_total(3);
    });
}

#[test]
fn next_owner_of_a_shard_continues_its_counters() {
    nothing_is_lost_with(1);
}

#[test]
fn threads_with_shards_of_their_own_lose_nothing() {
    nothing_is_lost_with(2);
}
