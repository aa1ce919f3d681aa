//! What a request does about suspects: its session's own, which may return, and those that are left when
//! nobody better is.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Attempt, NextStep, TrialPermit, WaitLimit,
    candidates::RemainingCandidates,
    recovery::{Awaiting, Purpose, Recovery, Watched},
    state::Dispatch,
};
use crate::{
    outcome::{Reason, StickyError, Verdict},
    pool::{Access, Availability, BackendState, Mode, Snapshot},
    util::clock::later,
};

/// How long redials have before a request itself tries a suspect that cannot be redialed, or waits for a
/// backend that is busy.
const HEAD_START: Duration = Duration::from_millis(100);

/// What a request can do about one suspect.
enum Step {
    /// Try it, like a backend that is well.
    Go,
    /// Try it, as the one request that does so.
    Try,
    /// Wait until somebody has found out whether it is well.
    Wait,
    /// Nothing more: that was found out while this request waited.
    Done,
}

impl<S: Clone> Dispatch<S> {
    /// The session's own backend is out of reach, or there is evidence against it: its return is waited
    /// for, or it is tried, or the policy decides.
    #[cold]
    pub(super) fn suspect_pinned(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> NextStep<S> {
        let state = &snapshot.index().states()[position].clone();
        self.owe(state.tag);
        let watched = Watched::new(state);
        if state.availability().is_healthy() {
            // It has returned just now.
            return self.honor_pin(snapshot, position);
        }
        let watched = match self.await_return(state, watched) {
            Ok(next) => return next,
            Err(watched) => watched,
        };
        let sent_in_vain = self.slow_path().unanswered.is_some();
        if state.availability() == Availability::Suspect {
            if !sent_in_vain && let Some(trial) = self.wanted_trial(state, true) {
                return self.try_pinned(snapshot, position, trial);
            }
            if let Some(until) = self.pending_check(state, sent_in_vain) {
                return NextStep::Recover(Recovery::new(Purpose::Home, vec![watched], until));
            }
        }
        self.end_recovery_wait();
        self.unavailable(state, Reason::Down)
    }

    /// A trial of `state` that is due, and that this request may be.
    pub(super) fn wanted_trial(
        &self,
        state: &Arc<BackendState>,
        at_home: bool,
    ) -> Option<TrialPermit> {
        TrialPermit::wanted(state, &self.core.options.health, self.kind.repeatable, at_home)
    }

    fn try_pinned(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
        trial: TrialPermit,
    ) -> NextStep<S> {
        let state = snapshot.index().states()[position].clone();
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(&state) {
            return self.unavailable(&state, Reason::Down);
        }
        self.pinned_after_all(&state);
        let trial = Some(trial);
        NextStep::Try(Attempt { state, service, trial, wait_limit: WaitLimit::Pinned })
    }

    /// Until when to wait for what somebody is about to find out about a pinned session's backend: by a
    /// trial, unless this request has been `sent_in_vain` and should rather go elsewhere, or by a redial
    /// after its connections have broken.
    fn pending_check(&mut self, state: &BackendState, sent_in_vain: bool) -> Option<Instant> {
        if self.is_keyed() {
            return None;
        }
        let is_looked_at = {
            let evidence = &state.sources().evidence;
            evidence.awaits_redial() || (!sent_in_vain && evidence.rechecks.is_trial_running())
        };
        if !is_looked_at {
            return None;
        }
        let timeout = self.core.options.ready_timeout;
        let until = *self.slow_path().trial_until.get_or_insert_with(|| later(timeout));
        (Instant::now() < until).then_some(until)
    }

    /// Waits for the session's backend to return, if its outage is young enough. Only pins wait: what is
    /// chosen by a key has another backend.
    pub(super) fn await_return(
        &mut self,
        state: &Arc<BackendState>,
        watched: Watched,
    ) -> Result<NextStep<S>, Watched> {
        let home_wait = self.core.options.home_wait;
        if home_wait.is_zero() || self.is_keyed() {
            return Err(watched);
        }
        let now = Instant::now();
        let outage = state.sources().outage();
        let Some(until) = outage.map(|since| since + home_wait).filter(|until| *until > now) else {
            return Err(watched);
        };
        if self.slow_path().awaiting.is_none() {
            let (key, max) = (self.waiter_key(), self.core.options.max_waiters);
            let Some(awaiting) = Awaiting::take(state, key, max) else {
                return Ok(self.unavailable(state, Reason::Busy));
            };
            self.slow_path().awaiting = Some(awaiting);
        }
        let seed = self.core.options.health.backoff(state.tag).seed;
        let (access, due) = {
            let evidence = &mut state.sources().evidence;
            evidence.rechecks.make_due_soon(seed, now);
            (evidence.access(), evidence.rechecks.due())
        };
        self.core.backends.pool().wake.notify_one();
        if access == Access::Trial
            && let Some(trial) = self.wanted_trial(state, true)
        {
            let snapshot = self.core.backends.pool().load();
            if let Some(position) = snapshot.index().position(state.tag) {
                return Ok(self.try_pinned(&snapshot, position, trial));
            }
        }
        // Without a redial one of those who wait tries it when its time has come.
        let until = match due {
            Some(due) if access == Access::Trial && due > now => until.min(due),
            _ => until,
        };
        Ok(NextStep::Recover(Recovery::new(Purpose::Home, vec![watched], until)))
    }

    /// The request could not be sent to its session's backend, or was sent in vain, and the sessions of the
    /// backend are to wait for its return. If it refuses connections by now, it is being restarted; if it
    /// accepts them and breaks off, the request has to go elsewhere.
    pub(super) fn await_after_failure(&mut self, state: &Arc<BackendState>) -> Option<NextStep<S>> {
        if self.core.options.home_wait.is_zero() {
            return None;
        }
        let watched = match self.await_return(state, Watched::new(state)) {
            Ok(next) => return Some(next),
            Err(watched) => watched,
        };
        let until = self.pending_check(state, true)?;
        Some(NextStep::Recover(Recovery::new(Purpose::Home, vec![watched], until)))
    }

    /// There is news of what was waited for, or the time is over.
    pub(crate) fn recovered(&mut self, recovery: &Recovery) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        match (recovery.purpose, recovery.first()) {
            (Purpose::Home, Some(home)) => match snapshot.index().position(home.tag) {
                Some(position) => self.honor_pin(&snapshot, position),
                None => {
                    self.end_recovery_wait();
                    self.decision.set(Verdict::Assigned, Some(Reason::Unknown));
                    self.place(&snapshot)
                }
            },
            _ => self.next(None),
        }
    }

