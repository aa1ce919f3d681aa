//! Handing the request over, and settling the pin when the answer comes.

use std::{cell::Cell, sync::Arc};

use http::{Extensions, Request, Response};
use tokio::time::Instant;

use super::{
    core::Core,
    held_pin::HeldPin,
    in_flight::InFlight,
    state::{Dispatch, HOP},
};
use crate::{
    affinity::{Change, Commit, PlannedPin},
    id::BackendId,
    outcome::{Outcome, Reason, StickyError, Verdict},
    pool::{BackendState, Event, session_moved},
    session::{SessionAction, action_header},
    strategy::Candidate,
    token::Pin,
    util::clock::unix_millis,
};

impl<S> Dispatch<S> {
    /// Readies a request for the backend that is about to get it.
    #[inline]
    pub(crate) fn send<B>(
        &mut self,
        request: &mut Option<Request<B>>,
        state: &BackendState,
        remote: bool,
    ) {
        let forwards = remote && self.core.local.is_some();
        let options = &self.core.options;
        if forwards || options.extensions || options.telling.is_on() {
            self.equip(request, state, forwards);
        }
    }

    #[cold]
    fn equip<B>(&mut self, request: &mut Option<Request<B>>, state: &BackendState, forwards: bool) {
        let Some(request) = request else { return };
        if forwards {
            match self.core.affinity.peer_token(&state.id) {
                Some(hop) => request.headers_mut().insert(HOP, hop),
                None => request.headers_mut().remove(HOP),
            };
        }
        if self.core.options.extensions {
            request.extensions_mut().insert(self.outcome(Some(&state.id)));
        }
        if self.core.options.telling.is_on() {
            self.tell(request, state, forwards);
        }
    }

    pub(crate) fn send_last_resort<B>(&mut self, request: &mut Option<Request<B>>) {
        self.verdict = Verdict::LastResort;
        if let Some(request) = request
            && self.core.options.extensions
        {
            request.extensions_mut().insert(self.outcome(None));
        }
    }

    /// When a request is handed over, if the strategy wants to know how long backends take.
    #[inline]
    pub(crate) fn started(&self) -> Option<Instant> {
        self.core.options.wants_latency.then(Instant::now)
    }

    /// A backend, or the local node, answered: the pin is settled, once.
    #[inline]
    pub(crate) fn answered<B>(
        &mut self,
        state: &Arc<BackendState>,
        remote: bool,
        response: &mut Response<B>,
    ) {
        let from_peer = remote && self.core.local.is_some();
        let action = self.core.actions.read(response, from_peer);
        let change = match self.verdict {
            _ if self.silent => Some(Change::Keep),
            // The key of the next request decides anew.
            Verdict::Assigned if self.by_key => Some(Change::Keep),
            Verdict::Assigned => Some(Change::Assign),
            Verdict::Moved => Some(Change::Move),
            // Its address is another one since: the session begins a new epoch.
            Verdict::Pinned if self.is_outdated(state) => Some(Change::Refresh),
            // The pin stays where it is, and stays alive.
            Verdict::Pinned | Verdict::Borrowed if self.refresh => Some(Change::Refresh),
            Verdict::Pinned | Verdict::Borrowed => Some(Change::Keep),
            // The node that forwarded the request settles it, and hears what the application said.
            _ => None,
        };
        match (change, action) {
            (Some(change), None) => self.commit(change, self.silent, state, response),
            (Some(change), Some(action)) => self.obey(action, change, state, response),
            (None, Some(action)) => action_header::tell(&action, response.headers_mut()),
            (None, None) => {}
        }
        if self.owed_to.is_some_and(|owed| owed.get() != state.tag) && self.reason.is_none() {
            self.core.backends.pool().counters.violation();
            tracing::error!(backend = %state.id, "a pinned request was served elsewhere: a bug");
        }
        self.settle(Some(&state.id), response.extensions_mut());
    }

    /// Whether the pin is of an epoch before the one in which the sessions of its backend are.
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

