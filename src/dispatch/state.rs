//! `Dispatch`: what is known and decided about one request.

use std::{num::NonZeroU64, sync::Arc};

use http::{HeaderName, Request, Version};
use tokio::time::Instant;

use super::{
    attempt::{Attempt, NextStep, WaitLimit},
    candidates::RemainingCandidates,
    core::Core,
    handoff::HandoffGuard,
    held_pin::HeldPin,
    recovery::Awaiting,
    request_kind::{is_grpc, is_preflight, is_repeatable},
    shared_choice::SharedChoice,
    store_lookup::StoreLookup,
};
use crate::{
    affinity::{Fallback, Head, Origin, PlannedPin, ReadContext, Reading, RequestState},
    error::{BoxError, Sendings},
    id::BackendId,
    outcome::{ErrorContext, Reason, StickyError, Verdict},
    pool::{Availability, BackendState, Mode, NOBODY, Snapshot, UNTOLD},
    session::{Preference, info},
    token::Pin,
    util::clock::later,
};

/// What a node says to the peer to which it forwards a request: serve it yourself.
pub(super) const HOP: HeaderName = HeaderName::from_static("x-sticky-forwarded");

/// What is known and decided about one request, from its arrival to its answer. Not more than most
/// requests need: it is moved with each of them.
pub(crate) struct Dispatch<S> {
    pub(super) core: Arc<Core<S>>,
    pub(super) has_inner: bool,
    /// The version of the pool that is known.
    pub(super) version: u64,
    /// The usable pin that the request carries, and which member of a chain it came from.
    pub(super) pin: Option<Pin>,
    pub(super) source: Origin,
    /// The session, when the caller holds it, and the version of its pin.
    pub(super) held: Option<(Arc<HeldPin>, u64)>,
    /// What identifies the session on every gateway, if anything does.
    pub(crate) key: Option<u64>,
    /// Whether the key of each request decides, and nothing is remembered.
    pub(super) by_key: bool,
    /// Whether no pin is to be written, whatever becomes of the request.
    pub(super) silent: bool,
    /// Whether a session is to be served by its own backend or not at all.
    pub(super) strict: bool,
    /// The backend that must serve the request unless a stated policy says otherwise, by its tag. One
    /// whose tag is 0, of 2^64, is not watched; that makes it smaller.
    pub(super) owed_to: Option<NonZeroU64>,
    pub(super) verdict: Verdict,
    pub(super) reason: Option<Reason>,
    pub(super) refresh: bool,
    /// Whether the request can be repeated, as far as its head tells. Only looked at while there are
    /// suspects.
    pub(super) repeatable: bool,
    pub(super) https: bool,
    pub(super) grpc: bool,
    pub(super) counted: bool,
    /// Only there when it is needed.
    pub(super) detour: Option<Box<SlowPath>>,
    /// What the affinity noted for the answer.
    pub(crate) notes: RequestState,
}

/// What is known about one request that does not go straight to its backend and back.
#[derive(Default)]
pub(crate) struct SlowPath {
    /// Whether the session is on its way to another backend though it could stay.
    pub(super) moves_freely: bool,
    /// Whether the application has carried the session's state over for this request, or has tried to.
    pub(super) carried: bool,
    /// No other request of the session carries it over meanwhile.
    pub(crate) alone: Option<HandoffGuard>,
    /// The members of a chain whose tokens are of no use beside the pin, a bit each.
    pub(super) bad: u64,
    /// The backend that is next in a chain, by its tag, while the one that is first is out.
    pub(super) second: Option<u64>,
    /// Who the session is and in which epoch, once a backend was told, and for which verdict.
    pub(super) told: Option<(Verdict, PlannedPin)>,
    /// Set once the request was given to another backend though it may have been executed: by whom.
    pub(super) unanswered: Option<(BackendId, BoxError)>,
    /// How often it was given to a backend in vain.
    pub(super) sendings: Sendings,
    /// Whether the last time was the trial of a suspect that is not its own.
    pub(super) tried_suspect: bool,
    /// Until when the request may wait, from the first time that it has to.
    pub(super) deadline: Option<Instant>,
    /// A place among those that wait for the session's own backend.
    pub(super) awaiting: Option<Awaiting>,
    /// Until when the trial of the session's own backend is waited for.
    pub(super) trial_until: Option<Instant>,
    /// Only there while a first choice is shared.
    pub(super) first_choice: Option<SharedChoice>,
    /// Only there once the first choice did not work.
    pub(super) remaining: Option<RemainingCandidates>,
}

impl<S: Clone> Dispatch<S> {
    #[inline]
    pub(crate) fn new(core: Arc<Core<S>>, has_inner: bool, held: Option<Arc<HeldPin>>) -> Self {
        Self {
            has_inner,
            version: 0,
            pin: None,
            source: Origin::default(),
            held: held.map(|held| (held, 0)),
            key: None,
            by_key: false,
            silent: false,
            strict: core.options.strict.on,
            owed_to: None,
            verdict: Verdict::Assigned,
            reason: None,
            refresh: false,
            repeatable: false,
            https: false,
            grpc: false,
            counted: false,
            detour: None,
            notes: RequestState::default(),
            core,
        }
    }

