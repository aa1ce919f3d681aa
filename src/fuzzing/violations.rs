//! The counter of violations without the rest of a snapshot, which takes longer than a request.

use crate::pool::Backends;

/// How many requests with a valid pin were served by another backend.
pub fn violations<S>(backends: &Backends<S>) -> u64 {
    backends.pool().counters.stats().violations()
}
