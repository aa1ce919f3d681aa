//! An instant in eight bytes, for the entries of the local cache.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// An [`Instant`] in half of its size: microseconds since the first one of this process. Negative before
/// that, which happens with the paused clocks of several test runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompactInstant(i64);

static FIRST: OnceLock<Instant> = OnceLock::new();

impl CompactInstant {
    /// Earlier than any other.
    pub(super) const NEVER: Self = Self(i64::MIN);

    pub(super) fn of(time: Instant) -> Self {
        let first = *FIRST.get_or_init(|| time);
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        match time.checked_duration_since(first) {
            Some(after) => Self(micros(after)),
            // Rounded down like positive values, so that differences are exact.
            None => Self(-micros(
                first.saturating_duration_since(time).saturating_add(Duration::from_nanos(999)),
            )),
        }
    }

    /// The time since `earlier`, or zero if `earlier` is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_equal_those_of_the_clock() {
        let now = Instant::now();
        let (first, later) =
            (CompactInstant::of(now), CompactInstant::of(now + Duration::from_millis(1500)));
        assert_eq!(later.since(first), Duration::from_millis(1500));
        assert_eq!(first.since(later), Duration::ZERO);
        let Some(before) = now.checked_sub(Duration::from_millis(3)) else { return };
        assert_eq!(later.since(CompactInstant::of(before)), Duration::from_millis(1503));
        assert!(
            CompactInstant::of(before).since(CompactInstant::NEVER) > Duration::from_secs(1 << 40)
        );
    }
}
