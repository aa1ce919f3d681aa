//! The engine behind a time budget and a breaker.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisResult, ServerErrorKind};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    connection::{Link, describe},
    reconnect::{self, Reconnect},
    script::{Arguments, Commands, decode},
    stats::{Counters, EngineState, LogLimiter, count},
};
use crate::{
    redis::RedisTarget,
    store::traits::{SessionKey, StoredPin},
    util::lock,
};

pub(super) struct Engine {
    pub(super) call: Commands,
    pub(super) budget: Duration,
    /// So many failures in a row open the breaker.
    pub(super) limit: u32,
    pub(super) counters: Counters,
    /// Only there while the breaker is closed.
    up: ArcSwapOption<LiveConnection>,
    phase: watch::Sender<Phase>,
    /// Not there while it is being used to connect.
    source: Mutex<Option<RedisTarget>>,
    speech: [LogLimiter; 3],
}

struct LiveConnection {
    link: Link,
    /// In a row.
    failures: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody has asked yet.
    New,
    /// Who needs the engine waits, until then.
    Connecting(Instant),
    Up,
    Down,
}

/// Why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The engine does not answer.
    Down,
    /// It answers, and does not want this.
    Refused,
}

/// What is said at most once a minute.
#[derive(Debug, Clone, Copy)]
enum LogTopic {
    Down,
    Refused,
    Unreadable,
}

impl Engine {
    pub(super) fn new(source: RedisTarget, call: Commands, budget: Duration, limit: u32) -> Self {
        Self {
            call,
            budget,
            limit,
            counters: Counters::default(),
            up: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::New),
            source: Mutex::new(Some(source)),
            speech: Default::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load().is_some()
    }

