//! How many connections were opened to a backend, and how often one was used again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::idle_pool::{shard_count, thread_slot};

/// Totals of an [`Upstream`](crate::proxy::Upstream) since it was built, for all its clones together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    opened: u64,
    reused: u64,
}

impl ConnectionStats {
    /// Connections that were opened, and have passed their handshake.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Requests that were sent on a connection that was open already.
    pub fn reused(&self) -> u64 {
        self.reused
    }
}

/// The counters, in a shard of each thread.
#[derive(Debug)]
pub(super) struct ConnectionCounts {
    opened: AtomicU64,
    reused: Box<[Shard]>,
}

/// On a cache line of its own, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

impl ConnectionCounts {
    pub(super) fn new() -> Self {
        let reused = (0..shard_count()).map(|_| Shard::default()).collect();
        Self { opened: AtomicU64::new(0), reused }
    }

    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(super) fn reused(&self) {
        let Shard(count) = &self.reused[thread_slot() % self.reused.len()];
        count.fetch_add(1, Relaxed);
    }

    pub(super) fn totals(&self) -> ConnectionStats {
        let reused = self.reused.iter().map(|Shard(count)| count.load(Relaxed)).sum();
        ConnectionStats { opened: self.opened.load(Relaxed), reused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_threads_are_added() {
        let counts = ConnectionCounts::new();
        assert_eq!(counts.totals(), ConnectionStats::default());
        // More threads than shards.
        let threads = shard_count() + 1;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| counts.reused());
            }
        });
        for _ in 0..2 {
            counts.opened();
        }
        for _ in 0..2 {
            counts.reused();
        }
        let stats = counts.totals();
        assert_eq!(stats.opened(), 2);
        assert_eq!(stats.reused(), threads as u64 + 2);
    }

    #[test]
    fn a_thread_counts_in_the_shard_of_its_slot() {
        let shards = shard_count();
        std::thread::scope(|scope| {
            // More threads than shards.
            for _ in 0..=shards {
                scope.spawn(|| {
                    let counts = ConnectionCounts::new();
                    counts.reused();
                    for (at, Shard(count)) in counts.reused.iter().enumerate() {
                        let expected = u64::from(at == thread_slot() % shards);
                        assert_eq!(count.load(Relaxed), expected);
                    }
                });
            }
        });
    }
}
