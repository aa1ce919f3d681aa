//! The task behind a pool: polls readiness, ends ejections in time, has the backends probed and the
//! suspects redialed, compares them, and brings slow starts forward.

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
    pool::{Availability, Cause, Pool, Readiness},
    util::clock::later,
};

/// After so many backends a sweep lets other tasks run.
const POLL_CHUNK: usize = 128;

/// Starts the task unless one runs already. Tells whether one runs now: outside of a Tokio runtime
/// there is none.
#[inline]
pub(crate) fn ensure_driver<S, Req>(
    pool: &Arc<Pool<S>>,
    settings: &Settings,
    probe: Option<&AnyProbe<S>>,
) -> bool
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    Req: 'static,
{
    pool.has_driver.load(Acquire) || start(pool, settings, probe)
}

#[cold]
fn start<S, Req>(pool: &Arc<Pool<S>>, settings: &Settings, probe: Option<&AnyProbe<S>>) -> bool
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    Req: 'static,
{
    let Ok(runtime) = Handle::try_current() else {
        return false;
    };
    if pool.has_driver.compare_exchange(false, true, AcqRel, Acquire).is_ok() {
        pool.slow_start.store(!settings.slow_start.is_zero(), Release);
        // The first request counts by the time of now, and not by that of the pool's making.
        pool.update_tick(Instant::now());
        let guard = DriverGuard(Arc::downgrade(pool));
        let task = drive::<S, Req>(guard, pool.wake.clone(), *settings, probe.cloned());
        runtime.spawn(task);
    }
    true
}

/// The pool, held weakly. Dropped with the task, also when its runtime is shut down while others
/// still use the pool: then the next request on one of them starts a new task.
struct DriverGuard<S>(Weak<Pool<S>>);

impl<S> Drop for DriverGuard<S> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
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
        let Some(pool) = guard.0.upgrade() else {
            return;
        };
        if let Some(probe_tasks) = &mut probe_tasks {
            probe_tasks.sync::<Req>(&pool);
        }
        let now = Instant::now();
        if now >= schedule.next {
            let all = now >= schedule.next_of_all;
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
        // Either the time has come, or there is new evidence, or the members have changed, or the last
        // handle is gone.
        let _ = timeout_at(due, wake.notified()).await;
    }
}

/// Opens the trial of every backend whose ejection is over; tells when the next one will be.
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

/// Brings every slow start to where it should be; tells when that is to be done again.
fn advance_slow_starts<S>(pool: &Pool<S>, settings: &Settings, now: Instant) -> Option<Instant> {
    let snapshot = pool.load();
    let states = snapshot.index().states().iter().filter(|state| !state.slow_start.is_over());
    states.filter_map(|state| state.slow_start.advance(now, settings.slow_start)).min()
}

/// When the readiness of all is polled next, and of those that failed, which is more often.
struct PollSchedule {
    next: Instant,
    next_of_all: Instant,
    /// The pause until those that failed are asked again.
    pause: Duration,
    interval: Duration,
    redial: (Duration, Duration),
}

impl PollSchedule {
    fn new(settings: &Settings) -> Self {
        let (now, redial) = (Instant::now(), settings.redial);
        let interval = settings.readiness_interval;
        Self { next: now, next_of_all: now, pause: redial.0, interval, redial }
    }

    /// A sweep, of all or of those that had failed, is done; some are left that `failed`.
    fn done(&mut self, all: bool, failed: bool) {
        if all {
            self.next_of_all = later(self.interval);
        }
        self.next = self.next_of_all;
        if failed {
            self.next = self.next.min(later(self.pause));
            self.pause = (self.pause * 2).min(self.redial.1);
        } else {
            self.pause = self.redial.0;
        }
    }
}

/// Polls the readiness of all backends, or of those that had failed. Tells whether any has failed now.
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
        // The clone lives for one poll: one that is kept would hold a permit, or a place in a queue.
        let mut probe = service.clone();
        // Outside of the task's budget: at its end everything would look busy.
        let polled = unconstrained(poll_fn(|cx| Poll::Ready(probe.poll_ready(cx)))).await;
        drop(probe);
        let readiness = match polled {
            Poll::Ready(Ok(())) => Readiness::Ready,
            Poll::Pending => Readiness::Busy,
            Poll::Ready(Err(_)) => Readiness::Failed,
        };
        if pool.version() != version {
            // What was asked may not be the backend's service any more; the next sweep asks again.
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
