//! Rebalancing: idle sessions move to backends with fewer sessions, a few at a time.

use std::time::Duration;

use crate::{error::ConfigError, util::RateLimiter};

/// Moves idle sessions to backends with fewer sessions.
///
/// Without it no session moves when a backend joins, and a new backend gets new sessions only. With it a
/// session moves with its next request (outcome `moved`, reason `rebalanced`) if all of these are true:
///
/// - its backend has more sessions than `tolerance` times the average, per weight;
/// - another backend is ready and stays below the average with this session;
/// - the session has had no request for `idle_for`;
/// - fewer than `max_per_second` sessions have moved in this second.
///
/// As a backend that takes a session stays below the average, sessions do not move back and forth.
///
/// The time of a session's last request is in sealed tokens ([`Cookie`](crate::affinity::Cookie),
/// [`Header`](crate::affinity::Header), [`Envelope`](crate::affinity::Envelope)). Only sessions with
/// such a token move, and their tokens are refreshed after a third of `idle_for`.
///
/// The hook of [`before_move`](crate::StickyLayer::before_move) runs first, and when it fails the session
/// stays.
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

    /// How many sessions per weight a backend may have, as a multiple of the average, at least 1.1; default
    /// 1.25.
    #[must_use]
    pub const fn tolerance(mut self, times: f64) -> Self {
        self.tolerance = times;
        self
    }

    /// How long a session must have had no request, at least a second; default 5 minutes.
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
                "rebalance: with at most 0 sessions per second none would move; leave \
                 rebalancing out instead",
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

/// The settings and the rate limiter of rebalancing.
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

    /// Whether one more session may move now. If so, it is counted.
    pub(crate) fn admits(&self) -> bool {
        self.limiter.admits()
    }
}
