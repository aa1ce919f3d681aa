//! The wall clock inside tokens.

use std::{fmt, time::SystemTime};

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
