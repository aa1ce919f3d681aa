//! Time: the wall clock inside tokens, and moments that are not too far away to be named.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// A duration without a sensible end is taken for this, so that the moment at its end exists.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The moment that is `duration` from now.
pub(crate) fn later(duration: Duration) -> Instant {
    after(Instant::now(), duration)
}

/// The moment that is `duration` after `start`.
pub(crate) fn after(start: Instant, duration: Duration) -> Instant {
    start + duration.min(YEAR)
}

/// The wall clock that dates tokens. Durations on this side of the wire are measured with
/// `tokio::time::Instant`; dates inside tokens must be good on every gateway and after every
/// restart, so they are wall-clock dates.
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
