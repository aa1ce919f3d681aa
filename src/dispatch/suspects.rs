//! Requests and suspects: waiting for the pinned backend to recover, and trying suspects when no better
//! backend is left.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Attempt, NextStep, TrialPermit, WaitLimit,
    candidates::RemainingCandidates,
    recovery::{Purpose, Recovery, RecoveryWait, Watched},
    state::Dispatch,
};
use crate::{
    outcome::{Reason, StickyError, Verdict},
    pool::{Access, Availability, BackendState, Mode, Snapshot},
    util::clock::later,
};

/// How long a request waits for redials before it tries a suspect itself, or waits for a busy backend.
const REDIAL_GRACE: Duration = Duration::from_millis(100);

/// What a request does with one suspect.
enum SuspectAction {
    /// Try it like a healthy backend.
    Try,
    /// Try it with a trial permit.
    Trial,
    /// Wait until a recheck has ended.
    Wait,
    /// Skip it: a recheck has failed while this request waited.
    Skip,
}

impl<S: Clone> Dispatch<S> {
    /// The pinned backend is down or suspect: waits for it to recover, tries it, or applies the policy.
    #[cold]
    pub(super) fn suspect_pinned(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> NextStep<S> {
        let state = &snapshot.index().states()[position].clone();
        self.set_expected_backend(state.tag);
        let watched = Watched::new(state);
        // Read once: it may recover meanwhile, and then it has not been tried.
        let availability = state.availability();
        if availability.is_healthy() {
            // It has just recovered.
            return self.honor_pin(snapshot, position);
        }
        let watched = match self.await_return(state, watched) {
            Ok(next) => return next,
            Err(watched) => watched,
        };
        let was_sent = self.slow_path().unanswered.is_some();
        let is_suspect = availability == Availability::Suspect;
        if is_suspect {
            if !was_sent && let Some(trial) = self.due_trial(state, true) {
                return self.try_pinned(snapshot, position, trial);
            }
            if let Some(until) = self.pending_check(state, was_sent) {
                return NextStep::Recover(Recovery::new(Purpose::Pinned, vec![watched], until));
            }
        }
        self.end_recovery_wait();
        if is_suspect {
            return self.leave_suspect(state);
        }
        self.unavailable(state, Reason::Down)
    }

    /// A permit for a trial of `state`, if one is due and this request may be used for it.
    pub(super) fn due_trial(
        &self,
        state: &Arc<BackendState>,
        is_pinned: bool,
    ) -> Option<TrialPermit> {
        TrialPermit::if_due(state, &self.core.options.health, self.kind.repeatable, is_pinned)
    }

    fn try_pinned(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
        trial: TrialPermit,
    ) -> NextStep<S> {
        let state = snapshot.index().states()[position].clone();
        let Some(attempt) = self.attempt_with(snapshot, &state, Some(trial)) else {
            return self.unavailable(&state, Reason::Down);
        };
        self.return_to_pinned(&state);
        NextStep::Try(Attempt { wait_limit: WaitLimit::Pinned, ..attempt })
    }

    /// Until when to wait for a check of the pinned backend that is in progress: a redial after its
    /// connections have broken, or a trial by another request. After `was_sent`, trials are not waited for:
    /// another backend is the better choice.
    fn pending_check(&mut self, state: &BackendState, was_sent: bool) -> Option<Instant> {
        if self.is_keyed() {
            return None;
        }
        let is_checked = {
            let evidence = &state.sources().evidence;
            evidence.awaits_redial() || (!was_sent && evidence.rechecks.is_trial_running())
        };
        if !is_checked {
            return None;
        }
        let timeout = self.core.options.ready_timeout;
        let until = *self.slow_path().trial_until.get_or_insert_with(|| later(timeout));
        (Instant::now() < until).then_some(until)
    }

    /// Waits for the pinned backend to recover, if its outage is shorter than `home_wait`. Requests that
    /// are routed by a key do not wait, as another backend can serve them.
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
        if self.slow_path().recovery_wait.is_none() {
            let (key, max) = (self.waiter_key(), self.core.options.max_waiters);
            let Some(recovery_wait) = RecoveryWait::begin(state, key, max) else {
                return Ok(self.unavailable(state, Reason::Busy));
            };
            self.slow_path().recovery_wait = Some(recovery_wait);
        }
        let seed = self.core.options.health.backoff(state.tag).seed;
        let (access, due) = {
            let evidence = &mut state.sources().evidence;
            evidence.rechecks.make_due_soon(seed, now);
            (evidence.access(), evidence.rechecks.due())
        };
        self.core.backends.pool().wake.notify_one();
        if access == Access::Trial
            && let Some(trial) = self.due_trial(state, true)
        {
            let snapshot = self.core.backends.pool().load();
            if let Some(position) = snapshot.index().position(state.tag) {
                return Ok(self.try_pinned(&snapshot, position, trial));
            }
        }
        // A backend that cannot be redialed is tried by a waiting request when a recheck is due.
        let until = match due {
            Some(due) if access == Access::Trial && due > now => until.min(due),
            _ => until,
        };
        Ok(NextStep::Recover(Recovery::new(Purpose::Pinned, vec![watched], until)))
    }