    /// Reads the request, takes what is ours out of it, and makes the first choice. Called again when
    /// something had to be looked up first.
    #[inline]
    pub(crate) fn begin<B>(&mut self, core: &Core<S>, request: &mut Request<B>) -> NextStep<S> {
        let pool = core.backends.pool();
        self.version = pool.version();
        let snapshot = pool.load();
        if !snapshot.suspects.is_empty() {
            self.repeatable = is_repeatable(request);
        }
        let (index, clock) = (snapshot.index(), &*core.clock);
        let idle_threshold =
            core.rebalancer.as_ref().map(|rebalancer| rebalancer.idle_for().as_secs());
        let mut look = ReadContext {
            index,
            clock,
            state: &mut self.notes,
            idle_threshold,
            pending: None,
            fallback: None,
        };
        let head = Head::of(request);
        let reading = match &mut self.held {
            None => core.affinity.read(&head, &mut look),
            Some((held, version)) => {
                let (reading, read) = held.read(index);
                *version = read;
                reading
            }
        };
        // gRPC is spoken over HTTP/2 only; others need not be looked at.
        self.grpc = request.version() == Version::HTTP_2 && is_grpc(head.headers);
        self.https = head.is_https();
        self.silent = is_preflight(&head);
        let wish = head.extensions.get::<Preference>().cloned();
        let bypass = core.bypass.as_ref().is_some_and(|bypass| bypass(&head));
        let reads = !bypass && wish.as_ref().is_none_or(Preference::reads);
        if let Some(later) = look.pending.take()
            && reads
        {
            return NextStep::Lookup(StoreLookup::new(later, self.whole_deadline()));
        }
        let hop = core.local.as_ref().and_then(|here| {
            let value = request.headers_mut().remove(HOP)?;
            core.affinity.is_peer_token(&value, &look).then_some(here)
        });
        if reading.must_strip {
            core.affinity.strip(&reading, &mut look, request.headers_mut());
        }
        // Without dates in the tokens anybody can say that a peer has forwarded the request.
        if core.options.telling.strip && (hop.is_none() || !core.affinity.is_sealed()) {
            info::strip(request.headers_mut());
        }
        let second = look.fallback;
        if let Some(state) = hop.and_then(|here| snapshot.index().get(here.tag())) {
            self.verdict = Verdict::Local;
            return NextStep::Try(Attempt::new(state.clone(), None, WaitLimit::Last));
        }
        if wish.is_some() || bypass {
            let wish = wish.unwrap_or(Preference::bypass());
            self.strict = wish.strict.unwrap_or(self.strict);
            // Not followed; but should the application pin the session here, it is the same session.
            (self.pin, self.source) = (reading.pin, reading.origin);
            if let Some(id) = &wish.backend {
                return self.force(&snapshot, id);
            }
            if wish.bypass || bypass {
                self.silent = true;
                self.reason = Some(Reason::Requested);
                return self.place(&snapshot);
            }
        }
        self.follow(&snapshot, &reading, second)
    }

    /// The service of a backend that was chosen, should the members have changed since: then the one
    /// that was taken may not be the backend's any more.
    #[inline]
    pub(crate) fn renewed(&mut self, state: &BackendState) -> Option<S> {
        let version = self.core.backends.pool().version();
        if self.version == version { None } else { self.look_again(state, version) }
    }

    #[cold]
    pub(super) fn look_again(&mut self, state: &BackendState, version: u64) -> Option<S> {
        self.version = version;
        let snapshot = self.core.backends.pool().load();
        // One that has left the pool finishes what was chosen for it.
        let position = snapshot.index().position(state.tag)?;
        snapshot.members.services[position].clone()
    }

