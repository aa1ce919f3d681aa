//! Periodic work of a pool: session ticks and timeouts, and the progress of drains.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    BackendState, Mode, Pool, PoolError,
    backend::{DrainEnd, DrainPhase, DrainPlan, DrainReport},
    sessions::Window,
    shared::position,
};
use crate::{pool::Event, util::lock};

/// The idle time after which sessions without a timeout count as ended.
const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The interval of the periodic work.
const TICK: Duration = Duration::from_secs(1);

#[cfg(feature = "metrics")]
const _: () = assert!(DrainEnd::ALL.len() == crate::outcome::recording::DRAIN_ENDS);

impl<S> Pool<S> {
    /// The tick: seconds since the creation of the pool, as of the last update; at least 1.
    #[inline]
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Relaxed)
    }

    /// Tracks sessions for `idle`, the time for which an affinity remembers an idle session; `None`
    /// without a limit.
    pub(crate) fn track_sessions(&self, idle: Option<Duration>) {
        let seconds =
            idle.unwrap_or(DEFAULT_SESSION_TIMEOUT).as_secs().clamp(1, u64::from(u32::MAX));
        self.session_timeout.fetch_max(seconds as u32, Relaxed);
    }

    /// As [`track_sessions`](Self::track_sessions), for pins outside this process: with clients, in a
    /// store, or at another gateway.
    pub(crate) fn track_external_pins(&self, idle: Option<Duration>) {
        self.track_sessions(idle);
        self.has_external_pins.store(true, Relaxed);
    }

    /// Whether the sessions of the backend have been counted for long enough to know all of them.
    fn has_full_count(&self, state: &BackendState, window: Window) -> bool {
        !self.has_external_pins.load(Relaxed) || state.has_counted_for(window)
    }

    /// How many sessions a backend has; `None` when they cannot be told apart, or have not been counted
    /// for long enough.
    pub(super) fn session_count(&self, state: &BackendState, window: Window) -> Option<u64> {
        state.session_counter.count(window).filter(|_| self.has_full_count(state, window))
    }

    /// The window of time in which a session must have been seen to count.
    pub(crate) fn window(&self, idle_for: Option<Duration>) -> Window {
        self.update_tick(Instant::now());
        let ticks = match idle_for {
            Some(idle) => idle.as_secs().min(u64::from(u32::MAX)) as u32,
            None => self.session_timeout.load(Relaxed),
        };
        // The recorded tick of a session may be one tick older than its last request.
        Window { now: self.tick(), ticks: ticks.saturating_add(1) }
    }

    /// Does the work that is due. Returns when to call this again.
    pub(crate) fn housekeep(&self, now: Instant) -> Instant {
        self.update_tick(now);
        self.record_open_streams();
        #[cfg(feature = "admin")]
        self.record_history();
        self.update_balance();
        let next = now + TICK;
        if self.drains.load(Relaxed) == 0 {
            return next;
        }
        self.check_drains(now).map_or(next, |deadline| deadline.min(next))
    }

    /// Ends an interval of the backends' histories, if it is over.
    #[cfg(feature = "admin")]
    fn record_history(&self) {
        let tick = self.tick();
        let due = self.history_due.load(Relaxed);
        let next = tick.saturating_add(crate::pool::HISTORY_SECS);
        // Of several that see it over, one records it.
        let is_over =
            tick >= due && self.history_due.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        if is_over {
            let snapshot = self.load();
            snapshot
                .index()
                .states()
                .iter()
                .for_each(|state| state.history.record(&state.recorder));
        }
    }

    /// Counts sessions with an open stream as present, even if their tokens have not been seen lately.
    fn record_open_streams(&self) {
        let (snapshot, tick) = (self.load(), self.tick());
        for state in snapshot.index().states().iter().filter(|state| state.in_flight() > 0) {
            state.streams.each_session(|session| {
                state.session_counter.record(Some(session), true, tick);
            });
        }
    }

    pub(super) fn begin_drain(&self, id: &str, plan: DrainPlan) -> Result<(), PoolError> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        self.start_drain(&snapshot.index().states()[position(&snapshot, id)?], plan);
        self.publish(snapshot.members.clone());
        Ok(())
    }

    /// Begins a drain, which cancels an earlier one. The caller publishes.
    pub(super) fn start_drain(&self, state: &BackendState, mut plan: DrainPlan) {
        self.update_tick(plan.started);
        plan.sessions_before = self.session_count(state, self.window(plan.idle_for));
        self.end_drain(state, DrainEnd::Cancelled);
        let from = state.mode();
        state.set_mode(Mode::Draining);
        state.drain.set_phase(DrainPhase::Draining);
        *state.drain.plan() = Some(plan);
        self.drains.fetch_add(1, Relaxed);
        if from != Mode::Draining {
            let backend = state.id.clone();
            self.events.publish(|| Event::Mode { backend, from, to: Mode::Draining });
        }
        self.wake.notify_one();
    }

    /// Changes the mode, which cancels a drain. The caller publishes.
    pub(super) fn change_mode(&self, state: &BackendState, mode: Mode) {
        let from = state.mode();
        self.end_drain(state, DrainEnd::Cancelled);
        if from != mode {
            if mode == Mode::Active && matches!(from, Mode::Disabled | Mode::Drained) {
                self.begin_slow_start(state);
            }
            state.set_mode(mode);
            state.drain.set_phase(match mode {
                Mode::Draining => DrainPhase::Draining,
                Mode::Active | Mode::Disabled | Mode::Drained => DrainPhase::Serving,
            });
            // A suspect that was out of service was not rechecked, and its next recheck may be due.
            self.wake.notify_one();
            let backend = state.id.clone();
            self.events.publish(|| Event::Mode { backend, from, to: mode });
        }
    }

    /// Ends the drain of a backend, if there is one.
    pub(super) fn end_drain(&self, state: &BackendState, end: DrainEnd) {
        let Some(plan) = state.drain.plan().take() else {
            return;
        };
        if plan.is_reported {
            self.drains.fetch_sub(1, Relaxed);
            if end == DrainEnd::Deadline {
                state.set_drained(plan.then);
                state.streams.cut();
                state.drain.set_phase(DrainPhase::Ended);
            }
            return;
        }
        // Tokens are still honoured after that, until the deadline or until the mode is set.
        if end == DrainEnd::Completed {
            *state.drain.plan() = Some(DrainPlan { is_reported: true, ..plan.clone() });
        } else {
            self.drains.fetch_sub(1, Relaxed);
        }
        let mut streams_cut = 0;
        if end == DrainEnd::Deadline {
            state.set_drained(plan.then);
            streams_cut = state.streams.cut();
        }
        let report = DrainReport {
            backend: state.id.clone(),
            end,
            elapsed: plan.started.elapsed(),
            sessions_before: plan.sessions_before,
            sessions_left: self.session_count(state, self.window(plan.idle_for)),
            in_flight: state.in_flight(),
            streams_cut,
        };
        tracing::info!(backend = %state.id, %end, in_flight = report.in_flight, "drain ended");
        if end == DrainEnd::Deadline {
            state.drain.set_phase(DrainPhase::Ended);
        }
        plan.report.send_replace(Some(report.clone()));
        self.recorder.drained(end as usize);
        self.events.publish(|| Event::Drained { report });
    }

    /// Updates the tick.
    pub(crate) fn update_tick(&self, now: Instant) {
        let base = u64::from(self.tick_base.load(Relaxed));
        let tick = base + now.saturating_duration_since(self.started).as_secs() + 1;
        self.tick.fetch_max(tick.min(u64::from(u32::MAX)) as u32, Relaxed);
    }

    /// Ends the drains that have completed or reached their deadline. Returns the next deadline.
    fn check_drains(&self, now: Instant) -> Option<Instant> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let (mut next, mut any_ended) = (None, false);
        for state in snapshot.index().states() {
            let Some(plan) = state.drain.plan().clone() else {
                continue;
            };
            if plan.deadline.is_some_and(|deadline| deadline <= now) {
                self.end_drain(state, DrainEnd::Deadline);
                any_ended = true;
            } else if plan.is_reported {
                next = [next, plan.deadline].into_iter().flatten().min();
            } else if self.is_empty(state, &plan) {
                self.end_drain(state, DrainEnd::Completed);
                next = [next, plan.deadline].into_iter().flatten().min();
            } else {
                next = [next, plan.deadline].into_iter().flatten().min();
                self.publish_progress(state, &plan);
            }
        }
        if any_ended {
            self.publish(snapshot.members.clone());
        }
        next
    }

    fn is_empty(&self, state: &BackendState, plan: &DrainPlan) -> bool {
        let window = self.window(plan.idle_for);
        // Without an affinity that remembers sessions, only requests in flight count.
        let has_sessions = self.session_timeout.load(Relaxed) > 0;
        let is_empty =
            || self.has_full_count(state, window) && state.session_counter.is_empty(window);
        state.in_flight() == 0 && (!has_sessions || is_empty())
    }

    fn publish_progress(&self, state: &BackendState, plan: &DrainPlan) {
        let sessions = self.session_count(state, self.window(plan.idle_for));
        let progress = (state.in_flight(), state.streams.len(), sessions);
        if plan.last_progress == Some(progress) {
            return;
        }
        if let Some(plan) = &mut *state.drain.plan() {
            plan.last_progress = Some(progress);
        }
        let (in_flight, streams, sessions) = progress;
        let backend = state.id.clone();
        self.events.publish(|| Event::Draining { backend, in_flight, streams, sessions });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::{Backends, Entered};

    /// A pool with one backend, and its state.
    fn pool() -> (Backends<()>, Arc<BackendState>) {
        let backends = Backends::from_iter([("a", ())]);
        let state = backends.pool().load().index().states()[0].clone();
        (backends, state)
    }

    #[cfg(feature = "admin")]
    #[tokio::test(start_paused = true)]
    async fn histories_get_an_interval_every_ten_seconds() {
        let (backends, state) = pool();
        for second in 0..=35 {
            backends.pool().housekeep(Instant::now());
            assert_eq!(state.history.intervals().len(), second / 10, "after {second} s");
            tokio::time::advance(TICK).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_an_idle_timeout_counts_for_half_an_hour() {
        let (backends, state) = pool();
        backends.pool().track_sessions(None);
        state.session_counter.record(Some(1), true, backends.pool().tick());
        let after = async |minutes: u64| {
            tokio::time::advance(Duration::from_secs(minutes * 60)).await;
            state.session_counter.count(backends.pool().window(None))
        };
        assert_eq!(after(29).await, Some(1));
        assert_eq!(after(2).await, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_affinity_that_remembers_sessions_a_drain_waits_for_requests_only() {
        let (backends, state) = pool();
        let drains = || {
            backends.pool().housekeep(Instant::now());
            !backends.get("a").unwrap().is_drained()
        };
        let drain = || backends.drain("a").idle_for(Duration::from_secs(60)).start().unwrap();
        // As restored from a process whose affinity remembered sessions.
        state.session_counter.record(Some(1), true, backends.pool().tick());
        let request = Entered::new(state);
        let first = drain();
        assert!(drains(), "a request is in flight");
        drop(request);
        assert!(!drains());
        assert_eq!(first.ended().await.end, DrainEnd::Completed);
        backends.pool().track_sessions(None);
        drain();
        assert!(drains(), "the session may come back");
    }
}
