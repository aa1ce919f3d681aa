//! Commits the pin once a backend has answered.

use std::{cell::Cell, sync::Arc};

use http::Response;

use super::{core::Core, decision::Recognized, in_flight::InFlight, state::Dispatch};
use crate::{
    affinity::{Change, Commit, PlannedPin},
    outcome::{TokenCause, Verdict},
    pool::{BackendState, Event, MoveRecord, session_moved},
    session::{SessionAction, action_header},
    token::Pin,
    util::clock::unix_millis,
};

impl<S> Dispatch<S> {
    /// A backend or the local node has answered: commits the pin and counts the outcome.
    #[inline]
    pub(crate) fn answered<B>(
        &mut self,
        state: &Arc<BackendState>,
        remote: bool,
        response: &mut Response<B>,
    ) {
        let from_peer = remote && self.core.local.is_some();
        let action = self.core.actions.read(response, from_peer);
        match (self.change(state), action) {
            (Some(change), None) => self.commit(change, self.no_pin, state, response),
            (Some(change), Some(action)) => self.apply_action(action, change, state, response),
            // The node that forwarded the request commits the pin and applies the action.
            (None, Some(action)) => action_header::tell(&action, response.headers_mut()),
            (None, None) => {}
        }
        if self.is_violated_by(state.tag) {
            self.record_violation(state);
        }
        self.record_answer(state, response.status());
        self.finish(Some(&state.id), response.extensions_mut());
    }

    /// The change of the pin, unless the application decides otherwise. `None` when this node does not
    /// commit the pin.
    #[inline]
    fn change(&self, state: &BackendState) -> Option<Change> {
        if self.no_pin {
            return Some(Change::Keep);
        }
        match self.decision.verdict() {
            // The key of each request decides.
            Verdict::Assigned if self.is_keyed() => Some(Change::Keep),
            Verdict::Assigned => Some(Change::Assign),
            Verdict::Moved => Some(Change::Move),
            // The backend's address has changed since: the session begins a new epoch.
            Verdict::Pinned if self.is_outdated(state) => Some(Change::Refresh),
            Verdict::Pinned | Verdict::Borrowed => match self.recognized {
                Recognized::Pin { refresh: true } => Some(Change::Refresh),
                _ => Some(Change::Keep),
            },
            Verdict::Local | Verdict::LastResort | Verdict::Rejected => None,
        }
    }

    #[cold]
    fn record_violation(&self, state: &BackendState) {
        self.core.backends.pool().counters.violation();
        tracing::error!(backend = %state.id, "a pinned request was served elsewhere: a bug");
    }

    /// Whether the pin is of an earlier epoch than the sessions of its backend.
    #[inline]
    fn is_outdated(&self, backend: &BackendState) -> bool {
        // The address of most backends never changes.
        backend.epoch() > 0 && self.has_older_epoch(backend)
    }

    #[cold]
    fn has_older_epoch(&self, backend: &BackendState) -> bool {
        self.pin.is_some_and(|pin| {
            pin.session != 0 && pin.backend == backend.tag && pin.epoch < backend.epoch()
        })
    }

    /// The epoch of a pin that stays with `backend`.
    #[inline]
    pub(super) fn epoch_at(&self, pin: &Pin, backend: &BackendState) -> u64 {
        if pin.backend == backend.tag { pin.epoch.max(backend.epoch()) } else { pin.epoch }
    }

    /// Gives the affinity's state to the request in flight, until the response has ended.
    #[inline]
    pub(crate) fn keep_affinity_state(&mut self, in_flight: &mut InFlight) {
        let is_stored = self.core.remembers && !self.is_keyed();
        let session = if is_stored { self.key.unwrap_or(0) } else { 0 };
        in_flight.answered(&mut self.affinity_state, session, self.core.idle_timeout);
    }

