//! Settling the pin once a backend has answered.

use std::{cell::Cell, sync::Arc};

use http::Response;

use super::{core::Core, decision::Recognized, in_flight::InFlight, state::Dispatch};
use crate::{
    affinity::{Change, Commit, PlannedPin},
    outcome::Verdict,
    pool::{BackendState, Event, session_moved},
    session::{SessionAction, action_header},
    token::Pin,
    util::clock::unix_millis,
};

impl<S> Dispatch<S> {
    /// A backend or the local node answered: the pin is settled, once.
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
            (Some(change), None) => self.commit(change, self.silent, state, response),
            (Some(change), Some(action)) => self.apply_action(action, change, state, response),
            // The node that forwarded the request settles the pin, and applies the action.
            (None, Some(action)) => action_header::tell(&action, response.headers_mut()),
            (None, None) => {}
        }
        if self.is_violated_by(state.tag) {
            self.violated(state);
        }
        self.finish(Some(&state.id), response.extensions_mut());
    }

    /// What becomes of the pin unless the application decides otherwise. `None` when it is not for this
    /// node to settle.
    #[inline]
    fn change(&self, state: &BackendState) -> Option<Change> {
        if self.silent {
            return Some(Change::Keep);
        }
        match self.decision.verdict() {
            // The key of the next request decides anew.
            Verdict::Assigned if self.is_keyed() => Some(Change::Keep),
            Verdict::Assigned => Some(Change::Assign),
            Verdict::Moved => Some(Change::Move),
            // The backend has another address since: the session begins a new epoch.
            Verdict::Pinned if self.is_outdated(state) => Some(Change::Refresh),
            Verdict::Pinned | Verdict::Borrowed => match self.recognized {
                Recognized::Pin { refresh: true } => Some(Change::Refresh),
                _ => Some(Change::Keep),
            },
            Verdict::Local | Verdict::LastResort | Verdict::Rejected => None,
        }
    }

    #[cold]
    fn violated(&self, state: &BackendState) {
        self.core.backends.pool().counters.violation();
        tracing::error!(backend = %state.id, "a pinned request was served elsewhere: a bug");
    }

    /// Whether the pin is of an earlier epoch than the sessions of its backend.
    #[inline]
    fn is_outdated(&self, backend: &BackendState) -> bool {
        // Most backends have had one address only.
        backend.epoch() > 0 && self.is_before(backend)
    }

    #[cold]
    fn is_before(&self, backend: &BackendState) -> bool {
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
        let remembered = self.core.remembers && !self.is_keyed();
        let session = if remembered { self.key.unwrap_or(0) } else { 0 };
        in_flight.answered(&mut self.affinity_state, session, self.core.idle_for);
    }

    #[inline]
    fn commit<B>(
        &mut self,
        change: Change,
        silent: bool,
        backend: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let stays = self.pin.is_some_and(|pin| pin.backend == backend.tag);
        // A move to the backend where the session is already is a refresh.
        let change = if change == Change::Move && stays { Change::Refresh } else { change };
        let plan = self.plan_for(change, backend);
        let (core, began) = (&*self.core, Cell::new(0));
        let commit = Commit {
            change,
            backend,
            pin: self.pin.as_ref(),
            origin: self.source,
            rejected: if self.decision.is_pinned() { self.bad() } else { 0 },
            https: self.kind.https,
            no_new_session: silent,
            planned: &plan,
            new_session: &began,
            clock: &*core.clock,
        };
        // A session that its client has ended meanwhile is not counted.
        let exists = self.held.as_ref().is_none_or(|(held, version)| held.is_at(*version));
        let issued = match &self.held {
            None => {
                let headers = response.headers_mut();
                core.affinity.save(&commit, &mut self.affinity_state, headers)
            }
            Some((held, version)) => {
                if matches!(change, Change::Assign | Change::Move) || self.is_outdated(backend) {
                    held.pin(backend, *version, plan.epoch, unix_millis(&*core.clock));
                }
                false
            }
        };
        if issued {
            core.backends.pool().counters.token_issued();
        }
        let borrowed = self.decision.verdict() == Verdict::Borrowed
            && matches!(change, Change::Keep | Change::Refresh);
        if !silent && !borrowed && exists {
            self.count_session(backend, issued, began.get());
        }
        if change == Change::Move {
            self.moved(backend);
        }
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

    /// Counts the session at its backend. `began` identifies a session that begins with this response, or
    /// is 0.
    #[inline]
    fn count_session(&mut self, backend: &BackendState, issued: bool, began: u64) {
        let core = &*self.core;
        let is_new = self.pin.is_none() && self.key.is_none() && self.held.is_none();
        if is_new && (issued || began != 0) {
            // It counts as a session once its token comes back.
            backend.session_counter.token_issued(core.backends.pool().tick());
            self.key = (began != 0).then_some(began);
        } else if self.key.is_some() || self.pin.is_some() {
            let tick = core.backends.pool().tick();
            let remembered = self.held.is_some() || (core.remembers && !self.is_keyed());
            if backend.session_counter.record(self.key, remembered, tick) {
                self.confirmed(backend, tick);
            }
        }
    }

    /// A session is new to the count of its backend: its token may have been issued in the last minute.
    #[cold]
    fn confirmed(&self, backend: &BackendState, tick: u32) {
        if let Some(pin) = self.pin.filter(|pin| pin.issued != 0) {
            let age = (unix_millis(&*self.core.clock) / 1000).saturating_sub(u64::from(pin.issued));
            backend
                .session_counter
                .token_returned(tick.saturating_sub(age.min(u64::from(u32::MAX)) as u32));
        }
    }

    /// The session continues at another backend.
    #[cold]
    fn moved(&self, to: &BackendState) {
        let pool = self.core.backends.pool();
        pool.counters.moved();
        let snapshot = pool.load();
        let from = self.pin.and_then(|pin| snapshot.index().get(pin.backend));
        if let (Some(from), Some(session)) = (from, self.key) {
            from.session_counter.remove(session);
            session_moved(from, to);
        }
        pool.events.publish(|| Event::Moved {
            from: from.map(|state| state.id.clone()),
            to: to.id.clone(),
            reason: self.decision.reason(),
        });
    }

    /// Applies what the application decided, instead of `change`.
    #[cold]
    fn apply_action<B>(
        &mut self,
        action: SessionAction,
        change: Change,
        state: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let known = self.pin.is_some();
        match action {
            SessionAction::End => {
                if let Some(session) = self.key {
                    state.session_counter.remove(session);
                }
                self.forget(response);
            }
            SessionAction::NoPin => self.commit(Change::Keep, true, state, response),
            SessionAction::Pin => {
                let is_pinned = self.decision.is_pinned() && !self.silent && !self.is_keyed();
                let change = match change {
                    Change::Keep if is_pinned => Change::Keep,
                    Change::Keep if known => Change::Move,
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
                        let change = if known { Change::Move } else { Change::Assign };
                        self.commit(change, false, to, response);
                    }
                    None => {
                        tracing::warn!(%id, "the application moves a session to an unknown backend");
                        self.commit(change, self.silent, state, response);
                    }
                }
            }
        }
    }

    /// Removes an unusable token from the client, so that its next request starts a session.
    pub(crate) fn forget<B>(&mut self, response: &mut Response<B>) {
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
