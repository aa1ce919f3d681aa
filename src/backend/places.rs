//! Who may wait: a bounded number of places, of which no session gets too many.

use std::collections::BTreeMap;

/// The places that are taken, in all and by each session.
///
/// A session may take one more while it has fewer than are free: the dynamic threshold of Choudhury
/// and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (1998), with
/// alpha = 1. One session alone gets half of the places, rounded up, and there are always some for
/// another. The requests that have no key cannot be told apart, and obey the total only.
#[derive(Debug)]
pub(crate) struct Places {
    taken: usize,
    by_key: BTreeMap<u64, usize>,
}

impl Places {
    pub(crate) const fn new() -> Self {
        Self { taken: 0, by_key: BTreeMap::new() }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes a place for `key`, of `max` in all; 0 is no key.
    pub(crate) fn take(&mut self, key: u64, max: usize) -> bool {
        let free = max.saturating_sub(self.taken);
        let own = if key == 0 { 0 } else { self.by_key.get(&key).copied().unwrap_or(0) };
        if own >= free {
            return false;
        }
        self.taken += 1;
        if key != 0 {
            self.by_key.insert(key, own + 1);
        }
        true
    }

    /// Gives back a place that was taken for `key`.
    pub(crate) fn give_back(&mut self, key: u64) {
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
    use super::Places;

    fn take_all(places: &mut Places, key: u64, max: usize) -> usize {
        (0..2 * max).filter(|_| places.take(key, max)).count()
    }

    #[test]
    fn one_session_gets_half_and_leaves_room_for_others() {
        let mut places = Places::new();
        assert_eq!(take_all(&mut places, 7, 1024), 512, "half of all places");
        assert_eq!(take_all(&mut places, 8, 1024), 256, "half of what is left");
        let others = (100..200).filter(|key| places.take(*key, 1024)).count();
        assert_eq!(others, 100, "each that has none yet gets one");
        assert_eq!(places.taken(), 868);
    }

    #[test]
    fn few_places_are_shared_as_far_as_they_go() {
        for (max, one) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(take_all(&mut Places::new(), 7, max), one, "of {max} places");
        }
    }

    #[test]
    fn requests_without_a_key_obey_the_total_only() {
        let mut places = Places::new();
        assert_eq!(take_all(&mut places, 0, 10), 10);
        assert!(!places.take(7, 10), "the total holds for all");
        assert!(!places.take(0, 10));
    }

    #[test]
    fn places_given_back_are_free_for_whoever_comes() {
        let mut places = Places::new();
        assert_eq!(take_all(&mut places, 7, 4), 2);
        assert_eq!(take_all(&mut places, 8, 4), 1);
        places.give_back(7);
        assert!(places.take(8, 4), "it has one, and two are free");
        for key in [7, 8, 8] {
            places.give_back(key);
        }
        assert_eq!((places.taken(), places.by_key.len()), (0, 0), "nothing is kept of them");
    }
}
