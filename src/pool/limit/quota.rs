//! Who may wait: a bounded number of places, of which no session gets too many.

use std::collections::BTreeMap;

/// The key of the requests that have no session.
pub(crate) const NO_SESSION: u64 = 0;

/// The key of the requests whose sessions cannot be told apart, as with plain tokens.
pub(crate) const UNIDENTIFIED: u64 = 1;

/// The places that are taken, in all and by each session.
///
/// A session may take one more while it has fewer than are free: the dynamic threshold of Choudhury
/// and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (1998), with
/// alpha = 1. One session alone gets half of the places, rounded up, and there are always some for
/// another. The requests without a session have at most half of all quota. Sessions that cannot be
/// told apart obey the total only.
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

    /// Takes a place for `key`, of `max` in all.
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

    /// Gives back a place that was taken for `key`.
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
    fn one_session_gets_half_and_leaves_room_for_others() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 1024), 512, "half of all places");
        assert_eq!(acquire_all(&mut quota, 8, 1024), 256, "half of what is left");
        let others = (100..200).filter(|key| quota.try_acquire(*key, 1024)).count();
        assert_eq!(others, 100, "each that has none yet gets one");
        assert_eq!(quota.taken(), 868);
    }

    #[test]
    fn few_places_are_shared_as_far_as_they_go() {
        for (max, one) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(acquire_all(&mut WaitQuota::new(), 7, max), one, "of {max} places");
        }
    }

    #[test]
    fn requests_without_a_session_get_half_at_most() {
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
        assert_eq!(acquire_all(&mut quota, NO_SESSION, 10), 4, "what is left, and not half of it");
        quota.release(7);
        assert!(quota.try_acquire(NO_SESSION, 10), "five of ten");
        quota.release(7);
        assert!(!quota.try_acquire(NO_SESSION, 10), "half of all places, though one is free");
        quota.release(NO_SESSION);
        assert!(quota.try_acquire(NO_SESSION, 10));
    }

    #[test]
    fn sessions_that_cannot_be_told_apart_obey_the_total_only() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, UNIDENTIFIED, 10), 10);
        assert!(!quota.try_acquire(7, 10), "the total holds for all");
        assert!(!quota.try_acquire(UNIDENTIFIED, 10));
        assert!(!quota.try_acquire(NO_SESSION, 10));
    }

    #[test]
    fn places_given_back_are_free_for_whoever_comes() {
        let mut quota = WaitQuota::new();
        assert_eq!(acquire_all(&mut quota, 7, 4), 2);
        assert_eq!(acquire_all(&mut quota, 8, 4), 1);
        quota.release(7);
        assert!(quota.try_acquire(8, 4), "it has one, and two are free");
        for key in [7, 8, 8] {
            quota.release(key);
        }
        assert_eq!((quota.taken(), quota.by_key.len()), (0, 0), "nothing is kept of them");
    }
}