    /// The pinned backend did not take the request or did not answer, and `home_wait` is set. A backend that
    /// refuses connections may be restarting and is waited for. With one that accepts and closes them the
    /// request must be sent elsewhere.
    pub(super) fn await_after_failure(&mut self, state: &Arc<BackendState>) -> Option<NextStep<S>> {
        if self.core.options.home_wait.is_zero() {
            return None;
        }
        let watched = match self.await_return(state, Watched::new(state)) {
            Ok(next) => return Some(next),
            Err(watched) => watched,
        };
        // Looked at now, after it was found that there is no outage: it may have recovered just before.
        if let Some(next) = self.retry_recovered(state) {
            return Some(next);
        }
        let until = self.pending_check(state, true)?;
        Some(NextStep::Recover(Recovery::new(Purpose::Pinned, vec![watched], until)))
    }

    /// Tries the pinned backend again if it has recovered since it was given the request.
    fn retry_recovered(&mut self, state: &BackendState) -> Option<NextStep<S>> {
        let slow_path = self.slow_path();
        let (attempts, generation) = (slow_path.failed_attempts as usize, slow_path.last_attempt?);
        let has_recovered = !state.generation().has_health_of(generation);
        if !has_recovered || self.is_keyed() || attempts >= self.core.options.max_attempts {
            return None;
        }
        let snapshot = self.core.backends.pool().load();
        let position = snapshot.index().position(state.tag)?;
        Some(self.honor_pin(&snapshot, position))
    }

