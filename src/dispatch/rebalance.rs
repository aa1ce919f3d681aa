//! Evening the load out after scale-out: sessions that rest move, a few at a time.

use std::time::Duration;

use crate::{error::ConfigError, util::RateLimiter};

/// Moves sessions that rest to backends that have less to do.
///
/// Without it nobody moves because a backend joins, and a new backend fills with new sessions only. With it
/// a session moves at its next request (outcome `moved`, reason `rebalanced`) when all of this is so:
///
/// - its backend has more sessions than `tolerance` times the average, per weight;
/// - another one is ready and has less than the average, also with the session;
/// - the session has not been seen for `idle_for`: nobody moves in the middle of their work;
/// - fewer than `max_per_second` have moved in this second.
///
/// A backend that takes a session stays below the average, so nobody moves back and forth.
///
/// When a session was last seen stands in sealed tokens ([`Cookie`](crate::affinity::Cookie),
/// [`Header`](crate::affinity::Header), [`Envelope`](crate::affinity::Envelope)): only sessions that
/// have one move, and their tokens are written anew after a third of `idle_for`.
///
/// What [`before_move`](crate::StickyLayer::before_move) says is done first, and when that fails the
/// session stays.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{Backends, KeyRing, Rebalance, StickyLayer, affinity::Cookie};
///
/// # let backends: Backends<()> = Backends::new();
/// let rebalance = Rebalance::new().idle_for(Duration::from_secs(600));
/// let layer = StickyLayer::new(backends, Cookie::sealed("sid", KeyRing::generate()?))
///     .rebalance(rebalance)?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalance {
    tolerance: f64,
    idle_for: Duration,
    max_per_second: u32,
}

impl Rebalance {
    /// Tolerance 1.25, sessions idle for 5 minutes, at most 10 a second.
    pub const fn new() -> Self {
        Self { tolerance: 1.25, idle_for: Duration::from_secs(300), max_per_second: 10 }
    }

    /// How many times the average number of sessions per weight a backend may have, at least 1.1;
    /// default 1.25.
    #[must_use]
    pub const fn tolerance(mut self, times: f64) -> Self {
        self.tolerance = times;
        self
    }

    /// For how long a session must not have been seen, at least a second; default 5 minutes.
    #[must_use]
    pub const fn idle_for(mut self, idle: Duration) -> Self {
        self.idle_for = idle;
        self
    }

    /// How many sessions may move within a second, at least 1; default 10.
    #[must_use]
    pub const fn max_per_second(mut self, sessions: u32) -> Self {
        self.max_per_second = sessions;
        self
    }

    pub(crate) fn check(self) -> Result<Rebalancer, ConfigError> {
        if !(1.1..=1e6).contains(&self.tolerance) {
            return Err(ConfigError::new(format!(
                "rebalance: the tolerance {} is not between 1.1 and 1000000; sessions are counted to \
                 within some percent, so use 1.1 or more, such as 1.25",
                self.tolerance
            )));
        }
        if self.idle_for < Duration::from_secs(1) {
            return Err(ConfigError::new(
                "rebalance: idle_for must be at least one second, the unit of the dates in tokens",
            ));
        }
        if self.max_per_second == 0 {
            return Err(ConfigError::new(
                "rebalance: at most 0 sessions a second would move nobody; leave rebalancing out \
                 instead",
            ));
        }
        let limiter = RateLimiter::new(self.max_per_second);
        Ok(Rebalancer { settings: self, limiter })
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self::new()
    }
}

/// Rebalancing at work.
#[derive(Debug)]
pub(crate) struct Rebalancer {
    settings: Rebalance,
    limiter: RateLimiter,
}

impl Rebalancer {
    pub(crate) fn idle_for(&self) -> Duration {
        self.settings.idle_for
    }

    pub(crate) fn tolerance(&self) -> f64 {
        self.settings.tolerance
    }

    /// Whether one more session may move now; it counts as moved.
    pub(crate) fn admits(&self) -> bool {
        self.limiter.admits()
    }
}
