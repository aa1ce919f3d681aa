//! From the request to its first backend: read, strip, follow the pin or the key, else place.

use http::{HeaderMap, HeaderName, Request, Version};

use super::{
    attempt::{Attempt, NextStep, WaitLimit},
    core::Core,
    decision::Recognized,
    held_pin::Held,
    request_kind::{is_grpc, is_preflight, is_repeatable},
    state::Dispatch,
    store_lookup::StoreLookup,
};
use crate::{
    affinity::{Fallback, Head, ReadContext, Reading},
    id::BackendId,
    outcome::{Reason, StickyError, Verdict},
    pool::{Availability, Mode, Snapshot},
    session::{Preference, info},
};

/// The header with which a node forwards a request to a peer, which then serves it itself.
pub(super) const HOP: HeaderName = HeaderName::from_static("x-sticky-forwarded");

impl<S: Clone> Dispatch<S> {
    /// Reads the request, takes our own headers out of it, and chooses the first step. Called again
    /// when a store had to be asked first.
    #[inline]
    pub(crate) fn begin<B>(&mut self, core: &Core<S>, request: &mut Request<B>) -> NextStep<S> {
        let pool = core.backends.pool();
        self.version = pool.version();
        let snapshot = pool.load();
        if !snapshot.suspects.is_empty() {
            self.kind.repeatable = is_repeatable(request);
        }
        let mut context = ReadContext {
            index: snapshot.index(),
            clock: &*core.clock,
            state: &mut self.affinity_state,
            idle_threshold: core
                .rebalancer
                .as_ref()
                .map(|rebalancer| rebalancer.idle_for().as_secs()),
            pending: None,
            fallback: None,
        };
        let head = Head::of(request);
        let reading = read(core, &mut self.held, &head, &mut context);
        // gRPC requires HTTP/2.
        self.kind.grpc = request.version() == Version::HTTP_2 && is_grpc(head.headers);
        self.kind.https = head.is_https();
        self.silent = is_preflight(&head);
        let preference = preference(core, &head);
        if let Some(later) = context.pending.take()
            && preference.as_ref().is_none_or(Preference::reads)
        {
            return NextStep::Lookup(StoreLookup::new(later, self.whole_deadline()));
        }
        let peer = strip(core, &reading, &mut context, request.headers_mut());
        let second = context.fallback;
        if let Some(state) = peer.and_then(|here| snapshot.index().get(here.tag())) {
            self.decision.set_verdict(Verdict::Local);
            return NextStep::Try(Attempt::new(state.clone(), None, WaitLimit::Last));
        }
        if let Some(preference) = preference
            && let Some(next) = self.prefer(&snapshot, &reading, &preference)
        {
            return next;
        }
        self.resolve(&snapshot, &reading, second)
    }

    /// Starts again once a store has answered: the answer is part of the affinity's state.
    pub(crate) fn resume<B>(&mut self, request: &mut Request<B>) -> NextStep<S> {
        let core = self.core.clone();
        self.begin(&core, request)
    }

    /// Follows what the caller or the layer's bypass prefers. `None` when the pin decides after all.
    #[cold]
    fn prefer(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        preference: &Preference,
    ) -> Option<NextStep<S>> {
        self.strict = preference.strict.unwrap_or(self.strict);
        // The pin is not followed, but if the application pins the session, it is the same session.
        (self.pin, self.source) = (reading.pin, reading.origin);
        if let Some(id) = &preference.backend {
            return Some(self.force(snapshot, id));
        }
        if preference.bypass {
            self.silent = true;
            self.decision.set_reason(Some(Reason::Requested));
            return Some(self.place(snapshot));
        }
        None
    }

    /// Follows the reading: the pin, else the key, else the strategy.
    #[inline]
    fn resolve(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        second: Option<Fallback>,
    ) -> NextStep<S> {
        (self.pin, self.source) = (reading.pin, reading.origin);
        if reading.rejected != 0 {
            self.slow_path().bad = reading.rejected;
        }
        self.decision.set_reason(reading.reason);
        self.key = reading.pin.and_then(|pin| pin.session()).or(reading.key);
        if reading.key_decides {
            self.note_second(snapshot, reading, second);
        }
        match reading.position {
            Some(position) => self.follow_pin(snapshot, reading, position),
            None => self.without_pin(snapshot, reading),
        }
    }

    /// The request has a pin to a backend of the pool: it goes there unless the session moves now.
    #[inline]
    fn follow_pin(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        position: usize,
    ) -> NextStep<S> {
        self.recognized = Recognized::Pin { refresh: reading.refresh };
        if self.core.options.return_from_backup
            && let Some(next) = self.leave_backup(snapshot, position)
        {
            return next;
        }
        if reading.is_idle
            && let Some(next) = self.rebalance_session(snapshot, position)
        {
            return next;
        }
        if snapshot.index().states()[position].mode() == Mode::Draining
            && let Some(next) = self.hand_over_session(snapshot, position)
        {
            return next;
        }
        self.honor_pin(snapshot, position)
    }

