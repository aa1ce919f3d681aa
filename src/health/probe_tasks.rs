//! The tasks that run active probes: one per backend, so that a slow probe delays no other.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use tower_service::Service;

use super::{AnyProbe, Settings};
use crate::{
    error::{BoxError, Refusal, Shortage},
    pool::{BackendState, Cause, Members, Mode, Pool},
    util::Rng,
};

/// Probes start at multiples of this fraction of their interval. So many backends need few timers: those that are
/// due within 10 ms of each other, at an interval of 10 s, are probed together.
const GRID: u32 = 1_000;

/// The probe tasks of a pool. They are aborted when this is dropped.
pub(super) struct ProbeTasks<S> {
    probe: AnyProbe<S>,
    settings: Settings,
    /// A permit for each probe that may be in flight.
    in_flight: Arc<Semaphore>,
    /// Where the grid begins.
    begun: Instant,
    seed: u64,
    tasks: HashMap<u64, RunningTask>,
    /// The members of the last `sync`.
    members: Weak<Members<S>>,
}

/// A running task, which is aborted when this is dropped.
struct RunningTask {
    state: Arc<BackendState>,
    generation: u64,
    task: AbortHandle,
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S> ProbeTasks<S>
where
    S: Clone + Send + Sync + 'static,
{
    pub(super) fn new(probe: AnyProbe<S>, settings: Settings) -> Self {
        let seed = settings.seed.unwrap_or_else(|| Rng::new().next());
        let in_flight = Arc::new(Semaphore::new(settings.probes_in_flight));
        let begun = Instant::now();
        Self {
            probe,
            settings,
            in_flight,
            begun,
            seed,
            tasks: HashMap::new(),
            members: Weak::new(),
        }
    }

    /// Starts and aborts tasks so that there is one for the current service of each remote backend.
    pub(super) fn sync<Req>(&mut self, pool: &Arc<Pool<S>>)
    where
        S: Service<Req>,
        Req: 'static,
    {
        let members = pool.load().members.clone();
        if std::ptr::eq(self.members.as_ptr(), Arc::as_ptr(&members)) {
            return;
        }
        self.members = Arc::downgrade(&members);
        let remote = || {
            let all = members.index.states().iter().zip(&members.services);
            all.filter_map(|(state, service)| service.is_some().then_some(state))
        };
        let mut before = std::mem::take(&mut self.tasks);
        let interval = self.settings.probe_interval;
        // Many first probes would otherwise wait for each other.
        let is_crowded = members.services.len() > before.len() + self.settings.probes_in_flight;
        let first_within = if is_crowded { interval } else { interval / 4 };
        for state in remote() {
            let generation = state.sources().generation;
            let same = before.remove(&state.tag).filter(|running| {
                Arc::ptr_eq(&running.state, state) && running.generation == generation
            });
            let running = same.unwrap_or_else(|| {
                let task = ProbeTask {
                    pool: Arc::downgrade(pool),
                    state: state.clone(),
                    generation,
                    probe: self.probe.clone(),
                    settings: self.settings,
                    in_flight: self.in_flight.clone(),
                    grid: Grid { begun: self.begun, step: interval / GRID },
                    first_within,
                    rng: Rng::seeded(self.seed ^ state.tag),
                };
                let task = tokio::spawn(task.run::<Req>()).abort_handle();
                RunningTask { state: state.clone(), generation, task }
            });
            self.tasks.insert(state.tag, running);
        }
    }
}

/// The times at which probes start.
#[derive(Debug, Clone, Copy)]
struct Grid {
    begun: Instant,
    step: Duration,
}

impl Grid {
    /// The first time of the grid that is not before `time`.
    fn round_up(&self, time: Instant) -> Instant {
        let past = time.saturating_duration_since(self.begun).as_nanos();
        let over = past.checked_rem(self.step.as_nanos()).unwrap_or(0);
        if over == 0 {
            return time;
        }
        time + self.step.saturating_sub(Duration::from_nanos(over as u64))
    }
}

struct ProbeTask<S> {
    pool: Weak<Pool<S>>,
    state: Arc<BackendState>,
    /// The generation of the service that is probed; results for other generations are ignored.
    generation: u64,
    probe: AnyProbe<S>,
    settings: Settings,
    in_flight: Arc<Semaphore>,
    grid: Grid,
    /// The first probe is at a random time within this.
    first_within: Duration,
    rng: Rng,
}

impl<S> ProbeTask<S>
where
    S: Clone + Send + Sync + 'static,
{
    async fn run<Req>(self)
    where
        S: Service<Req>,
    {
        let interval = self.settings.probe_interval;
        self.sleep(self.first_within.mul_f64(self.random_fraction())).await;
        loop {
            let mut wait = interval;
            if self.state.mode() != Mode::Disabled {
                let Ok(permit) = self.in_flight.acquire().await else {
                    return;
                };
                let Some(service) = self.service() else {
                    return;
                };
                let began = Instant::now();
                let result = probe_once::<S, Req>(&self, service).await;
                drop(permit);
                let Some(pool) = self.pool.upgrade() else {
                    return;
                };
                if let Some(result) = result {
                    self.record(&pool, result, began);
                }
                if self.is_uncertain() {
                    wait = interval / 4;
                }
            }
            self.sleep(wait.mul_f64(0.9 + 0.2 * self.random_fraction())).await;
        }
    }

    async fn sleep(&self, wait: Duration) {
        sleep_until(self.grid.round_up(Instant::now() + wait)).await;
    }

    /// A random number from 0 to 1.
    fn random_fraction(&self) -> f64 {
        self.rng.next() as f64 / u64::MAX as f64
    }

    /// A clone of the backend's service. The task must not keep the pool alive.
    fn service(&self) -> Option<S> {
        let pool = self.pool.upgrade()?;
        let snapshot = pool.load();
        let members = &snapshot.members;
        let position = members.index.position(self.state.tag)?;
        members.services.get(position)?.clone()
    }

    fn is_uncertain(&self) -> bool {
        let sources = self.state.sources();
        let suspect = !sources.evidence.is_clear() && !sources.probes.is_down();
        suspect || sources.probes.is_uncertain()
    }

    /// Records the result of a probe that was started at `began`.
    fn record(&self, pool: &Pool<S>, result: Result<(), ProbeFailure>, began: Instant) {
        let Settings { rise, fall, ejection, connect_failures, .. } = self.settings;
        let (now, backoff) = (Instant::now(), self.settings.backoff(self.state.tag));
        if let Err(failure) = &result {
            tracing::debug!(backend = %self.state.id, error = failure.text, "a probe failed");
        }
        let recorder = &self.state.recorder;
        recorder.probed(result.is_ok());
        pool.update(&self.state, Cause::Probe, |sources| {
            if sources.generation != self.generation {
                return;
            }
            let evidence = &mut sources.evidence;
            match result {
                Ok(()) => {
                    // A probe that was started before the failure does not end its evidence.
                    evidence.record_answer(
                        evidence.last_failure().is_none_or(|failed| failed <= began),
                        now,
                    );
                    // Coming up from down, or a success during the trial, also ends the ejection.
                    if sources.probes.record_success(rise) || evidence.ejection.is_on_trial() {
                        evidence.ejection.reinstate(now);
                    }
                }
                Err(ProbeFailure { text, refusal }) => {
                    if let Some(refusal) = refusal {
                        evidence.record_refusal(refusal, None, connect_failures, &backoff, now);
                    }
                    sources.probes.record_failure(fall, text, now);
                    // A failed probe fails the trial, unless the backend is down anyway.
                    if evidence.ejection.is_on_trial() && !sources.probes.is_down() {
                        evidence.ejection.eject(ejection, now);
                        recorder.ejected();
                    }
                }
            }
        });
        // The driver has to know when an ejection ends or a redial is due.
        if self.state.has_evidence() {
            pool.wake.notify_one();
        }
    }
}

/// The error of a failed probe.
struct ProbeFailure {
    text: String,
    /// Set if the connection was refused or timed out.
    refusal: Option<Refusal>,
}

impl ProbeFailure {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), refusal: None }
    }

    fn of(error: &BoxError) -> Self {
        Self { text: describe(error), refusal: Refusal::in_chain(error) }
    }
}