    /// The backend did not take the request, and was given another service since: that one is asked.
    pub(crate) fn ask_again(&mut self, state: &Arc<BackendState>) -> Option<NextStep<S>> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let service = snapshot.members.services[snapshot.index().position(state.tag)?].clone()?;
        let patience =
            if self.verdict == Verdict::Pinned { WaitLimit::Pinned } else { WaitLimit::None };
        Some(NextStep::Try(Attempt::new(state.clone(), Some(service), patience)))
    }

    /// Begins again: what had to be looked up is among the notes.
    pub(crate) fn resume<B>(&mut self, request: &mut Request<B>) -> NextStep<S> {
        let core = self.core.clone();
        self.begin(&core, request)
    }

    /// Goes where the reading says: by pin, else by key, else by strategy.
    #[inline]
    pub(super) fn follow(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        second: Option<Fallback>,
    ) -> NextStep<S> {
        (self.pin, self.refresh, self.source) = (reading.pin, reading.refresh, reading.origin);
        if reading.rejected != 0 {
            self.detour().bad = reading.rejected;
        }
        self.reason = reading.reason;
        self.key = reading.pin.and_then(|pin| pin.session()).or(reading.key);
        if reading.key_decides {
            self.note_second(snapshot, reading, second);
        }
        if let Some(position) = reading.position {
            if self.core.options.return_from_backup
                && let Some(next) = self.come_back(snapshot, position)
            {
                return next;
            }
            if reading.is_idle
                && let Some(next) = self.relieve(snapshot, position)
            {
                return next;
            }
            if snapshot.index().states()[position].mode() == Mode::Draining
                && let Some(next) = self.let_go(snapshot, position)
            {
                return next;
            }
            return self.resolve(snapshot, position);
        }
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
            self.by_key = true;
            if let Some(owner) = self.owner(snapshot, key) {
                return self.go_to(snapshot, owner);
            }
        }
        self.place(snapshot)
    }

    /// The caller wants this backend and no other.
    pub(super) fn force(&mut self, snapshot: &Snapshot<S>, id: &BackendId) -> NextStep<S> {
        (self.silent, self.strict) = (true, true);
        let Some(position) = snapshot.index().position(id.tag()) else {
            return NextStep::Fail(StickyError::Unavailable { backend: id.clone() });
        };
        let next = self.resolve(snapshot, position);
        self.reason = Some(Reason::Requested);
        next
    }

    /// Asks the session's own backend, or says why that cannot be.
    #[inline]
    pub(super) fn resolve(&mut self, snapshot: &Snapshot<S>, position: usize) -> NextStep<S> {
        let state = &snapshot.index().states()[position];
        let panic = self.core.options.panic && snapshot.nobody_is_up();
        match (state.mode(), state.gate()) {
            (Mode::Active | Mode::Draining, Availability::Down) if panic => {}
            (Mode::Active | Mode::Draining, Availability::Ready | Availability::Busy) => {}
            (Mode::Drained, _) => return self.drained(state),
            (Mode::Disabled, _) => return self.unavailable(state, Reason::Disabled),
            (_, Availability::Suspect | Availability::Down) => {
                return self.doubtful_home(snapshot, position);
            }
        }
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return self.unavailable(state, Reason::Down);
        }
        self.owed_to = NonZeroU64::new(state.tag);
        self.verdict = Verdict::Pinned;
        if self.detour.is_some() {
            self.stop_waiting();
        }
        NextStep::Try(Attempt::new(state.clone(), service, WaitLimit::Pinned))
    }
}

impl<S> Dispatch<S> {
    pub(crate) fn core(&self) -> &Core<S> {
        &self.core
    }

    pub(crate) fn shared_core(&self) -> Arc<Core<S>> {
        self.core.clone()
    }

    /// The members of a chain whose tokens are to be replaced, a bit each.
    pub(super) fn bad(&self) -> u64 {
        self.detour.as_ref().map_or(0, |detour| detour.bad)
    }

    /// Whether the session is on its way to another backend though it could stay.
    pub(super) fn moves_freely(&self) -> bool {
        self.detour.as_ref().is_some_and(|detour| detour.moves_freely)
    }

    pub(crate) fn detour(&mut self) -> &mut SlowPath {
        self.detour.get_or_insert_default()
    }

    /// How long the request may wait for this backend.
    pub(crate) fn deadline(&mut self, patience: WaitLimit) -> Instant {
        let whole = self.whole_deadline();
        match patience {
            WaitLimit::Pinned => whole.min(later(self.core.options.busy.wait)),
            WaitLimit::None | WaitLimit::Last => whole,
        }
    }

    /// The one deadline of the whole dispatch; the clock starts with the first wait or failure.
    pub(super) fn whole_deadline(&mut self) -> Instant {
        let timeout = self.core.options.ready_timeout;
        *self.detour().deadline.get_or_insert_with(|| later(timeout))
    }

    pub(crate) fn asked(&self) -> ErrorContext {
        let options = &self.core.options;
        ErrorContext {
            grpc: self.grpc,
            retry_after: options.retry_after,
            strict: Some(options.strict).filter(|_| self.strict),
            has_home: self.pin.is_some() || self.owed_to.is_some(),
        }
    }

    /// Whom the request waits with: its session, or those that are nobody's, or nobody can tell whose.
    pub(crate) fn waits_as(&self) -> u64 {
        let has_session = self.pin.is_some() && !self.silent;
        self.key.unwrap_or(if has_session { UNTOLD } else { NOBODY })
    }

    pub(super) fn is_local(&self, state: &BackendState) -> bool {
        self.has_inner && self.core.local.as_ref() == Some(&state.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(super) fn a_dispatch_is_small() {
        // What is longer than this is moved by a call, and no longer in registers.
        assert!(size_of::<Dispatch<()>>() <= 128, "what few requests need goes into the detour");
    }
}
