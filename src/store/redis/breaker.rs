//! Circuit breaker of the Redis store: holds the connection while calls succeed, and the state that
//! requests and the reconnect task share.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};

use super::{
    connection::Connection,
    script::Commands,
    stats::{Counters, EngineState, LogLimiter, count},
};
use crate::{outcome::recording::SharedHistogram, redis::RedisTarget, util::lock};

/// The least time that one attempt to connect may take; ten times the time budget if that is longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Breaker {
    pub(super) commands: Commands,
    pub(super) budget: Duration,
    pub(super) counters: Counters,
    pub(super) call_times: SharedHistogram,
    /// Failed calls in a row that open the breaker.
    max_failures: u32,
    /// `None` while the breaker is open.
    live: ArcSwapOption<LiveConnection>,
    phase: watch::Sender<Phase>,
    /// `None` while the reconnect task has it, so that there is one such task at a time.
    target: Mutex<Option<RedisTarget>>,
    log_limiters: [LogLimiter; 3],
}

pub(super) struct LiveConnection {
    pub(super) connection: Connection,
    /// Failed calls in a row.
    failures: AtomicU32,
}

impl LiveConnection {
    pub(super) fn record_success(&self) {
        self.failures.store(0, Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been asked of Redis yet.
    New,
    /// Calls wait for a connection until this time.
    Connecting(Instant),
    Up,
    /// Calls fail at once.
    Down,
}

/// What is logged at most once a minute each.
#[derive(Debug, Clone, Copy)]
pub(super) enum LogTopic {
    Down,
    Refused,
    Unreadable,
}

impl Breaker {
    pub(super) fn new(
        target: RedisTarget,
        commands: Commands,
        budget: Duration,
        max_failures: u32,
    ) -> Self {
        Self {
            commands,
            budget,
            counters: Counters::default(),
            call_times: SharedHistogram::default(),
            max_failures,
            live: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::New),
            target: Mutex::new(Some(target)),
            log_limiters: Default::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.live.load().is_some()
    }

    /// The connection, if the breaker is closed.
    pub(super) fn live(&self) -> Option<Arc<LiveConnection>> {
        self.live.load_full()
    }

    pub(super) fn state(&self) -> EngineState {
        match self.phase() {
            _ if self.is_up() => EngineState::Up,
            Phase::Down => EngineState::Down,
            Phase::New | Phase::Connecting(_) | Phase::Up => EngineState::Connecting,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Takes the target to connect to. `None` if the reconnect task has it.
    pub(super) fn take_target(&self) -> Option<RedisTarget> {
        lock(&self.target).take()
    }

    pub(super) fn return_target(&self, target: RedisTarget) {
        *lock(&self.target) = Some(target);
    }

    /// An attempt to connect begins. Decides for how long calls wait for it.
    pub(super) fn connecting(&self) {
        let now = Instant::now();
        self.phase.send_modify(|phase| match *phase {
            // There are no local copies yet, so every session would be assigned again: wait for as
            // long as an attempt may take.
            Phase::New => *phase = Phase::Connecting(now + self.connect_timeout()),
            // Redis was already waited for, in vain.
            Phase::Down => {}
            Phase::Connecting(_) | Phase::Up => *phase = Phase::Connecting(now + self.budget),
        });
    }

    /// Closes the breaker over a connection that works.
    pub(super) fn connected(&self, connection: Connection) {
        count(&self.counters.connections);
        let live = LiveConnection { connection, failures: AtomicU32::new(0) };
        self.live.store(Some(Arc::new(live)));
        if self.phase.send_replace(Phase::Up) == Phase::Down {
            tracing::info!("the Redis store answers again");
        }
    }

    /// An attempt to connect has failed.
    pub(super) fn not_connected(&self, why: &str) {
        self.phase.send_replace(Phase::Down);
        if self.should_log(LogTopic::Down) {
            tracing::warn!(
                why,
                "the Redis store does not answer; sessions are served from local copies until it does"
            );
        }
    }

    /// Counts a failed call. Returns whether that has opened the breaker: too many in a row have failed,
    /// or the connection is `broken`.
    pub(super) fn record_failure(
        &self,
        live: &Arc<LiveConnection>,
        broken: bool,
        why: &str,
    ) -> bool {
        let failures = live.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < self.max_failures && !broken {
            return false;
        }
        // Not if another connection has replaced the one that failed.
        let current = self.live.compare_and_swap(live, None);
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            return false;
        }
        count(&self.counters.opened);
        if broken {
            // A new connection most often works at once, so requests wait for it, within the budget.
            self.phase.send_replace(Phase::Connecting(Instant::now() + self.budget));
        } else {
            self.not_connected(why);
        }
        true
    }

    /// How long connecting may take, and how long the first call on a new connection.
    pub(super) fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT.max(self.budget.saturating_mul(10))
    }

    pub(super) fn should_log(&self, topic: LogTopic) -> bool {
        self.log_limiters[topic as usize].should_log()
    }
}
