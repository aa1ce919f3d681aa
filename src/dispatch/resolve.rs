//! Reads a request, strips our tokens from it, and chooses its first backend by its pin, its key or the
//! strategy.

use http::{HeaderMap, HeaderName, Request, Version};

use super::{
    attempt::{Attempt, NextStep, WaitLimit},
    core::Core,
    decision::{Recognized, Standing},
    held_pin::Held,
    request_kind::{is_grpc, is_preflight, is_repeatable},
    state::Dispatch,
    store_lookup::StoreLookup,
};
use crate::{
    affinity::{Fallback, Head, KeyRole, ReadContext, Reading, Strip},
    id::BackendId,
    outcome::{Reason, StickyError, Verdict},
    pool::{Availability, BackendState, Mode, Snapshot},
    session::{Preference, info},
};

/// The header that marks a request as forwarded by a peer, which this node must serve itself.
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("x-sticky-forwarded");

impl<S: Clone> Dispatch<S> {
    /// Reads the request, removes our headers from it, and chooses the first step. Called again after a
    /// lookup in a store, whose answer is in the affinity's state then.
    #[inline]
    pub(crate) fn begin<B>(&mut self, request: &mut Request<B>) -> NextStep<S> {
        let core = &*self.core;
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
        self.no_pin = is_preflight(&head);
        let preference = preference(core, &head);
        if let Some(lookup) = context.pending.take()
            && preference.as_ref().is_none_or(Preference::reads)
        {
            return NextStep::Lookup(StoreLookup::new(lookup, self.request_deadline()));
        }
        let local = strip(core, &reading, &mut context, request.headers_mut());
        if reading.strip == Strip::TokensAndQuery
            && let Some(uri) = core.affinity.strip_query(request.uri(), &mut context)
        {
            *request.uri_mut() = uri;
        }
        let fallback = context.fallback;
        if let Some(state) = local.and_then(|local| snapshot.index().get(local.tag())) {
            self.decision.set_verdict(Verdict::Local);
            return NextStep::Try(Attempt::new(state.clone(), None, WaitLimit::Last));
        }
        if let Some(preference) = preference
            && let Some(next) = self.apply_preference(&snapshot, &reading, &preference)
        {
            return next;
        }
        self.resolve(&snapshot, &reading, fallback)
    }

    /// Applies the preference of the caller or the layer's bypass. `None` when the pin decides.
    #[cold]
    fn apply_preference(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        preference: &Preference,
    ) -> Option<NextStep<S>> {
        self.strict = preference.strict.unwrap_or(self.strict);
        // The pin is not followed, but it identifies the session if the application pins it.
        (self.pin, self.source) = (reading.pin, reading.origin);
        if let Some(id) = &preference.backend {
            return Some(self.force(snapshot, id));
        }
        if preference.bypass {
            self.no_pin = true;
            self.decision.set_reason(Some(Reason::Requested));
            return Some(self.assign(snapshot));
        }
        None
    }

    /// Chooses the backend by the pin, else by the key, else by the strategy.
    #[inline]
    fn resolve(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        fallback: Option<Fallback>,
    ) -> NextStep<S> {
        (self.pin, self.source) = (reading.pin, reading.origin);
        if reading.rejected != 0 {
            self.slow_path().rejected_tokens = reading.rejected;
        }
        self.decision.set_reason(reading.reason);
        self.key = reading.pin.and_then(|pin| pin.session()).or(reading.key);
        if matches!(reading.key_role, KeyRole::Routes | KeyRole::RoutesAlways) {
            self.set_fallback(snapshot, reading, fallback);
        }
        match reading.position {
            Some(position) if reading.key_role == KeyRole::NamesBackend => {
                self.recognized = Recognized::Route;
                self.honor_pin(snapshot, position)
            }
            Some(position) => self.follow_pin(snapshot, reading, position),
            None => self.without_pin(snapshot, reading),
        }
    }

    /// Follows the pin to a backend of the pool, unless the session moves now.
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