    pub(super) fn state(&self) -> EngineState {
        match *self.phase.borrow() {
            _ if self.is_up() => EngineState::Up,
            Phase::Down => EngineState::Down,
            Phase::New | Phase::Connecting(_) | Phase::Up => EngineState::Connecting,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether a request that needs the engine should not even wait; begins to connect if nobody does.
    pub(super) fn is_down(self: &Arc<Self>) -> bool {
        if self.is_up() {
            return false;
        }
        self.wake();
        let now = Instant::now();
        match *self.phase.borrow() {
            Phase::Up => false,
            Phase::Connecting(until) => until <= now,
            Phase::New | Phase::Down => true,
        }
    }

    /// Begins to connect, unless that is under way.
    pub(super) fn wake(self: &Arc<Self>) {
        // Outside of a runtime nothing can be done; the next request comes from within one.
        let Ok(runtime) = Handle::try_current() else { return };
        let source = lock(&self.source).take();
        let Some(source) = source else { return };
        let now = Instant::now();
        self.phase.send_modify(|phase| match *phase {
            // Nothing is known here yet, so all sessions would be placed anew: that is worth a wait.
            Phase::New => *phase = Phase::Connecting(now + reconnect::longest(self.budget)),
            // After a fault for which there was a reason to wait nobody waits.
            Phase::Down => {}
            Phase::Connecting(_) | Phase::Up => *phase = Phase::Connecting(now + self.budget),
        });
        runtime.spawn(reconnect::mend(reconnect::TargetGuard::new(self, source)));
    }

    /// An attempt to connect was in vain.
    pub(super) fn not_connected(&self, why: &str) {
        self.phase.send_replace(Phase::Down);
        if self.may_say(LogTopic::Down) {
            tracing::warn!(
                why,
                "the Redis store does not answer; sessions are served from local copies until it does"
            );
        }
    }

    /// Reads or writes a pin.
    pub(super) async fn pin(
        self: &Arc<Self>,
        arguments: Arguments,
    ) -> Result<Option<StoredPin>, Fault> {
        let (up, deadline) = self.link().await?;
        let said = self.guard(&up, deadline, self.run(&up.link, &arguments)).await?;
        let Some(bytes) = said else { return Ok(None) };
        let pin = decode(&bytes);
        if pin.is_none() {
            self.unreadable("no pin of this version");
        }
        Ok(pin)
    }

    pub(super) async fn remove(self: &Arc<Self>, key: SessionKey) -> Result<(), Fault> {
        let (up, deadline) = self.link().await?;
        let cmd = self.call.delete(key);
        self.guard(&up, deadline, up.link.send_only(&cmd)).await
    }

    /// The script, by its hash if Redis has it.
    pub(super) async fn run(
        &self,
        link: &Link,
        arguments: &Arguments,
    ) -> RedisResult<Option<Vec<u8>>> {
        match link.send(&self.call.short(arguments)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.send(&self.call.long(arguments)).await
            }
            said => said,
        }
    }

    /// The connection, waiting for it if one is being made, and until when a call on it may take.
    async fn link(self: &Arc<Self>) -> Result<(Arc<LiveConnection>, Instant), Fault> {
        let deadline = Instant::now() + self.budget;
        if let Some(up) = self.up.load_full() {
            return Ok((up, deadline));
        }
        if self.is_down() {
            return Err(Fault::Down);
        }
        let mut phase = self.watch();
        let until = match *phase.borrow() {
            Phase::Connecting(until) => until.max(deadline),
            Phase::New | Phase::Up | Phase::Down => deadline,
        };
        let changed = phase.wait_for(|phase| !matches!(phase, Phase::Connecting(_)));
        let _ = timeout_at(until, changed).await;
        let up = self.up.load_full().ok_or(Fault::Down)?;
        // The first connection takes nothing of the time of a call.
        let deadline = if until > deadline { Instant::now() + self.budget } else { deadline };
        Ok((up, deadline))
    }

    /// One call, within the budget; its failure counts.
    async fn guard<T>(
        self: &Arc<Self>,
        up: &Arc<LiveConnection>,
        deadline: Instant,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Fault> {
        count(&self.counters.calls);
        let error = match timeout_at(deadline, call).await {
            Ok(Ok(said)) => {
                up.failures.store(0, Relaxed);
                return Ok(said);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                count(&self.counters.timeouts);
                self.failed(up, false, "it does not answer in time");
                return Err(Fault::Down);
            }
        };
        match error.code() {
            // It is full, or we may not do this.
            Some("OOM" | "NOPERM" | "MISCONF") => {
                up.failures.store(0, Relaxed);
                count(&self.counters.refused);
                if self.may_say(LogTopic::Refused) {
                    tracing::warn!(why = describe(&error), "the Redis store refuses a pin");
                }
                Err(Fault::Refused)
            }
            Some("WRONGTYPE") => {
                up.failures.store(0, Relaxed);
                self.unreadable("a value of another type");
                Err(Fault::Refused)
            }
            _ if error.kind() == ErrorKind::UnexpectedReturnType => {
                self.unreadable("an answer of another type");
                Err(Fault::Refused)
            }
            _ => {
                count(&self.counters.failures);
                self.failed(up, up.link.is_broken_by(&error), &describe(&error));
                Err(Fault::Down)
            }
        }
    }

    /// Counts a failure of this connection, and opens the breaker if it was one too many.
    fn failed(self: &Arc<Self>, up: &Arc<LiveConnection>, broken: bool, why: &str) {
        let failures = up.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < self.limit && !broken {
            return;
        }
        // Only the connection that failed, not its successor.
        let before = self.up.compare_and_swap(up, None);
        if !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, up)) {
            return;
        }
        count(&self.counters.opened);
        if broken {
            // Most often another one works at once: requests wait for it, for a moment.
            self.phase.send_replace(Phase::Connecting(Instant::now() + self.budget));
        } else {
            self.not_connected(why);
        }
        self.wake();
    }

    fn unreadable(&self, what: &str) {
        count(&self.counters.unreadable);
        if self.may_say(LogTopic::Unreadable) {
            let prefix = self.call.prefix();
            tracing::warn!(
                what,
                prefix,
                "the Redis store has something under a key of ours that is no pin; do others use \
                 this prefix?"
            );
        }
    }

    fn may_say(&self, topic: LogTopic) -> bool {
        self.speech[topic as usize].may_speak()
    }
}

impl Reconnect for Engine {
    fn budget(&self) -> Duration {
        self.budget
    }

    async fn ask(&self, link: &Link, number: usize) -> RedisResult<()> {
        self.run(link, &self.call.probe(number)).await.map(drop)
    }

    fn is_up(&self) -> bool {
        Self::is_up(self)
    }

    fn not_connected(&self, why: &str) {
        Self::not_connected(self, why);
    }

    fn wake(self: &Arc<Self>) {
        Self::wake(self);
    }

    fn rest(&self, source: RedisTarget) {
        *lock(&self.source) = Some(source);
    }

    fn connected(&self, link: Link) {
        count(&self.counters.connections);
        self.up.store(Some(Arc::new(LiveConnection { link, failures: AtomicU32::new(0) })));
        if self.phase.send_replace(Phase::Up) == Phase::Down {
            tracing::info!("the Redis store answers again");
        }
    }
}
