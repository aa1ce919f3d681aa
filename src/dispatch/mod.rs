//! The decisions of one request: which backend, and which one next.

mod answer;
mod attempt;
mod candidates;
mod failover;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header::CONTENT_TYPE};
use tokio::time::Instant;

use self::candidates::Remaining;
pub(crate) use self::{
    answer::observe,
    attempt::{Attempt, Next, Patience, Trial},
};
use crate::{
    Reason, Verdict,
    affinity::{Head, Look},
    backend::{BackendState, Gate, Mode, Snapshot},
    layer::Core,
    on_error::Asked,
    strategy::Candidates,
    token::Pin,
};

/// What a node says to the peer to which it forwards a request: serve it yourself.
const HOP: HeaderName = HeaderName::from_static("x-sticky-forwarded");

/// What is known and decided about one request, from its arrival to its answer.
pub(crate) struct Dispatch<S> {
    core: Arc<Core<S>>,
    has_inner: bool,
    /// The usable pin that the request carries.
    pin: Option<Pin>,
    /// The backend that must serve the request unless a stated policy says otherwise.
    owed_to: Option<u64>,
    verdict: Verdict,
    reason: Option<Reason>,
    refresh: bool,
    https: bool,
    grpc: bool,
    retried: bool,
    counted: bool,
    /// Until when the request may wait, from the first time that it has to.
    deadline: Option<Instant>,
    /// Only there once the first choice did not work.
    remaining: Option<Box<Remaining>>,
}

impl<S: Clone> Dispatch<S> {
    #[inline]
    pub(crate) fn new(core: Arc<Core<S>>, has_inner: bool) -> Self {
        Self {
            core,
            has_inner,
            pin: None,
            owed_to: None,
            verdict: Verdict::Assigned,
            reason: None,
            refresh: false,
            https: false,
            grpc: false,
            retried: false,
            counted: false,
            deadline: None,
            remaining: None,
        }
    }

    /// Reads the request, takes what is ours out of it, and makes the first choice.
    #[inline]
    pub(crate) fn begin<B>(&mut self, core: &Core<S>, request: &mut Request<B>) -> Next<S> {
        let pool = core.backends.pool();
        let snapshot = pool.load();
        let look = Look { index: snapshot.index(), clock: &*core.clock };
        let reading = core.affinity.read(&Head::of(request), &look);
        (self.pin, self.refresh, self.reason) = (reading.pin, reading.refresh, reading.reason);
        self.grpc = is_grpc(request.headers());
        let hop = core.local.as_ref().and_then(|here| {
            let value = request.headers_mut().remove(HOP)?;
            core.affinity.is_hop(&value, here, &look).then_some(here)
        });
        if reading.found {
            core.affinity.strip(&reading, request.headers_mut());
        }
        if let Some(state) = hop.and_then(|here| snapshot.index().get(here.tag())) {
            self.verdict = Verdict::Local;
            self.reason = None;
            return Next::Try(Attempt::new(state.clone(), None, Patience::Last));
        }
        if let Some(reason) = reading.reason {
            pool.counters.token_error(reason);
        }
        let next = match reading.pin {
            Some(pin) => self.resolve(&snapshot, pin, reading.position),
            None => self.place(&snapshot),
        };
        // A token is only written when there was no good one, or when its backend changes.
        if self.verdict != Verdict::Pinned || self.refresh {
            self.https = Head::of(request).is_https();
        }
        next
    }

    /// Follows the pin, or says why that cannot be.
    #[inline]
    fn resolve(&mut self, snapshot: &Snapshot<S>, pin: Pin, position: usize) -> Next<S> {
        let state = &snapshot.index().states()[position];
        let panic = self.core.options.panic && snapshot.nobody_is_up();
        let trial = match (state.mode(), state.gate()) {
            (Mode::Active | Mode::Draining, Gate::Down | Gate::Trial) if panic => None,
            (Mode::Disabled, _) => return self.unavailable(state, Reason::Disabled),
            (_, Gate::Down) => return self.unavailable(state, Reason::Down),
            (_, Gate::Trial) => match Trial::take(state) {
                Some(trial) => Some(trial),
                None => return self.unavailable(state, Reason::Down),
            },
            (_, Gate::Ready | Gate::Busy) => None,
        };
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return self.unavailable(state, Reason::Down);
        }
        self.owed_to = Some(pin.backend);
        self.verdict = Verdict::Pinned;
        Next::Try(Attempt { state: state.clone(), service, trial, patience: Patience::Pinned })
    }

    /// Chooses a backend for a request without a pin: the way of every new session.
    fn place(&mut self, snapshot: &Snapshot<S>) -> Next<S> {
        let list = if snapshot.ready.is_empty() { &snapshot.busy } else { &snapshot.ready };
        if list.is_empty() {
            return self.next(None);
        }
        let chosen = self.core.strategy.choose(&Candidates::new(list)).min(list.len() - 1);
        let state = &list[chosen];
        match self.attempt(snapshot, state) {
            Some(attempt) => Next::Try(attempt),
            None => self.next(Some(state.tag)),
        }
    }
}

impl<S> Dispatch<S> {
    pub(crate) fn core(&self) -> &Core<S> {
        &self.core
    }

    /// How long the request may wait for this backend.
    pub(crate) fn deadline(&mut self, patience: Patience) -> Instant {
        let whole = self.whole_deadline();
        match patience {
            Patience::Pinned => whole.min(Instant::now() + self.core.options.busy.wait),
            Patience::None | Patience::Last => whole,
        }
    }

    /// The one deadline of the whole dispatch; the clock starts with the first wait or failure.
    fn whole_deadline(&mut self) -> Instant {
        let timeout = self.core.options.ready_timeout;
        *self.deadline.get_or_insert_with(|| Instant::now() + timeout)
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked { grpc: self.grpc, retry_after: self.core.options.retry_after }
    }

    fn is_local(&self, state: &BackendState) -> bool {
        self.has_inner && self.core.local.as_ref() == Some(&state.id)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| value.starts_with(b"application/grpc"))
}