    #[inline]
    fn commit<B>(
        &mut self,
        change: Change,
        no_pin: bool,
        backend: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        if change != Change::Keep || !self.saves_nothing(response) {
            self.save(change, no_pin, backend, response);
            return;
        }
        // Most requests keep their pin as it is. A session that its client has ended meanwhile is not counted.
        let exists = self.held.as_ref().is_none_or(|(held, version)| held.is_current(*version));
        if exists && !no_pin && self.decision.verdict() != Verdict::Borrowed {
            self.count_session(backend, false, 0);
        }
    }

    /// Whether there is nothing to save for a pin that is kept.
    #[inline]
    fn saves_nothing<B>(&self, response: &Response<B>) -> bool {
        match &self.held {
            None => {
                // The tokens that were rejected are in the slow path.
                self.slow_path.is_none() && self.core.affinity.saves_nothing(response.headers())
            }
            Some(_) => true,
        }
    }

    /// Saves the pin, and counts the session.
    #[inline(never)]
    fn save<B>(
        &mut self,
        change: Change,
        no_pin: bool,
        backend: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let stays = self.pin.is_some_and(|pin| pin.backend == backend.tag);
        // A move to the backend where the session is already is a refresh.
        let change = if change == Change::Move && stays { Change::Refresh } else { change };
        let plan = self.plan_for(change, backend);
        let (core, new_session, ended) = (&*self.core, Cell::new(0), Cell::new(false));
        let commit = Commit {
            change,
            backend,
            pin: self.pin.as_ref(),
            origin: self.source,
            rejected: if self.decision.is_pinned() { self.rejected_tokens() } else { 0 },
            https: self.kind.https,
            status: response.status(),
            no_new_session: no_pin,
            planned: &plan,
            new_session: &new_session,
            ended: &ended,
            clock: &*core.clock,
        };
        // A session that its client has ended meanwhile is not counted.
        let exists = self.held.as_ref().is_none_or(|(held, version)| held.is_current(*version));
        let issued = match &self.held {
            None => {
                let headers = response.headers_mut();
                core.affinity.save(&commit, &mut self.affinity_state, headers)
            }
            Some((held, version)) => {
                if matches!(change, Change::Assign | Change::Move) || self.is_outdated(backend) {
                    held.set(backend, *version, plan.epoch, unix_millis(&*core.clock));
                }
                false
            }
        };
        if issued {
            self.record_token(change);
        }
        let borrowed = self.decision.verdict() == Verdict::Borrowed
            && matches!(change, Change::Keep | Change::Refresh);
        if ended.get() {
            self.key.inspect(|session| backend.session_counter.remove(*session));
        } else if !no_pin && !borrowed && exists {
            self.count_session(backend, issued, new_session.get());
        }
        if change == Change::Move {
            self.record_move(backend);
        }
    }

    /// Records that a token was issued, and why.
    #[inline]
    fn record_token(&mut self, change: Change) {
        let pool = self.core.backends.pool();
        pool.counters.token_issued();
        let cause = match change {
            Change::Assign => TokenCause::New,
            Change::Move => TokenCause::Moved,
            Change::Keep | Change::Refresh => TokenCause::Refreshed,
        };
        pool.recorder.token_written(cause);
        self.decision.set_token(cause);
    }

    /// The session and its epoch after `change`. A pin that is kept needs no plan.
    #[inline]
    fn plan_for(&mut self, change: Change, backend: &BackendState) -> PlannedPin {
        match (change, self.pin) {
            (Change::Assign | Change::Move, _) => self.planned_pin(),
            (_, None) => PlannedPin { session: None, epoch: 0 },
            (Change::Refresh, Some(pin)) => {
                PlannedPin { session: None, epoch: self.epoch_at(&pin, backend) }
            }
            (Change::Keep, Some(pin)) => PlannedPin { session: None, epoch: pin.epoch },
        }
    }