    /// The request has no pin to a backend of the pool: its key decides, or it is placed.
    fn without_pin(&mut self, snapshot: &Snapshot<S>, reading: &Reading) -> NextStep<S> {
        if reading.unavailable {
            return NextStep::Fail(StickyError::StoreUnavailable);
        }
        if let Some(reason) = reading.reason {
            self.core.backends.pool().counters.token_error(reason);
            if self.strict && !reading.key_decides && self.core.options.strict.refuses(reason) {
                return NextStep::Fail(StickyError::UnknownSession { reason });
            }
        }
        if let Some(key) = reading.key
            && self.held.is_none()
            && (reading.stateless || !self.core.remembers)
        {
            self.recognized = Recognized::Key;
            if let Some(owner) = self.owner(snapshot, key) {
                return self.try_owner(snapshot, owner);
            }
        }
        self.place(snapshot)
    }

    /// The caller requires this backend.
    fn force(&mut self, snapshot: &Snapshot<S>, id: &BackendId) -> NextStep<S> {
        (self.silent, self.strict) = (true, true);
        let Some(position) = snapshot.index().position(id.tag()) else {
            return NextStep::Fail(StickyError::Unavailable { backend: id.clone() });
        };
        let next = self.honor_pin(snapshot, position);
        self.decision.set_reason(Some(Reason::Requested));
        next
    }

    /// Asks the backend of the session, or decides what to do when it cannot be asked.
    #[inline]
    pub(super) fn honor_pin(&mut self, snapshot: &Snapshot<S>, position: usize) -> NextStep<S> {
        let state = &snapshot.index().states()[position];
        let panic = self.core.options.panic && snapshot.all_unavailable();
        match (state.mode(), state.availability()) {
            (Mode::Active | Mode::Draining, Availability::Down) if panic => {}
            (Mode::Active | Mode::Draining, Availability::Ready | Availability::Busy) => {}
            (Mode::Drained, _) => return self.drained(state),
            (Mode::Disabled, _) => return self.unavailable(state, Reason::Disabled),
            (_, Availability::Suspect | Availability::Down) => {
                return self.suspect_pinned(snapshot, position);
            }
        }
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return self.unavailable(state, Reason::Down);
        }
        self.pinned_to(state.tag);
        if self.slow_path.is_some() {
            self.end_recovery_wait();
        }
        NextStep::Try(Attempt::new(state.clone(), service, WaitLimit::Pinned))
    }
}

/// What the request carries, or what its caller holds for it.
#[inline]
fn read<S>(
    core: &Core<S>,
    held: &mut Option<Held>,
    head: &Head<'_>,
    context: &mut ReadContext<'_>,
) -> Reading {
    match held {
        None => core.affinity.read(head, context),
        Some((held, version)) => {
            let (reading, read) = held.read(context.index);
            *version = read;
            reading
        }
    }
}

/// What the caller prefers for this request, or the layer's bypass for requests like it.
#[inline]
fn preference<S>(core: &Core<S>, head: &Head<'_>) -> Option<Preference> {
    let stated = head.extensions.get::<Preference>();
    let bypass = core.bypass.as_ref().is_some_and(|bypass| bypass(head));
    match (stated, bypass) {
        (None, false) => None,
        (Some(stated), false) => Some(stated.clone()),
        (stated, true) => Some(bypassing(stated)),
    }
}

/// The caller's preference for a request that bypasses affinity by the layer's rule.
#[cold]
fn bypassing(stated: Option<&Preference>) -> Preference {
    let mut preference = stated.cloned().unwrap_or(Preference::bypass());
    preference.bypass = true;
    preference
}

/// Takes out what backends are not to see. Returns this node when a peer has forwarded the request to
/// it.
#[inline]
fn strip<'a, S>(
    core: &'a Core<S>,
    reading: &Reading,
    context: &mut ReadContext<'_>,
    headers: &mut HeaderMap,
) -> Option<&'a BackendId> {
    let peer = core.local.as_ref().and_then(|here| {
        let value = headers.remove(HOP)?;
        core.affinity.is_peer_token(&value, context).then_some(here)
    });
    if reading.must_strip {
        core.affinity.strip(reading, context, headers);
    }
    // Tokens without dates are forgeable, so anybody could claim to be a peer.
    if core.options.session_info.strip && (peer.is_none() || !core.affinity.is_sealed()) {
        info::strip(headers);
    }
    peer
}
