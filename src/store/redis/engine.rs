//! Calls to Redis, within a time budget and behind a circuit breaker.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, RedisResult};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    breaker::{Breaker, LiveConnection, LogTopic, Phase},
    connection::describe,
    reconnect::reconnect,
    script::{Arguments, Commands, decode},
    stats::{Counters, EngineState, count},
};
#[cfg(feature = "metrics")]
use crate::outcome::recording::SharedHistogram;
use crate::store::traits::{SessionKey, StoredPin};

/// A handle; clones share the connection.
#[derive(Clone)]
pub(super) struct Engine {
    breaker: Arc<Breaker>,
}

/// Why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallError {
    /// Redis does not answer.
    Unavailable,
    /// Redis answers, and does not execute the command.
    Refused,
}

impl Engine {
    pub(super) fn new(breaker: Breaker) -> Self {
        Self { breaker: Arc::new(breaker) }
    }

    pub(super) fn commands(&self) -> &Commands {
        &self.breaker.commands
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.breaker.counters
    }

    #[cfg(feature = "metrics")]
    pub(super) fn call_times(&self) -> &SharedHistogram {
        &self.breaker.call_times
    }

    pub(super) fn is_up(&self) -> bool {
        self.breaker.is_up()
    }

    pub(super) fn state(&self) -> EngineState {
        self.breaker.state()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Phase> {
        self.breaker.subscribe()
    }

    /// Whether a call can be made, now or once a connection is made that is worth waiting for. Starts
    /// to connect if there is no connection.
    pub(super) fn is_available(&self) -> bool {
        if self.is_up() {
            return true;
        }
        self.connect();
        match self.breaker.phase() {
            Phase::Up => true,
            Phase::Connecting(until) => until > Instant::now(),
            Phase::New | Phase::Down => false,
        }
    }

    /// Starts to connect in the background, unless that is in progress.
    pub(super) fn connect(&self) {
        // Without a runtime nothing can be spawned; the next request comes from within one.
        let Ok(runtime) = Handle::try_current() else { return };
        let Some(target) = self.breaker.take_target() else { return };
        self.breaker.connecting();
        runtime.spawn(reconnect(&self.breaker, target));
    }

    /// Reads or writes a pin.
    pub(super) async fn pin(&self, arguments: Arguments) -> Result<Option<StoredPin>, CallError> {
        let (live, deadline) = self.live_connection().await?;
        let call = live.connection.run_script(self.commands(), &arguments);
        let Some(bytes) = self.call(&live, deadline, call).await? else { return Ok(None) };
        let pin = decode(&bytes);
        if pin.is_none() {
            self.count_unreadable("no pin of this version");
        }
        Ok(pin)
    }

    /// Reads a pin without renewing its time to live.
    pub(super) async fn peek(&self, key: SessionKey) -> Result<Option<StoredPin>, CallError> {
        let (live, deadline) = self.live_connection().await?;
        let cmd = self.commands().get(key);
        let bytes = self.call(&live, deadline, live.connection.send(&cmd)).await?;
        Ok(bytes.and_then(|bytes| decode(&bytes)))
    }

    pub(super) async fn remove(&self, key: SessionKey) -> Result<(), CallError> {
        let (live, deadline) = self.live_connection().await?;
        let cmd = self.commands().delete(key);
        self.call(&live, deadline, live.connection.send_only(&cmd)).await
    }

    /// The connection, waiting for it if one is being made, and the deadline of a call on it.
    async fn live_connection(&self) -> Result<(Arc<LiveConnection>, Instant), CallError> {
        let deadline = Instant::now() + self.breaker.budget;
        if let Some(live) = self.breaker.live() {
            return Ok((live, deadline));
        }
        if !self.is_available() {
            return Err(CallError::Unavailable);
        }
        let mut phase = self.subscribe();
        let until = match *phase.borrow() {
            Phase::Connecting(until) => until.max(deadline),
            Phase::New | Phase::Up | Phase::Down => deadline,
        };
        let changed = phase.wait_for(|phase| !matches!(phase, Phase::Connecting(_)));
        let _ = timeout_at(until, changed).await;
        let live = self.breaker.live().ok_or(CallError::Unavailable)?;
        // The time that the first connection takes is not taken from the call's budget.
        let first = until > deadline;
        Ok((live, if first { Instant::now() + self.breaker.budget } else { deadline }))
    }

    /// Makes one call within its deadline, and counts its success or failure.
    async fn call<T>(
        &self,
        live: &Arc<LiveConnection>,
        deadline: Instant,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, CallError> {
        count(&self.counters().calls);
        let began = Instant::now();
        let result = timeout_at(deadline, call).await;
        self.breaker.call_times.observe(began.elapsed());
        match result {
            Ok(Ok(result)) => {
                live.record_success();
                Ok(result)
            }
            Ok(Err(error)) => Err(self.classify(live, &error)),
            Err(_) => {
                count(&self.counters().timeouts);
                self.record_failure(live, false, "it does not answer in time");
                Err(CallError::Unavailable)
            }
        }
    }

    /// Counts an error. One that concerns this command only is no failure of the connection.
    fn classify(&self, live: &Arc<LiveConnection>, error: &RedisError) -> CallError {
        match error.code() {
            // Redis is full, or does not permit the command.
            Some("OOM" | "NOPERM" | "MISCONF") => {
                live.record_success();
                count(&self.counters().refused);
                if self.breaker.should_log(LogTopic::Refused) {
                    tracing::warn!(why = describe(error), "the Redis store refuses a pin");
                }
                CallError::Refused
            }
            Some("WRONGTYPE") => {
                live.record_success();
                self.count_unreadable("a value of another type");
                CallError::Refused
            }
            _ if error.kind() == ErrorKind::UnexpectedReturnType => {
                self.count_unreadable("an answer of another type");
                CallError::Refused
            }
            _ => {
                count(&self.counters().failures);
                self.record_failure(live, live.connection.is_broken_by(error), &describe(error));
                CallError::Unavailable
            }
        }
    }

    fn record_failure(&self, live: &Arc<LiveConnection>, broken: bool, why: &str) {
        if self.breaker.record_failure(live, broken, why) {
            self.connect();
        }
    }

    fn count_unreadable(&self, what: &str) {
        count(&self.counters().unreadable);
        if self.breaker.should_log(LogTopic::Unreadable) {
            let prefix = self.commands().prefix();
            tracing::warn!(
                what,
                prefix,
                "the Redis store has something under a key of ours that is no pin; do others use \
                 this prefix?"
            );
        }
    }
}
