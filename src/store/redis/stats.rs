//! Counters and state of the Redis store.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::util::lock;

/// Whether a [`RedisStore`](crate::store::RedisStore) has a connection to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineState {
    /// The first connection, or one in place of a broken one, is being made. Requests that need Redis
    /// wait for it, at most for the time budget.
    Connecting,
    /// Redis answers.
    Up,
    /// Redis does not answer: the circuit breaker is open, no request waits, and a task in the
    /// background tries to connect.
    Down,
}

impl fmt::Display for EngineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Declares the counters, and the methods of [`RedisStats`] that return their totals.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            fn totals(&self) -> Totals {
                Totals { $($name: self.$name.load(Relaxed),)* }
            }
        }

        #[derive(Debug, Clone, PartialEq, Eq)]
        struct Totals {
            $($name: u64,)*
        }

        impl RedisStats {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> u64 {
                    self.totals.$name
                }
            )*
        }
    };
}

counters! {
    /// Look-ups that a local copy answered, without a call to Redis.
    local_hits,

    /// Calls to Redis: look-ups, touches, writes and removals.
    calls,

    /// Sessions without a local copy that were looked up and found.
    found,

    /// Sessions without a local copy that were looked up and not found.
    unknown,

    /// Look-ups of sessions without a local copy that Redis has not answered.
    unanswered,

    /// Calls that took longer than the time budget.
    timeouts,

    /// Calls that failed otherwise, most often because the connection broke.
    failures,

    /// Commands that Redis has refused, for example because it is full.
    refused,

    /// Values that were not pins: another program has written one of our keys.
    unreadable,

    /// Writes and removals that Redis has not executed. Such a pin is written again with the next
    /// request of its session on this gateway once Redis answers.
    lost_writes,

    /// How often the circuit breaker has opened.
    opened,

    /// Connections that were made and have worked.
    connections,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Totals of a [`RedisStore`](crate::store::RedisStore) since it was built, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisStats {
    state: EngineState,
    writes: usize,
    totals: Totals,
}

impl RedisStats {
    pub(super) fn new(state: EngineState, writes: usize, counters: &Counters) -> Self {
        Self { state, writes, totals: counters.totals() }
    }

    /// Whether the store has a connection now.
    pub fn state(&self) -> EngineState {
        self.state
    }

    /// Writes and removals in flight now.
    pub fn writing(&self) -> usize {
        self.writes
    }
}

/// Allows a message at most once a minute.
#[derive(Debug, Default)]
pub(super) struct LogLimiter(Mutex<Option<Instant>>);

impl LogLimiter {
    pub(super) fn should_log(&self) -> bool {
        let now = Instant::now();
        let mut last = lock(&self.0);
        let allowed = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(60));
        if allowed {
            *last = Some(now);
        }
        allowed
    }
}