    /// The epoch of a pin that stays, as `backend` sees it.
    #[inline]
    pub(super) fn epoch_at(&self, pin: &Pin, backend: &BackendState) -> u64 {
        if pin.backend == backend.tag { pin.epoch.max(backend.epoch()) } else { pin.epoch }
    }

    /// What was noted for the answer is kept until it has ended, and whose it is.
    #[inline]
    pub(crate) fn settled(&mut self, in_flight: &mut InFlight) {
        let remembered = self.core.remembers && !self.by_key;
        let session = if remembered { self.key.unwrap_or(0) } else { 0 };
        in_flight.answered(&mut self.notes, session, self.core.idle_for);
    }

    #[inline]
    fn commit<B>(
        &mut self,
        change: Change,
        silent: bool,
        backend: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let at_home = self.pin.is_some_and(|pin| pin.backend == backend.tag);
        // To move where it is, as the application may say, is to stay.
        let change = if change == Change::Move && at_home { Change::Refresh } else { change };
        // The way of a pinned request asks for none of this.
        let plan = match change {
            Change::Assign | Change::Move => self.plan(),
            Change::Refresh => {
                let epoch = self.pin.map_or(0, |pin| self.epoch_at(&pin, backend));
                PlannedPin { session: None, epoch }
            }
            Change::Keep => {
                PlannedPin { session: None, epoch: self.pin.map_or(0, |pin| pin.epoch) }
            }
        };
        let (core, began) = (&*self.core, Cell::new(0));
        let commit = Commit {
            change,
            backend,
            pin: self.pin.as_ref(),
            origin: self.source,
            rejected: if self.verdict == Verdict::Pinned { self.bad() } else { 0 },
            https: self.https,
            no_new_session: silent,
            planned: &plan,
            new_session: &began,
            clock: &*core.clock,
        };
        let counters = &core.backends.pool().counters;
        // A session that its client has ended meanwhile is not there any more.
        let is_there = self.held.as_ref().is_none_or(|(held, version)| held.is_at(*version));
        let issued = match &self.held {
            None => core.affinity.save(&commit, &mut self.notes, response.headers_mut()),
            Some((held, version)) => {
                if matches!(change, Change::Assign | Change::Move) || self.is_outdated(backend) {
                    held.pin(backend, *version, plan.epoch, unix_millis(&*core.clock));
                }
                false
            }
        };
        if issued {
            counters.token_issued();
        }
        let borrowed =
            self.verdict == Verdict::Borrowed && matches!(change, Change::Keep | Change::Refresh);
        if !silent && !borrowed && is_there {
            let tick = core.backends.pool().tick();
            let is_new = self.pin.is_none() && self.key.is_none() && self.held.is_none();
            if is_new && (issued || began.get() != 0) {
                // It is a session once its token comes back.
                backend.census.issued(tick);
                self.key = (began.get() != 0).then(|| began.get());
            } else if self.key.is_some() || self.pin.is_some() {
                let remembered = self.held.is_some() || (core.remembers && !self.by_key);
                if backend.census.saw(self.key, remembered, tick) {
                    self.came_back(backend, tick);
                }
            }
        }
        if change == Change::Move {
            counters.moved();
            self.moved(backend);
        }
    }

    /// A session is new to the count of its backend: its token may be one of the last minute.
    #[cold]
    fn came_back(&self, backend: &BackendState, tick: u32) {
        if let Some(pin) = self.pin.filter(|pin| pin.issued != 0) {
            let age = (unix_millis(&*self.core.clock) / 1000).saturating_sub(u64::from(pin.issued));
            backend.census.confirmed(tick.saturating_sub(age.min(u64::from(u32::MAX)) as u32));
        }
    }

    /// The session goes on at another backend.
    #[cold]
    fn moved(&self, to: &BackendState) {
        let pool = self.core.backends.pool();
        let snapshot = pool.load();
        let from = self.pin.and_then(|pin| snapshot.index().get(pin.backend));
        if let (Some(from), Some(session)) = (from, self.key) {
            from.census.forget(session);
            session_moved(from, to);
        }
        pool.events.publish(|| Event::Moved {
            from: from.map(|state| state.id.clone()),
            to: to.id.clone(),
            reason: self.reason,
        });
    }

