//! Which service a backend has, and how often it has recovered: what makes news about it outdated.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The generation of a backend at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// Whether the backend had the same service then.
    #[inline]
    pub(crate) fn has_service_of(self, other: Self) -> bool {
        (self.0 ^ other.0) >> 32 == 0
    }

    /// Whether the backend had the same service then, and has not recovered since.
    #[inline]
    pub(crate) fn has_health_of(self, other: Self) -> bool {
        self == other
    }
}

/// The present generation: the number of services in the upper half, and that of recoveries in the lower
/// one. One word, as every request reads it.
#[derive(Debug, Default)]
pub(super) struct PresentGeneration(AtomicU64);

impl PresentGeneration {
    #[inline]
    pub(super) fn load(&self) -> Generation {
        Generation(self.0.load(Relaxed))
    }

    pub(super) fn service_replaced(&self) {
        self.0.fetch_add(1 << 32, Relaxed);
    }

    pub(super) fn recovered(&self) {
        let next = |word: u64| {
            let recoveries = (word as u32).wrapping_add(1);
            Some(word & !u64::from(u32::MAX) | u64::from(recoveries))
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_leaves_the_service_as_it_is() {
        let present = PresentGeneration::default();
        let first = present.load();
        present.recovered();
        let recovered = present.load();
        assert!(recovered.has_service_of(first) && !recovered.has_health_of(first));
        present.service_replaced();
        assert!(!present.load().has_service_of(recovered));
    }

    #[test]
    fn count_of_recoveries_wraps_without_a_change_of_the_service() {
        let present = PresentGeneration(AtomicU64::new(7 << 32 | u64::from(u32::MAX)));
        let before = present.load();
        present.recovered();
        assert!(present.load().has_service_of(before) && !present.load().has_health_of(before));
        present.service_replaced();
        assert_eq!(present.load(), Generation(8 << 32));
    }
}
