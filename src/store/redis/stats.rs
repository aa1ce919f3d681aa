//! What the store has done.

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

/// How the engine is to be reached, as a [`RedisStore`](crate::store::RedisStore) sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineState {
    /// The first connection, or one in place of a broken one, is under way: requests that need the
    /// engine wait for it, for no longer than the time budget.
    Connecting,
    /// It answers.
    Up,
    /// It does not: the breaker is open, nobody waits, and a task in the background tries to connect.
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

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) local: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) found: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) lost_writes: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) connections: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Totals of a [`RedisStore`](crate::store::RedisStore) since it was built, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisStats {
    state: EngineState,
    writes: usize,
    totals: [u64; 12],
}

impl RedisStats {
    pub(super) fn new(state: EngineState, writes: usize, counters: &Counters) -> Self {
        let Counters {
            local,
            calls,
            found,
            unknown,
            unanswered,
            timeouts,
            failures,
            refused,
            unreadable,
            lost_writes,
            opened,
            connections,
        } = counters;
        let all = [
            local,
            calls,
            found,
            unknown,
            unanswered,
            timeouts,
            failures,
            refused,
            unreadable,
            lost_writes,
            opened,
            connections,
        ];
        Self { state, writes, totals: all.map(|counter| counter.load(Relaxed)) }
    }

    /// How the engine is to be reached now.
    pub fn state(&self) -> EngineState {
        self.state
    }

    /// Writes and removals under way now.
    pub fn writing(&self) -> usize {
        self.writes
    }

    /// Look-ups that a local copy answered, without a call.
    pub fn local_hits(&self) -> u64 {
        self.totals[0]
    }

    /// Calls to the engine: look-ups, touches, writes and removals.
    pub fn calls(&self) -> u64 {
        self.totals[1]
    }

    /// Look-ups of sessions without a local copy that the engine knew.
    pub fn found(&self) -> u64 {
        self.totals[2]
    }

    /// The same that it did not know.
    pub fn unknown(&self) -> u64 {
        self.totals[3]
    }

    /// The same that it did not answer.
    pub fn unanswered(&self) -> u64 {
        self.totals[4]
    }

    /// Calls that were given up after the time budget.
    pub fn timeouts(&self) -> u64 {
        self.totals[5]
    }

    /// Calls that failed otherwise, most often because the connection broke.
    pub fn failures(&self) -> u64 {
        self.totals[6]
    }

    /// Calls to which the engine said no, for example because it is full.
    pub fn refused(&self) -> u64 {
        self.totals[7]
    }

    /// Answers that were no pin: something else is under our key.
    pub fn unreadable(&self) -> u64 {
        self.totals[8]
    }

    /// Writes and removals that the engine did not take. A pin is offered again with the next request
    /// of its session that comes here once the engine answers.
    pub fn lost_writes(&self) -> u64 {
        self.totals[9]
    }

    /// How often the breaker has opened.
    pub fn opened(&self) -> u64 {
        self.totals[10]
    }

    /// How often a connection was made that worked.
    pub fn connections(&self) -> u64 {
        self.totals[11]
    }
}

/// Says something at most once a minute.
#[derive(Debug, Default)]
pub(super) struct LogLimiter(Mutex<Option<Instant>>);

impl LogLimiter {
    pub(super) fn may_speak(&self) -> bool {
        let now = Instant::now();
        let mut last = lock(&self.0);
        let quiet = last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(60));
        if !quiet {
            *last = Some(now);
        }
        !quiet
    }
}
