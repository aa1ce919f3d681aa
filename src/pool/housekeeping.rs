//! What a pool does with time: its sessions grow old, and its drains come to an end.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    BackendState, Mode, Pool, PoolError,
    backend::{DrainEnd, DrainReport, Phase, Plan},
    sessions::Window,
    shared::position,
};
use crate::{pool::Event, util::lock};

/// The time after which sessions without a timeout count as ended.
const DEFAULT_HORIZON: Duration = Duration::from_secs(30 * 60);
/// How often the pool looks after itself.
const TICK: Duration = Duration::from_secs(1);

impl<S> Pool<S> {
    /// The seconds since the pool was made, as they were when it last looked; at least 1.
    #[inline]
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Relaxed)
    }

    /// An affinity remembers sessions that have been idle for so long; `None` for ever.
    pub(crate) fn remembers(&self, idle: Option<Duration>) {
        let seconds = idle.unwrap_or(DEFAULT_HORIZON).as_secs().clamp(1, u64::from(u32::MAX));
        self.horizon.fetch_max(seconds as u32, Relaxed);
    }

    /// As [`remembers`](Self::remembers), by what the clients or an engine keep, or another gateway.
    pub(crate) fn pins_outlive(&self, idle: Option<Duration>) {
        self.remembers(idle);
        self.pins_outlive.store(true, Relaxed);
    }

    /// Whether the backend has been watched for long enough to know all its sessions.
    fn is_watched(&self, state: &BackendState, window: Window) -> bool {
        !self.pins_outlive.load(Relaxed) || state.is_watched_for(window)
    }

    /// How many sessions a backend has, if they can be told apart and have been watched for long enough.
    pub(super) fn session_count(&self, state: &BackendState, window: Window) -> Option<u64> {
        state.census.count(window).filter(|_| self.is_watched(state, window))
    }

    /// The sessions that count as there.
    pub(crate) fn window(&self, idle_for: Option<Duration>) -> Window {
        self.look_at_the_clock(Instant::now());
        let ticks = match idle_for {
            Some(idle) => idle.as_secs().min(u64::from(u32::MAX)) as u32,
            None => self.horizon.load(Relaxed),
        };
        // A mark may be a tick older than what it stands for.
        Window { now: self.tick(), ticks: ticks.saturating_add(1) }
    }

    /// Does what is due, and tells when to do so again.
    pub(crate) fn housekeep(&self, now: Instant) -> Instant {
        self.look_at_the_clock(now);
        self.see_streams();
        self.weigh();
        let next = now + TICK;
        if self.drains.load(Relaxed) == 0 {
            return next;
        }
        self.look_after_drains(now).map_or(next, |deadline| deadline.min(next))
    }

    /// Sessions with an open stream are there, however long ago their tokens were seen.
    fn see_streams(&self) {
        let (snapshot, tick) = (self.load(), self.tick());
        for state in snapshot.index().states().iter().filter(|state| state.in_flight() > 0) {
            state.streams.each_session(|session| {
                state.census.saw(Some(session), true, tick);
            });
        }
    }

    pub(super) fn begin_drain(&self, id: &str, mut plan: Plan) -> Result<(), PoolError> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let state = &snapshot.index().states()[position(&snapshot, id)?];
        self.look_at_the_clock(plan.started);
        plan.sessions_before = self.session_count(state, self.window(plan.idle_for));
        self.end_drain(state, DrainEnd::Cancelled);
        let from = state.mode();
        state.set_mode(Mode::Draining);
        state.drain.enter(Phase::Draining);
        *state.drain.plan() = Some(plan);
        self.drains.fetch_add(1, Relaxed);
        self.publish(snapshot.members.clone());
        if from != Mode::Draining {
            let backend = state.id.clone();
            self.events.publish(|| Event::Mode { backend, from, to: Mode::Draining });
        }
        self.wake.notify_one();
        Ok(())
    }

    /// The operator wants `mode`. A drain that is under way ends with that.
    pub(super) fn enter_mode(&self, state: &BackendState, mode: Mode) {
        let from = state.mode();
        self.end_drain(state, DrainEnd::Cancelled);
        if from != mode {
            if mode == Mode::Active && matches!(from, Mode::Disabled | Mode::Drained) {
                self.begin_slowly(state);
            }
            state.set_mode(mode);
            state.drain.enter(match mode {
                Mode::Draining => Phase::Draining,
                Mode::Active | Mode::Disabled | Mode::Drained => Phase::Serving,
            });
            // A suspect that was out was not looked at, and its next look may be due.
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
                state.drain.enter(Phase::Over);
            }
            return;
        }
        // One that is complete before its deadline goes on to it: late tokens are honoured until then.
        match (end, plan.deadline) {
            (DrainEnd::Completed, Some(_)) => {
                *state.drain.plan() = Some(Plan { is_reported: true, ..plan.clone() });
            }
            _ => {
                self.drains.fetch_sub(1, Relaxed);
            }
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
            state.drain.enter(Phase::Over);
        }
        plan.report.send_replace(Some(report.clone()));
        self.events.publish(|| Event::Drained { report });
    }

    /// Notes how many seconds old the pool is.
    pub(crate) fn look_at_the_clock(&self, now: Instant) {
        let tick = now.saturating_duration_since(self.started).as_secs() + 1;
        self.tick.fetch_max(tick.min(u64::from(u32::MAX)) as u32, Relaxed);
    }

    /// Ends the drains that have come to their end; tells when the next deadline is.
    fn look_after_drains(&self, now: Instant) -> Option<Instant> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let (mut next, mut over) = (None, false);
        for state in snapshot.index().states() {
            let Some(plan) = state.drain.plan().clone() else {
                continue;
            };
            if plan.deadline.is_some_and(|deadline| deadline <= now) {
                self.end_drain(state, DrainEnd::Deadline);
                over = true;
            } else if plan.is_reported {
                next = [next, plan.deadline].into_iter().flatten().min();
            } else if self.is_empty(state, &plan) {
                self.end_drain(state, DrainEnd::Completed);
                next = [next, plan.deadline].into_iter().flatten().min();
            } else {
                next = [next, plan.deadline].into_iter().flatten().min();
                self.tell_progress(state, &plan);
            }
        }
        if over {
            self.publish(snapshot.members.clone());
        }
        next
    }

    fn is_empty(&self, state: &BackendState, plan: &Plan) -> bool {
        let window = self.window(plan.idle_for);
        // Without an affinity that remembers, no session is anybody's.
        let remembers = self.horizon.load(Relaxed) > 0;
        let is_empty = || self.is_watched(state, window) && state.census.is_empty(window);
        state.in_flight() == 0 && (!remembers || is_empty())
    }

    fn tell_progress(&self, state: &BackendState, plan: &Plan) {
        let sessions = self.session_count(state, self.window(plan.idle_for));
        let progress = (state.in_flight(), state.streams.len(), sessions);
        if plan.last_told == Some(progress) {
            return;
        }
        if let Some(plan) = &mut *state.drain.plan() {
            plan.last_told = Some(progress);
        }
        let (in_flight, streams, sessions) = progress;
        let backend = state.id.clone();
        self.events.publish(|| Event::Draining { backend, in_flight, streams, sessions });
    }
}