/// Probes once. `None` without a result: the service was busy, or this machine has a shortage.
async fn probe_once<S, Req>(task: &ProbeTask<S>, mut service: S) -> Option<Result<(), ProbeFailure>>
where
    S: Service<Req> + Send + 'static,
{
    let limit = task.settings.probe_timeout;
    let attempt = async {
        let ready = poll_fn(|cx| service.poll_ready(cx).map_err(drop));
        match timeout(limit, ready).await {
            Err(_) => return None,
            Ok(Err(())) => {
                return Some(Err(ProbeFailure::new("its service failed to become ready")));
            }
            Ok(Ok(())) => {}
        }
        let probing = task.probe.probe(service, &task.state.id);
        match timeout(limit, probing).await {
            // The connection failed because of this machine, so the backend was not probed.
            Ok(Err(error)) if Shortage::in_chain(error.as_ref()).is_some() => None,
            Ok(result) => Some(result.map_err(|error| ProbeFailure::of(&error))),
            Err(_) => Some(Err(ProbeFailure::new(format!("it did not answer within {limit:?}")))),
        }
    };
    let result = catch_panic(attempt).await;
    result.unwrap_or_else(|| Some(Err(ProbeFailure::new("the probe panicked"))))
}

/// Resolves to the output of `future`, or `None` if it panics, so that the task survives it.
async fn catch_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// The text of the error, followed by those of its causes that it does not contain.
fn describe(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt};

    use super::*;

    /// An error with these texts of itself and its causes.
    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<Caused>>);

    impl fmt::Display for Caused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_ref().map(|cause| &**cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn a_failure_names_every_cause_once() {
        let told = |texts: &[&'static str]| {
            let caused = |cause, &text: &&'static str| Some(Box::new(Caused(text, cause)));
            let error: BoxError = texts.iter().rev().fold(None, caused).unwrap();
            describe(&error)
        };
        assert_eq!(told(&["no connection"]), "no connection");
        assert_eq!(told(&["no connection", "refused"]), "no connection: refused");
        assert_eq!(told(&["no connection: refused", "refused"]), "no connection: refused");
        assert_eq!(told(&["no answer", "broken", "broken", "reset"]), "no answer: broken: reset");
    }

    #[test]
    fn probes_that_are_due_close_to_each_other_start_together() {
        let begun = Instant::now();
        let after = |micros| begun + Duration::from_micros(micros);
        let grid = Grid { begun, step: Duration::from_millis(10) };
        assert_eq!(grid.round_up(begun), begun);
        for micros in [1, 4_321, 10_000] {
            assert_eq!(grid.round_up(after(micros)), after(10_000), "{micros}");
        }
        assert_eq!(grid.round_up(after(10_001)), after(20_000));
        let none = Grid { begun, step: Duration::ZERO };
        assert_eq!(none.round_up(after(4_321)), after(4_321));
    }
}