    /// The next step after a change of the suspects, or at the deadline of the wait.
    pub(crate) fn recovered(&mut self, recovery: &Recovery) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        match (recovery.purpose, recovery.first()) {
            (Purpose::Pinned, Some(state)) => match snapshot.index().position(state.tag) {
                Some(position) => self.honor_pin(&snapshot, position),
                None => {
                    self.end_recovery_wait();
                    self.decision.set(Verdict::Assigned, Some(Reason::Unknown));
                    self.assign(&snapshot)
                }
            },
            _ => self.next(None),
        }
    }

    /// Ends the wait for the pinned backend. The deadline for other candidates starts now.
    pub(super) fn end_recovery_wait(&mut self) {
        if let Some(slow_path) = &mut self.slow_path
            && (slow_path.recovery_wait.take().is_some() || slow_path.trial_until.is_some())
        {
            slow_path.deadline = None;
        }
    }

    /// A suspect whose trial is due, for a new session. Sessions with a key are assigned by rank instead.
    pub(super) fn trial_of_suspect(&mut self, snapshot: &Snapshot<S>) -> Option<NextStep<S>> {
        if self.key.is_some() {
            return None;
        }
        let mut suspects = snapshot
            .suspects
            .iter()
            .filter(|state| state.may_take_new_sessions() && !state.is_backup());
        let (state, trial) =
            suspects.find_map(|state| Some((state, self.due_trial(state, false)?)))?;
        let attempt = self.attempt_with(snapshot, state, Some(trial))?;
        Some(NextStep::Try(attempt))
    }

    /// The step after all other candidates have been tried: try a suspect or wait for one. `None` if
    /// neither is possible.
    pub(super) fn next_suspect(
        &mut self,
        snapshot: &Snapshot<S>,
        remaining: &mut RemainingCandidates,
    ) -> Option<NextStep<S>> {
        let (now, deadline) = (Instant::now(), self.request_deadline());
        if remaining.skip_suspects || now >= deadline {
            return None;
        }
        let (mut watched, mut trial, mut redials) = (Vec::new(), None, false);
        let left = self.core.options.max_attempts.saturating_sub(remaining.suspects_tried);
        for state in remaining.untried(snapshot, self.expected_backend()).into_iter().take(left) {
            let watch = Watched::new(&state);
            match remaining.action(&state, now, &mut redials) {
                SuspectAction::Try => {
                    let trial = self.due_trial(&state, false);
                    return self.try_suspect(snapshot, remaining, &state, trial);
                }
                SuspectAction::Trial => trial = trial.or(Some(state)),
                SuspectAction::Wait => watched.push(watch),
                SuspectAction::Skip => {}
            }
        }
        if redials {
            self.core.backends.pool().wake.notify_one();
        }
        let start = *remaining.redial_grace_end.get_or_insert_with(|| now + REDIAL_GRACE);
        let mut until = deadline;
        if let Some(state) = trial {
            if watched.is_empty() || now >= start {
                return match TrialPermit::if_free(&state) {
                    Some(trial) => self.try_suspect(snapshot, remaining, &state, Some(trial)),
                    // Another request has just started a trial: check again.
                    None => self.next_suspect(snapshot, remaining),
                };
            }
            until = until.min(start);
        } else if remaining.busy_fallback.is_some() {
            // Redials may find another backend first; then the request waits for the busy one.
            if now >= start {
                remaining.recovery_wait = None;
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
        if remaining.recovery_wait.is_none() {
            let (key, max) = (self.waiter_key(), self.core.options.max_waiters);
            let Some(recovery_wait) = RecoveryWait::begin(first, key, max) else {
                self.decision.set_reason(Some(Reason::Busy));
                return Some(NextStep::Fail(StickyError::Busy { backend: first.id.clone() }));
            };
            remaining.recovery_wait = Some(recovery_wait);
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
        remaining.suspects_tried += 1;
        remaining.recovery_wait = None;
        match self.attempt_with(snapshot, state, trial) {
            Some(attempt) => {
                if self.expected_backend() == Some(state.tag) {
                    self.return_to_pinned(state);
                }
                Some(NextStep::Try(attempt))
            }
            None => self.next_suspect(snapshot, remaining),
        }
    }
}

impl RemainingCandidates {
    /// The backends that may be tried and have not been: first those that have recovered since the
    /// candidates were collected, then the suspects: those that the request has waited for, which count as tried
    /// once their redial has failed, and then the least recent failure first. `pinned` is the tag of the pinned
    /// backend.
    fn untried<S>(&self, snapshot: &Snapshot<S>, pinned: Option<u64>) -> Vec<Arc<BackendState>> {
        let may_serve = |state: &&Arc<BackendState>| {
            let is_pinned =
                pinned == Some(state.tag) && matches!(state.mode(), Mode::Active | Mode::Draining);
            (is_pinned || (self.only_tag.is_none() && state.may_take_new_sessions()))
                && state.availability() != Availability::Down
                && !(self.primary_is_busy && state.is_backup())
                && !self.tried.contains(&state.tag)
        };
        let states = snapshot.index().states().iter().filter(may_serve);
        let mut states: Vec<_> = states
            .map(|state| {
                let failed = state.sources().evidence.last_failure();
                let awaited = self.awaited_rechecks.iter().any(|(tag, _)| *tag == state.tag);
                let health = (!state.availability().is_healthy(), state.is_backup());
                ((health, !awaited, failed), state.clone())
            })
            .collect();
        states.sort_by_key(|(order, _)| *order);
        states.into_iter().map(|(_, state)| state).collect()
    }

    /// What to do with this backend. Sets `redials` when it must be redialed now.
    fn action(
        &mut self,
        state: &Arc<BackendState>,
        now: Instant,
        redials: &mut bool,
    ) -> SuspectAction {
        let mut sources = state.sources();
        let evidence = &mut sources.evidence;
        let access = evidence.access();
        match access {
            _ if state.availability().is_healthy() => return SuspectAction::Try,
            Access::Open => return SuspectAction::Try,
            Access::Trial if evidence.rechecks.is_running() => return SuspectAction::Wait,
            Access::Trial => return SuspectAction::Trial,
            Access::Redial => {}
        }
        // Only rechecks that start after this request has first seen the suspect count.
        let next = evidence.rechecks.started() + 1;
        let wanted = match self.awaited_rechecks.iter().find(|(tag, _)| *tag == state.tag) {
            Some((_, wanted)) => *wanted,
            None => {
                self.awaited_rechecks.push((state.tag, next));
                next
            }
        };
        // One that has ended with another result does not count: newer evidence was found after it.
        if !evidence.rechecks.has_failed_since(wanted) {
            if !evidence.rechecks.is_running() {
                evidence.rechecks.make_due(now);
                *redials = true;
            }
            return SuspectAction::Wait;
        }
        let error = evidence.last_error().map(str::to_owned);
        drop(sources);
        if let Some(error) = error {
            self.last_error = Some((state.id.clone(), error.into()));
        }
        self.mark_tried(state.tag);
        self.suspects_tried += 1;
        SuspectAction::Skip
    }
}
