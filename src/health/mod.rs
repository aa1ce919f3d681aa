//! Who is alive: the readiness poll and what real traffic tells, one state per backend.

mod driver;
mod passive;

use std::time::Duration;

pub(crate) use self::{driver::ensure_driven, passive::Passive};

/// How a pool finds out which of its backends can serve.
///
/// **Readiness poll.** A task asks a clone of every backend's service whether it is ready, once per
/// interval, and drops the clone at once, so that a probe never keeps a permit. Ready, pending and
/// failed become [`Ready`](crate::State::Ready), [`Busy`](crate::State::Busy) and
/// [`Down`](crate::State::Down). The task begins with the first request, or with
/// [`StickyLayer::start`](crate::StickyLayer::start), and ends with the last handle of the pool.
/// Services that are always "ready", such as Tonic's `Channel` and most HTTP clients, say nothing
/// in this way:
///
/// **Passive detection.** A backend whose connections fail is down for a while: first for a tenth of
/// the longest ejection, then for twice as long each time. After that one request at a time may try
/// it; an answer brings it back.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::Health;
///
/// let health = Health::new()
///     .readiness_interval(Duration::from_millis(500))
///     .connect_failures(2)
///     .ejection(Duration::from_secs(30));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    pub(crate) readiness_interval: Duration,
    pub(crate) connect_failures: u32,
    pub(crate) ejection: Duration,
}

impl Health {
    /// Polls every second, and ejects after one connection failure for at most 10 s.
    pub const fn new() -> Self {
        Self {
            readiness_interval: Duration::from_secs(1),
            connect_failures: 1,
            ejection: Duration::from_secs(10),
        }
    }

    /// How often every backend's readiness is polled, at least a millisecond; default 1 s.
    #[must_use]
    pub fn readiness_interval(mut self, interval: Duration) -> Self {
        self.readiness_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// How many connection failures in a row eject a backend; 0 for never; default 1.
    #[must_use]
    pub const fn connect_failures(mut self, failures: u32) -> Self {
        self.connect_failures = failures;
        self
    }

    /// The longest ejection; default 10 s. The first one takes a tenth of it.
    #[must_use]
    pub const fn ejection(mut self, longest: Duration) -> Self {
        self.ejection = longest;
        self
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