    /// The time for the other candidates begins now.
    pub(super) fn end_recovery_wait(&mut self) {
        if let Some(slow_path) = &mut self.slow_path
            && (slow_path.awaiting.take().is_some() || slow_path.trial_until.is_some())
        {
            slow_path.deadline = None;
        }
    }

    /// A suspect that wants a trial and that a new session may be. Sessions with a key are placed by rank.
    pub(super) fn trial_of_suspect(&mut self, snapshot: &Snapshot<S>) -> Option<NextStep<S>> {
        if self.key.is_some() {
            return None;
        }
        let mut suspects = snapshot
            .suspects
            .iter()
            .filter(|state| state.may_take_new_sessions() && !state.is_backup());
        let (state, trial) =
            suspects.find_map(|state| Some((state, self.wanted_trial(state, false)?)))?;
        let attempt = self.attempt_with(snapshot, state, Some(trial))?;
        Some(NextStep::Try(attempt))
    }

    /// What to do when all others have been asked: try a suspect, wait for what somebody finds out about
    /// one, or nothing.
    pub(super) fn next_suspect(
        &mut self,
        snapshot: &Snapshot<S>,
        remaining: &mut RemainingCandidates,
    ) -> Option<NextStep<S>> {
        let (now, deadline) = (Instant::now(), self.whole_deadline());
        if remaining.is_over || now >= deadline {
            return None;
        }
        let (mut watched, mut trial, mut redials) = (Vec::new(), None, false);
        let left = self.core.options.max_attempts.saturating_sub(remaining.suspects);
        for state in remaining.untried(snapshot, self.home()).into_iter().take(left) {
            let news = Watched::new(&state);
            match remaining.step(&state, now, &mut redials) {
                Step::Go => {
                    let trial = self.wanted_trial(&state, false);
                    return self.try_suspect(snapshot, remaining, &state, trial);
                }
                Step::Try => trial = trial.or(Some(state)),
                Step::Wait => watched.push(news),
                Step::Done => {}
            }
        }
        if redials {
            self.core.backends.pool().wake.notify_one();
        }
        let start = *remaining.head_start.get_or_insert_with(|| now + HEAD_START);
        let mut until = deadline;
        if let Some(state) = trial {
            if watched.is_empty() || now >= start {
                return match TrialPermit::last(&state) {
                    Some(trial) => self.try_suspect(snapshot, remaining, &state, Some(trial)),
                    // Another request has begun to try it just now, and is waited for.
                    None => self.next_suspect(snapshot, remaining),
                };
            }
            until = until.min(start);
        } else if remaining.parked.is_some() {
            // A busy backend is well, and is waited for once a redial had the time to find another.
            if now >= start {
                return None;
            }
            until = until.min(start);
        }
        self.wait_for_suspects(remaining, watched, until)
    }

