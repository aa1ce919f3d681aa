//! The background task of a pool: polls readiness, starts probes and redials, ends ejections, compares
//! success rates, and advances slow starts and drains.

use std::{
    future::poll_fn,
    sync::{
        Arc, Weak, atomic::Ordering::AcqRel, atomic::Ordering::Acquire, atomic::Ordering::Release,
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::unconstrained,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{AnyProbe, Settings, passive, probe_tasks::ProbeTasks, redial::redial_suspects};
use crate::{
    pool::{Availability, Cause, Pool, ProbeState, Readiness},
    util::clock::later,
};

/// After so many backends the readiness poll yields to other tasks.
const POLL_CHUNK: usize = 128;

/// What starts the task: the pool, and what the task works with.
pub(crate) struct Driver<'a, S> {
    pub(crate) pool: &'a Arc<Pool<S>>,
    pub(crate) settings: &'a Settings,
    pub(crate) probe: Option<&'a AnyProbe<S>>,
}

impl<S: Clone + Send + Sync + 'static> Driver<'_, S> {
    /// Starts the task unless it is running. Returns whether it is running: outside of a Tokio runtime it
    /// cannot be started.
    #[inline]
    pub(crate) fn ensure<Req: 'static>(&self) -> bool
    where
        S: Service<Req>,
    {
        self.pool.has_driver.load(Acquire) || self.start::<Req>()
    }

    #[cold]
    fn start<Req: 'static>(&self) -> bool
    where
        S: Service<Req>,
    {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        if self.pool.has_driver.compare_exchange(false, true, AcqRel, Acquire).is_ok() {
            self.spawn::<Req>(&runtime);
        }
        true
    }

    /// Starts the task with these settings in place of the one that runs. Without a probe, what probes have found
    /// is forgotten. Returns whether it is running.
    pub(crate) fn replace<Req: 'static>(&self) -> bool
    where
        S: Service<Req>,
    {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let pool = self.pool;
        pool.has_driver.store(true, Release);
        self.spawn::<Req>(&runtime);
        if self.probe.is_none() {
            for state in pool.load().index().states() {
                pool.update(state, Cause::Probe, |sources| sources.probes = ProbeState::default());
            }
        }
        true
    }

    fn spawn<Req: 'static>(&self, runtime: &Handle)
    where
        S: Service<Req>,
    {
        let Self { pool, settings, probe } = self;
        pool.slow_start.store(!settings.slow_start.is_zero(), Release);
        // The pool may be old, so the tick must be current before the first request is counted.
        pool.update_tick(Instant::now());
        let number = pool.driver.fetch_add(1, AcqRel) + 1;
        // A task that runs ends now.
        pool.wake.notify_waiters();
        let guard = DriverGuard { pool: Arc::downgrade(pool), number };
        runtime.spawn(drive::<S, Req>(guard, pool.wake.clone(), **settings, probe.cloned()));
    }
}

/// A weak reference to the pool, dropped with the task. If the runtime of the task is shut down while
/// others use the pool, the next request on another runtime starts a new task.
struct DriverGuard<S> {
    pool: Weak<Pool<S>>,
    number: u64,
}

impl<S> DriverGuard<S> {
    /// The pool, unless it was dropped or another task has replaced this one.
    fn pool(&self) -> Option<Arc<Pool<S>>> {
        self.pool.upgrade().filter(|pool| pool.driver.load(Acquire) == self.number)
    }
}

impl<S> Drop for DriverGuard<S> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool() {
            pool.has_driver.store(false, Release);
        }
    }
}

