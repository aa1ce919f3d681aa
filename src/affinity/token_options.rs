//! The options of the affinities that issue tokens, and the setters that their builders share.

use std::time::Duration;

use crate::{error::ConfigError, token::KeyRing};

/// The default of [`TokenOptions::clock_skew`].
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The keys and the lifetime of tokens.
#[derive(Debug, Clone)]
pub(super) struct TokenOptions {
    /// `None` for plain tokens.
    pub(super) keys: Option<KeyRing>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) absolute_timeout: Option<Duration>,
    /// How far the timestamps of a token may lie in the future, because the clocks of gateways
    /// differ.
    pub(super) clock_skew: Duration,
    /// Whether an open stream keeps its session from expiring by the idle timeout.
    pub(super) streams_keep_alive: bool,
}

impl TokenOptions {
    pub(super) fn new(keys: Option<KeyRing>) -> Self {
        Self {
            keys,
            idle_timeout: None,
            absolute_timeout: None,
            clock_skew: CLOCK_SKEW,
            streams_keep_alive: true,
        }
    }

    /// Checks the options of the tokens in `carrier`, such as `the cookie "sid"`.
    pub(super) fn check(&self, carrier: &str) -> Result<(), ConfigError> {
        let has_timeout = self.idle_timeout.is_some() || self.absolute_timeout.is_some();
        if self.keys.is_none() && has_timeout {
            return Err(invalid(
                carrier,
                "a plain token has no dates, so it cannot have timeouts; use a sealed one",
            ));
        }
        check_timeouts(carrier, self.idle_timeout, self.absolute_timeout)
    }
}

/// Checks that each timeout that is set lasts at least one second.
pub(super) fn check_timeouts(
    carrier: &str,
    idle: Option<Duration>,
    absolute: Option<Duration>,
) -> Result<(), ConfigError> {
    for (name, timeout) in [("idle", idle), ("absolute", absolute)] {
        if timeout.is_some_and(|timeout| timeout < Duration::from_secs(1)) {
            return Err(invalid(
                carrier,
                &format!("the {name} timeout must be at least one second"),
            ));
        }
    }
    Ok(())
}

/// An error about the configuration of `carrier`, such as `the cookie "sid"`.
pub(super) fn invalid(carrier: &str, problem: &str) -> ConfigError {
    ConfigError::new(format!("{carrier}: {problem}"))
}

/// The setters of a builder whose field `tokens` is [`TokenOptions`], with the documentation of those
/// that differ between builders.
macro_rules! token_setters {
    ($(#[$idle:meta])* idle_timeout, $(#[$absolute:meta])* absolute_timeout,) => {
        $(#[$idle])*
        #[must_use]
        pub fn idle_timeout(mut self, timeout: ::std::time::Duration) -> Self {
            self.tokens.idle_timeout = Some(timeout);
            self
        }

        $(#[$absolute])*
        #[must_use]
        pub fn absolute_timeout(mut self, timeout: ::std::time::Duration) -> Self {
            self.tokens.absolute_timeout = Some(timeout);
            self
        }

        /// How far the timestamps of a token may lie ahead of this gateway's clock, in whole seconds;
        /// default 1 hour. A token within that limit is accepted, and replaced by one with the current
        /// time; a token beyond it is [malformed](crate::Reason::Malformed). The idle timeout must
        /// exceed the difference between the clocks of the gateways.
        #[must_use]
        pub fn clock_skew(mut self, skew: ::std::time::Duration) -> Self {
            self.tokens.clock_skew = skew;
            self
        }

        /// Whether an open response, event stream or WebSocket of a session keeps it from expiring by
        /// the idle timeout on this gateway; default `true`. The idle time then counts from the end of
        /// the stream. The absolute timeout is not extended. Other gateways do not know of the stream:
        /// they measure the idle time from the last token.
        #[must_use]
        pub fn streams_keep_alive(mut self, keep_alive: bool) -> Self {
            self.tokens.streams_keep_alive = keep_alive;
            self
        }
    };
}

pub(super) use token_setters;