    /// Without a pin to a backend of the pool, the key decides, or a backend is assigned.
    fn without_pin(&mut self, snapshot: &Snapshot<S>, reading: &Reading) -> NextStep<S> {
        if reading.unavailable {
            return NextStep::Fail(StickyError::StoreUnavailable);
        }
        if let Some(reason) = reading.reason {
            self.core.backends.pool().counters.token_error(reason);
            if self.refuses(reading, reason) {
                return NextStep::Fail(StickyError::UnknownSession { reason });
            }
        }
        if let Some(key) = self.deciding_key(reading) {
            self.recognized = Recognized::Key;
            if let Some(owner) = self.owner(snapshot, key) {
                return self.try_owner(snapshot, owner);
            }
        }
        self.assign(snapshot)
    }

    /// Whether a request whose token is of no use is refused.
    pub(super) fn refuses(&self, reading: &Reading, reason: Reason) -> bool {
        self.strict
            && reading.key_role == KeyRole::Identifies
            && self.core.options.strict.refuses(reason)
    }

    /// The key of the request, if it decides, as no pin does.
    #[inline]
    pub(super) fn deciding_key(&self, reading: &Reading) -> Option<u64> {
        let decides = reading.key_role == KeyRole::RoutesAlways || !self.core.remembers;
        reading.key.filter(|_| self.held.is_none() && decides)
    }

    /// Sends the request to the backend that the caller requires.
    fn force(&mut self, snapshot: &Snapshot<S>, id: &BackendId) -> NextStep<S> {
        (self.no_pin, self.strict) = (true, true);
        let Some(position) = snapshot.index().position(id.tag()) else {
            return NextStep::Fail(StickyError::Unavailable { backend: id.clone() });
        };
        let next = self.honor_pin(snapshot, position);
        self.decision.set_reason(Some(Reason::Requested));
        next
    }

    /// Whether a backend serves its own sessions.
    #[inline]
    pub(super) fn standing(&self, snapshot: &Snapshot<S>, state: &BackendState) -> Standing {
        let panic = || self.core.options.panic && snapshot.all_unavailable();
        match (state.mode(), state.availability()) {
            (Mode::Active | Mode::Draining, Availability::Ready | Availability::Busy) => {
                Standing::Serves
            }
            (Mode::Active | Mode::Draining, Availability::Down) if panic() => Standing::Serves,
            (Mode::Drained, _) => Standing::Drained,
            (Mode::Disabled, _) => Standing::Disabled,
            (_, Availability::Suspect | Availability::Down) => Standing::Unhealthy,
        }
    }

    /// Sends the request to its session's backend, or applies the policy if that cannot serve.
    #[inline]
    pub(super) fn honor_pin(&mut self, snapshot: &Snapshot<S>, position: usize) -> NextStep<S> {
        let state = &snapshot.index().states()[position];
        match self.standing(snapshot, state) {
            Standing::Serves => {}
            Standing::Drained => return self.drained(state),
            Standing::Disabled => return self.unavailable(state, Reason::Disabled),
            Standing::Unhealthy => return self.suspect_pinned(snapshot, position),
        }
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return self.unavailable(state, Reason::Down);
        }
        self.set_pinned(state.tag);
        if self.slow_path.is_some() {
            self.end_recovery_wait();
        }
        NextStep::Try(Attempt::new(state.clone(), service, WaitLimit::Pinned))
    }
}

/// Reads the pin or key from the request, or the pin that the client holds.
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

/// The preference of the caller for this request, or that of the layer's bypass.
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

/// The caller's preference for a request that the layer's bypass excludes from affinity.
#[cold]
fn bypassing(stated: Option<&Preference>) -> Preference {
    let mut preference = stated.cloned().unwrap_or(Preference::bypass());
    preference.bypass = true;
    preference
}

/// Removes what backends must not see. Returns the local node if a peer has forwarded the request to it.
#[inline]
fn strip<'a, S>(
    core: &'a Core<S>,
    reading: &Reading,
    context: &mut ReadContext<'_>,
    headers: &mut HeaderMap,
) -> Option<&'a BackendId> {
    let local = core.local.as_ref().and_then(|local| {
        let value = headers.remove(FORWARDED)?;
        core.affinity.is_peer_token(&value, context).then_some(local)
    });
    if reading.strip != Strip::Nothing {
        core.affinity.strip(reading, context, headers);
    }
    // Plain tokens can be forged, so that any client could pretend to be a peer.
    if core.options.info.strips_headers() && (local.is_none() || !core.affinity.is_sealed()) {
        info::strip(headers);
    }
    local
}
