//! Bounded queue length with a per-session quota.

use std::collections::BTreeMap;

/// The key of requests without a session.
pub(crate) const NO_SESSION: u64 = 0;

/// The key of requests whose sessions cannot be told apart, as with plain tokens.
pub(crate) const UNIDENTIFIED: u64 = 1;

/// The number of waiting requests, in total and of each session.
///
/// One more request of a session may wait while fewer of its requests wait than places are free: the
/// dynamic threshold of Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
/// Switches" (1998), with alpha = 1. A single session gets half of the places, rounded up, so that some
/// are always left for others. Requests without a session get at most half of all places. Sessions that
/// cannot be told apart are limited only by the total.
#[derive(Debug)]
pub(crate) struct WaitQuota {
    taken: usize,
    by_key: BTreeMap<u64, usize>,
}

impl WaitQuota {
    pub(crate) const fn new() -> Self {
        Self { taken: 0, by_key: BTreeMap::new() }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes one of `max` places for `key`.
    pub(crate) fn try_acquire(&mut self, key: u64, max: usize) -> bool {
        let own = self.by_key.get(&key).copied().unwrap_or(0);
        let free = max.saturating_sub(self.taken);
        let may = match key {
            UNIDENTIFIED => free > 0,
            NO_SESSION => free > 0 && own < max.div_ceil(2),
            _ => own < free,
        };
        if may {
            self.taken += 1;
            self.by_key.insert(key, own + 1);
        }
        may
    }

    /// Releases a place that was taken for `key`.
    pub(crate) fn release(&mut self, key: u64) {
        self.taken = self.taken.saturating_sub(1);
        match self.by_key.get_mut(&key) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) => {
                self.by_key.remove(&key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NO_SESSION, UNIDENTIFIED, WaitQuota};

    fn acquire_all(quota: &mut WaitQuota, key: u64, max: usize) -> usize {
        (0..2 * max).filter(|_| quota.try_acquire(key, max)).count()
    }

    #[test]
    fn one_session_gets_half_of_the_places() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 1024), 512, "half of all places");
        assert_eq!(acquire_all(&mut quota, 8, 1024), 256, "half of what is left");
        let others = (100..200).filter(|key| quota.try_acquire(*key, 1024)).count();
        assert_eq!(others, 100, "each new session gets a place");
        assert_eq!(quota.taken(), 868);
    }

    #[test]
    fn one_session_gets_half_of_a_small_quota_rounded_up() {
        for (max, one) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(acquire_all(&mut WaitQuota::new(), 7, max), one, "of {max} places");
        }
    }

    #[test]
    fn requests_without_a_session_get_at_most_half() {
        for (max, half) in [(0, 0), (1, 1), (2, 1), (5, 3), (10, 5)] {
            assert_eq!(
                acquire_all(&mut WaitQuota::new(), NO_SESSION, max),
                half,
                "of {max} places"
            );
        }
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 10), 5);
        assert!(quota.try_acquire(8, 10), "another session");
        assert_eq!(
            acquire_all(&mut quota, NO_SESSION, 10),
            4,
            "all that is left, as it is less than half of the total"
        );
        quota.release(7);
        assert!(quota.try_acquire(NO_SESSION, 10), "the fifth of ten places");
        quota.release(7);
        assert!(
            !quota.try_acquire(NO_SESSION, 10),
            "half of all places are taken, though one is free"
        );
        quota.release(NO_SESSION);
        assert!(quota.try_acquire(NO_SESSION, 10));
    }

    #[test]
    fn sessions_that_cannot_be_told_apart_are_limited_only_by_the_total() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, UNIDENTIFIED, 10), 10);
        assert!(!quota.try_acquire(7, 10), "the total limits every session");
        assert!(!quota.try_acquire(UNIDENTIFIED, 10));
        assert!(!quota.try_acquire(NO_SESSION, 10));
    }

    #[test]
    fn released_places_are_free_for_other_sessions() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 4), 2);
        assert_eq!(acquire_all(&mut quota, 8, 4), 1);
        quota.release(7);
        assert!(quota.try_acquire(8, 4), "the session has one place, and two are free");
        for key in [7, 8, 8] {
            quota.release(key);
        }
        assert_eq!((quota.taken(), quota.by_key.len()), (0, 0), "no entries are left");
    }

    #[test]
    fn one_released_place_is_one_that_can_be_taken_again() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 8), 4);
        quota.release(7);
        assert_eq!(acquire_all(&mut quota, 7, 8), 1);
    }
}