    /// Does what the application wants, in place of what would have been done.
    fn obey<B>(
        &mut self,
        action: SessionAction,
        change: Change,
        state: &Arc<BackendState>,
        response: &mut Response<B>,
    ) {
        let core = self.core.clone();
        let known = self.pin.is_some();
        match action {
            SessionAction::End => {
                if let Some(session) = self.key {
                    state.census.forget(session);
                }
                self.forget(response);
            }
            SessionAction::NoPin => self.commit(Change::Keep, true, state, response),
            SessionAction::Pin => {
                let is_pinned = self.verdict == Verdict::Pinned && !self.silent && !self.by_key;
                let change = match change {
                    Change::Keep if is_pinned => Change::Keep,
                    Change::Keep if known => Change::Move,
                    Change::Keep => Change::Assign,
                    change => change,
                };
                self.commit(change, false, state, response);
            }
            SessionAction::Move(id) => {
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

    /// No backend could take the request; the last resort answered.
    pub(crate) fn answered_by_last_resort<B>(&mut self, response: &mut Response<B>) {
        self.verdict = Verdict::LastResort;
        self.settle(None, response.extensions_mut());
    }

    fn settle(&mut self, backend: Option<&BackendId>, extensions: &mut Extensions) {
        self.count(backend);
        if self.core.options.extensions {
            extensions.insert(self.outcome(backend));
        }
    }

    /// Takes a token away that is worth nothing, so that the client can begin anew.
    pub(crate) fn forget<B>(&mut self, response: &mut Response<B>) {
        match &self.held {
            None => {
                let headers = response.headers_mut();
                self.core.affinity.clear(self.https, &mut self.notes, headers);
            }
            Some((held, _)) => {
                held.end();
            }
        }
    }

    /// The request ends with an error of ours.
    pub(crate) fn rejected(&mut self, error: &StickyError) {
        tracing::debug!(error = %error, "no answer from a backend");
        self.verdict = Verdict::Rejected;
        match error {
            StickyError::Client { .. } => self.reason = Some(Reason::ClientError),
            StickyError::Shortage { .. } => self.reason = Some(Reason::Shortage),
            _ => {}
        }
        self.count(error.backend());
    }

    /// The outcome as it stands.
    pub(crate) fn outcome(&self, backend: Option<&BackendId>) -> Outcome {
        Outcome { verdict: self.verdict, backend: backend.cloned(), reason: self.reason }
    }

    #[inline]
    fn count(&mut self, backend: Option<&BackendId>) {
        self.counted = true;
        self.core.backends.pool().counters.count(self.verdict, self.reason);
        if let Some((held, _)) = &self.held {
            self.tell_session(held, backend);
        }
        if tracing::enabled!(target: "tower_sticky", tracing::Level::ERROR) {
            self.trace(backend);
        }
    }

    #[inline(never)]
    fn tell_session(&self, held: &HeldPin, backend: Option<&BackendId>) {
        held.ended_with(self.outcome(backend));
    }

    #[cold]
    fn trace(&self, backend: Option<&BackendId>) {
        let backend = backend.map_or("", BackendId::as_str);
        let (outcome, reason) = (self.verdict.as_str(), self.reason.map(Reason::as_str));
        let span = tracing::Span::current();
        span.record("sticky.backend", backend);
        span.record("sticky.outcome", outcome);
        if let Some(reason) = reason {
            span.record("sticky.reason", reason);
        }
        tracing::debug!(target: "tower_sticky", backend, outcome, reason, "dispatched");
    }
}

/// A request whose client went away counts as what it was about to become.
impl<S> Drop for Dispatch<S> {
    fn drop(&mut self) {
        if !self.counted {
            self.count(None);
        }
    }
}

/// Tells the strategy how long a backend took, if it wants to know.
pub(crate) fn observe<S>(core: &Core<S>, state: &BackendState, started: Option<Instant>) {
    if let Some(started) = started {
        core.strategy.answered(Candidate::new(state), started.elapsed());
    }
}