async fn drive<S, Req>(
    guard: DriverGuard<S>,
    wake: Arc<tokio::sync::Notify>,
    settings: Settings,
    probe: Option<AnyProbe<S>>,
) where
    S: Service<Req> + Clone + Send + Sync + 'static,
    Req: 'static,
{
    let mut schedule = PollSchedule::new(&settings);
    let mut next_comparison = settings.success_rate.map(|rate| later(rate.interval));
    let mut probe_tasks = probe.map(|probe| ProbeTasks::new(probe, settings));
    loop {
        let Some(pool) = guard.pool() else {
            return;
        };
        if let Some(probe_tasks) = &mut probe_tasks {
            probe_tasks.sync::<Req>(&pool);
        }
        let now = Instant::now();
        if now >= schedule.next {
            let all = now >= schedule.next_full;
            let failed = poll_readiness::<S, Req>(&pool, all).await;
            schedule.done(all, failed);
        }
        if let (Some(rate), Some(at)) = (settings.success_rate, next_comparison)
            && now >= at
        {
            passive::compare(&pool, &rate, &settings);
            next_comparison = Some(later(rate.interval));
        }
        let now = Instant::now();
        let others = [
            end_ejections(&pool, now),
            redial_suspects(&pool, &settings, now),
            next_comparison,
            advance_slow_starts(&pool, &settings, now),
        ];
        let next = schedule.next.min(pool.housekeep(now));
        let due = others.into_iter().flatten().fold(next, Instant::min);
        drop(pool);
        // Woken by new evidence, a change of the members, or the drop of the last handle.
        let _ = timeout_at(due, wake.notified()).await;
    }
}

/// Begins the trial of every backend whose ejection has ended. Returns when the next ejection ends.
fn end_ejections<S>(pool: &Pool<S>, now: Instant) -> Option<Instant> {
    let snapshot = pool.load();
    let mut next: Option<Instant> = None;
    for state in snapshot.index().states().iter().filter(|state| state.is_ejected()) {
        let until = state.sources().evidence.ejection.until();
        match until {
            Some(until) if until <= now => {
                pool.update(state, Cause::EjectionOver, |sources| {
                    sources.evidence.ejection.begin_trial(now);
                });
            }
            Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
            None => {}
        }
    }
    next
}

/// Advances all slow starts. Returns when to do so again.
fn advance_slow_starts<S>(pool: &Pool<S>, settings: &Settings, now: Instant) -> Option<Instant> {
    let snapshot = pool.load();
    let states = snapshot.index().states().iter().filter(|state| !state.slow_start.is_over());
    states.filter_map(|state| state.slow_start.advance(now, settings.slow_start)).min()
}

/// The schedule of the readiness poll: all backends once per interval, and those that failed more often.
struct PollSchedule {
    next: Instant,
    next_full: Instant,
    /// The pause before the next poll of the failed backends; it doubles.
    pause: Duration,
    interval: Duration,
    redial: (Duration, Duration),
}

impl PollSchedule {
    fn new(settings: &Settings) -> Self {
        let (now, redial) = (Instant::now(), settings.redial);
        let interval = settings.readiness_interval;
        Self { next: now, next_full: now, pause: redial.0, interval, redial }
    }

    /// Schedules the next poll, after one of all backends or of the failed ones. `failed`: some have
    /// failed.
    fn done(&mut self, all: bool, failed: bool) {
        if all {
            self.next_full = later(self.interval);
        }
        self.next = self.next_full;
        if failed {
            self.next = self.next.min(later(self.pause));
            self.pause = (self.pause * 2).min(self.redial.1);
        } else {
            self.pause = self.redial.0;
        }
    }
}

/// Polls the readiness of all backends, or of those that are suspect. Returns whether any has failed.
async fn poll_readiness<S, Req>(pool: &Pool<S>, all: bool) -> bool
where
    S: Service<Req> + Clone + Send + Sync + 'static,
{
    let mut failed = false;
    let version = pool.version();
    let members = pool.load().members.clone();
    for (position, service) in members.services.iter().enumerate() {
        if position % POLL_CHUNK == POLL_CHUNK - 1 {
            tokio::task::yield_now().await;
        }
        let state = &members.index.states()[position];
        let Some(service) =
            service.as_ref().filter(|_| all || state.availability() == Availability::Suspect)
        else {
            continue;
        };
        // The clone is dropped after one poll, as it may hold a permit or a position in a queue.
        let mut service = service.clone();
        // Unconstrained by the task's budget: when that is used up, every service would seem to be busy.
        let polled = unconstrained(poll_fn(|cx| Poll::Ready(service.poll_ready(cx)))).await;
        drop(service);
        let readiness = match polled {
            Poll::Ready(Ok(())) => Readiness::Ready,
            Poll::Pending => Readiness::Busy,
            Poll::Ready(Err(_)) => Readiness::Failed,
        };
        if pool.version() != version {
            // The backend may have another service now; the next poll asks that one.
            return failed;
        }
        pool.set_readiness(state, readiness);
        if readiness == Readiness::Failed {
            failed = true;
            pool.rebuild(&state.id);
        }
    }
    failed
}
