//! The wall clock of tokens, and deadlines that cannot overflow.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The longest duration to a deadline; longer ones are limited to it so that `Instant` does not overflow.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The instant `duration` from now, at most a [`YEAR`].
pub(crate) fn later(duration: Duration) -> Instant {
    after(Instant::now(), duration)
}

/// The instant `duration` after `start`, at most a [`YEAR`].
pub(crate) fn after(start: Instant, duration: Duration) -> Instant {
    start + duration.min(YEAR)
}

/// The wall clock for the timestamps of tokens, which must be comparable on every gateway and after every
/// restart. Durations within the process are measured with `tokio::time::Instant`.
///
/// # Example
///
/// A clock for tests, given to [`StickyLayer::clock`](crate::StickyLayer::clock):
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_sticky::WallClock;
///
/// #[derive(Debug)]
/// struct Ahead(Duration);
///
/// impl WallClock for Ahead {
///     fn now(&self) -> SystemTime {
///         SystemTime::now() + self.0
///     }
/// }
/// ```
pub trait WallClock: fmt::Debug + Send + Sync + 'static {
    /// The date and time now.
    fn now(&self) -> SystemTime;
}

/// The system's clock: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Milliseconds since the Unix epoch; 0 before it.
pub(crate) fn unix_millis(clock: &dyn WallClock) -> u64 {
    let since = clock.now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