    /// Counts the session at its backend. `new_session` is the id of a session that begins with this
    /// response, or 0.
    #[inline]
    fn count_session(&mut self, backend: &BackendState, issued: bool, new_session: u64) {
        let core = &*self.core;
        let is_new = self.pin.is_none() && self.key.is_none() && self.held.is_none();
        if is_new && (issued || new_session != 0) {
            // It counts as a session once its token is sent back.
            backend.session_counter.token_issued(core.backends.pool().tick());
            self.key = (new_session != 0).then_some(new_session);
        } else if self.key.is_some() || self.pin.is_some() {
            let tick = core.backends.pool().tick();
            let is_stored = self.held.is_some() || (core.remembers && !self.is_keyed());
            if backend.session_counter.record(self.key, is_stored, tick) {
                self.record_token_return(backend, tick);
            }
        }
    }

    /// A session is new in the count of its backend: its token may have been issued recently, and has now
    /// been returned.
    #[cold]
    fn record_token_return(&self, backend: &BackendState, tick: u32) {
        if let Some(pin) = self.pin.filter(|pin| pin.issued != 0) {
            let age = (unix_millis(&*self.core.clock) / 1000).saturating_sub(u64::from(pin.issued));
            backend
                .session_counter
                .token_returned(tick.saturating_sub(age.min(u64::from(u32::MAX)) as u32));
        }
    }

    /// Records that the session has moved to another backend.
    #[cold]
    fn record_move(&self, to: &BackendState) {
        let pool = self.core.backends.pool();
        pool.counters.moved();
        let snapshot = pool.load();
        let index = snapshot.index();
        let from = self.pin.and_then(|pin| index.get(pin.backend));
        let pair = (from.map_or(0, |from| from.tag), to.tag);
        pool.recorder.moved(pair, self.decision.reason(), |tag| index.get(tag).is_some());
        if let (Some(from), Some(session)) = (from, self.key) {
            from.session_counter.remove(session);
            session_moved(from, to);
        }
        pool.record_move(MoveRecord {
            at: self.core.clock.now(),
            session: self.key.map(|session| pool.session_hash(session)),
            from: from.map(|state| state.id.clone()),
            to: to.id.clone(),
            reason: self.decision.reason(),
        });
        pool.events.publish(|| Event::Moved {
            from: from.map(|state| state.id.clone()),
            to: to.id.clone(),
            reason: self.decision.reason(),
        });
    }

    /// Applies the application's action instead of `change`.
    #[cold]
    fn apply_action<B>(
        &mut self,
        action: SessionAction,
        change: Change,
        state: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let has_pin = self.pin.is_some();
        match action {
            SessionAction::End => {
                if let Some(session) = self.key {
                    state.session_counter.remove(session);
                }
                self.clear_pin(response);
            }
            SessionAction::NoPin => self.commit(Change::Keep, true, state, response),
            SessionAction::Pin => {
                let is_pinned = self.decision.is_pinned() && !self.no_pin && !self.is_keyed();
                let change = match change {
                    Change::Keep if is_pinned => Change::Keep,
                    Change::Keep if has_pin => Change::Move,
                    Change::Keep => Change::Assign,
                    change => change,
                };
                self.commit(change, false, state, response);
            }
            SessionAction::Move(id) => {
                let core: Arc<Core<S>> = self.core.clone();
                let snapshot = core.backends.pool().load();
                match snapshot.index().get(id.tag()) {
                    Some(to) => {
                        let change = if has_pin { Change::Move } else { Change::Assign };
                        self.commit(change, false, to, response);
                    }
                    None => {
                        tracing::warn!(%id, "the application moves a session to an unknown backend");
                        self.commit(change, self.no_pin, state, response);
                    }
                }
            }
        }
    }

    /// Removes an unusable token from the client, so that its next request starts a session.
    pub(crate) fn clear_pin<B>(&mut self, response: &mut Response<B>) {
        match &self.held {
            None => {
                let headers = response.headers_mut();
                self.core.affinity.clear(self.kind.https, &mut self.affinity_state, headers);
            }
            Some((held, _)) => {
                held.end();
            }
        }
    }
}