    fn wait_for_suspects(
        &mut self,
        remaining: &mut RemainingCandidates,
        watched: Vec<Watched>,
        until: Instant,
    ) -> Option<NextStep<S>> {
        let recovery = Recovery::new(Purpose::Suspects, watched, until);
        let first = recovery.first()?;
        if remaining.awaiting.is_none() {
            let (key, max) = (self.waiter_key(), self.core.options.max_waiters);
            let Some(awaiting) = Awaiting::take(first, key, max) else {
                self.decision.set_reason(Some(Reason::Busy));
                return Some(NextStep::Fail(StickyError::Busy { backend: first.id.clone() }));
            };
            remaining.awaiting = Some(awaiting);
        }
        Some(NextStep::Recover(recovery))
    }

    fn try_suspect(
        &mut self,
        snapshot: &Snapshot<S>,
        remaining: &mut RemainingCandidates,
        state: &Arc<BackendState>,
        trial: Option<TrialPermit>,
    ) -> Option<NextStep<S>> {
        remaining.mark_tried(state.tag);
        remaining.suspects += 1;
        remaining.awaiting = None;
        match self.attempt_with(snapshot, state, trial) {
            Some(attempt) => {
                if self.home() == Some(state.tag) {
                    // Its own backend serves the session after all.
                    self.pinned_after_all(state);
                }
                Some(NextStep::Try(attempt))
            }
            None => self.next_suspect(snapshot, remaining),
        }
    }

    /// The backend that the request would be pinned to, if it could serve it.
    fn home(&self) -> Option<u64> {
        self.owed_to()
    }
}

impl RemainingCandidates {
    /// Those that have not been asked and that may be, also such as have become well since the others
    /// were gathered: these first, then the suspects, the least recent failure first.
    fn untried<S>(&self, snapshot: &Snapshot<S>, home: Option<u64>) -> Vec<Arc<BackendState>> {
        let may_serve = |state: &&Arc<BackendState>| {
            let is_home =
                home == Some(state.tag) && matches!(state.mode(), Mode::Active | Mode::Draining);
            (is_home || (self.only.is_none() && state.may_take_new_sessions()))
                && state.availability() != Availability::Down
                && !(self.primary_is_busy && state.is_backup())
                && !self.tried.contains(&state.tag)
        };
        let states = snapshot.index().states().iter().filter(may_serve);
        let mut states: Vec<_> = states
            .map(|state| {
                let failed = state.sources().evidence.last_failure();
                ((!state.availability().is_healthy(), state.is_backup(), failed), state.clone())
            })
            .collect();
        states.sort_by_key(|(order, _)| *order);
        states.into_iter().map(|(_, state)| state).collect()
    }

    /// What to do about one of them. Sets `redials` when it is to be redialed at once.
    fn step(&mut self, state: &Arc<BackendState>, now: Instant, redials: &mut bool) -> Step {
        let mut sources = state.sources();
        let evidence = &mut sources.evidence;
        let access = evidence.access();
        match access {
            _ if state.availability().is_healthy() => return Step::Go,
            Access::Open => return Step::Go,
            Access::Trial if evidence.rechecks.is_running() => return Step::Wait,
            Access::Trial => return Step::Try,
            Access::Redial => {}
        }
        // Only a look that begins from now on says how the backend is while this request is there.
        let next = evidence.rechecks.started() + 1;
        let wanted = match self.awaited_looks.iter().find(|(tag, _)| *tag == state.tag) {
            Some((_, wanted)) => *wanted,
            None => {
                self.awaited_looks.push((state.tag, next));
                next
            }
        };
        if evidence.rechecks.finished() < wanted {
            if !evidence.rechecks.is_running() {
                evidence.rechecks.make_due(now);
                *redials = true;
            }
            return Step::Wait;
        }
        let said = evidence.last_error().map(str::to_owned);
        drop(sources);
        if let Some(said) = said {
            self.last = Some((state.id.clone(), said.into()));
        }
        self.mark_tried(state.tag);
        self.suspects += 1;
        Step::Done
    }
}
