//! The decisions of one request: which backend, and which one next.

use std::sync::Arc;

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE,
};
use tokio::time::Instant;

use crate::{
    BackendId, BoxError, Busy, Failover, Outcome, Reason, StickyError, Verdict,
    affinity::{Change, Commit, Head, Look},
    backend::{BackendState, Gate, Mode, Snapshot},
    layer::Core,
    on_error::Asked,
    strategy::{Candidate, Candidates, rendezvous},
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
    sweep: Option<Box<Sweep>>,
}

/// The candidates that are left.
struct Sweep {
    tried: Vec<u64>,
    ready: Vec<Arc<BackendState>>,
    busy: Vec<Arc<BackendState>>,
    /// The one to wait for when all others have been asked: the pinned one, or the first choice.
    parked: Option<Parked>,
    /// What the last candidate said that did not take the request.
    last: Option<(BackendId, BoxError)>,
}

struct Parked {
    state: Arc<BackendState>,
    verdict: Verdict,
    reason: Option<Reason>,
}

/// What to do next.
pub(crate) enum Next<S> {
    Try(Attempt<S>),
    LastResort,
    Fail(StickyError),
}

/// One backend that is to be asked.
pub(crate) struct Attempt<S> {
    pub(crate) state: Arc<BackendState>,
    /// `None`: the local node, which is the inner service.
    pub(crate) service: Option<S>,
    pub(crate) trial: Option<Trial>,
    pub(crate) patience: Patience,
}

/// How long to wait for a backend that is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: there may be others.
    None,
    /// It holds the session: as long as the policy says.
    Pinned,
    /// Nobody else is left: as long as the whole request may.
    Last,
}

/// The one trial of a backend that is half open; given back when it ends without a result.
pub(crate) struct Trial(Arc<BackendState>);

impl Trial {
    fn take(state: &Arc<BackendState>) -> Option<Self> {
        state.sources().passive.take_trial().then(|| Self(state.clone()))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.sources().passive.return_trial();
    }
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
            sweep: None,
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
            Some(pin) => self.resolve(&snapshot, pin),
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
    fn resolve(&mut self, snapshot: &Snapshot<S>, pin: Pin) -> Next<S> {
        let Some(position) = snapshot.index().position(pin.backend) else {
            self.reason = Some(Reason::Unknown);
            return self.place(snapshot);
        };
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

    /// The pinned backend cannot serve: the policy decides.
    fn unavailable(&mut self, state: &Arc<BackendState>, reason: Reason) -> Next<S> {
        self.reason = Some(reason);
        match self.core.options.unavailable {
            Failover::Reject => Next::Fail(StickyError::Unavailable { backend: state.id.clone() }),
            Failover::Repin => self.fail_over(Verdict::Moved, state.tag),
            Failover::Borrow => self.fail_over(Verdict::Borrowed, state.tag),
        }
    }

    fn fail_over(&mut self, verdict: Verdict, from: u64) -> Next<S> {
        self.verdict = verdict;
        self.next(Some(from))
    }

    /// The next candidate after `tried`, or the end.
    fn next(&mut self, tried: Option<u64>) -> Next<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None => Box::new(Sweep::new(&core, &snapshot, tried)),
        };
        if let Some(tag) = tried {
            sweep.strike(tag);
        }
        let mut next = None;
        while let Some(state) = sweep.take(&core, self.pin) {
            sweep.tried.push(state.tag);
            next = self.attempt(&snapshot, &state);
            if next.is_some() {
                break;
            }
        }
        let next = match (next, sweep.parked.take()) {
            (Some(attempt), parked) => {
                sweep.parked = parked;
                Next::Try(attempt)
            }
            (None, Some(parked)) => self.wait_for(&snapshot, parked),
            (None, None) => match sweep.last.take() {
                _ if self.has_inner && core.local.is_none() => Next::LastResort,
                Some((backend, source)) => Next::Fail(StickyError::NotSent { backend, source }),
                None => Next::Fail(StickyError::NoBackend),
            },
        };
        self.sweep = Some(sweep);
        next
    }

    /// All have been asked: back to the one that was busy, now with all the time that is left.
    fn wait_for(&mut self, snapshot: &Snapshot<S>, parked: Parked) -> Next<S> {
        let Some(attempt) = self.attempt(snapshot, &parked.state) else {
            return Next::Fail(StickyError::Busy { backend: parked.state.id.clone() });
        };
        self.verdict = parked.verdict;
        self.reason = parked.reason;
        Next::Try(Attempt { patience: Patience::Last, ..attempt })
    }

    fn attempt(&self, snapshot: &Snapshot<S>, state: &Arc<BackendState>) -> Option<Attempt<S>> {
        let trial = match state.gate() {
            Gate::Trial => Some(Trial::take(state)?),
            _ => None,
        };
        let position = snapshot.index().position(state.tag)?;
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return None;
        }
        Some(Attempt { state: state.clone(), service, trial, patience: Patience::None })
    }

    /// The backend did not become ready within the time that it had.
    pub(crate) fn busy(
        &mut self,
        state: &Arc<BackendState>,
        patience: Patience,
        head: &Head<'_>,
    ) -> Next<S> {
        self.https = head.is_https();
        let parked = Parked { state: state.clone(), verdict: self.verdict, reason: self.reason };
        match patience {
            Patience::None => self.park(parked, Some(state.tag)),
            Patience::Pinned => {
                let Busy { then, .. } = self.core.options.busy;
                self.reason = Some(Reason::Busy);
                match then {
                    Failover::Reject => {
                        return Next::Fail(StickyError::Busy { backend: state.id.clone() });
                    }
                    Failover::Repin => self.verdict = Verdict::Moved,
                    Failover::Borrow => self.verdict = Verdict::Borrowed,
                }
                self.park(parked, Some(state.tag))
            }
            Patience::Last => {
                self.reason = Some(Reason::Busy);
                if self.has_inner && self.core.local.is_none() {
                    return Next::LastResort;
                }
                Next::Fail(StickyError::Busy { backend: state.id.clone() })
            }
        }
    }

    fn park(&mut self, parked: Parked, tried: Option<u64>) -> Next<S> {
        if self.sweep.is_none() {
            let snapshot = self.core.backends.pool().load();
            self.sweep = Some(Box::new(Sweep::new(&self.core, &snapshot, tried)));
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.parked.get_or_insert(parked);
        }
        self.next(tried)
    }

    /// The backend could not take the request, which is here again.
    pub(crate) fn not_sent(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        source: BoxError,
        head: &Head<'_>,
    ) -> Next<S> {
        tracing::debug!(backend = %state.id, %reason, error = %source, "the request was not taken");
        self.https = head.is_https();
        let from_pin = self.verdict == Verdict::Pinned;
        if from_pin || self.reason.is_none() {
            self.reason = Some(reason);
        }
        if from_pin && self.core.options.unavailable == Failover::Reject {
            return Next::Fail(StickyError::Unavailable { backend: state.id.clone() });
        }
        if from_pin {
            self.verdict = match self.core.options.unavailable {
                Failover::Borrow => Verdict::Borrowed,
                _ => Verdict::Moved,
            };
        }
        if self.sweep.is_none() {
            let snapshot = self.core.backends.pool().load();
            self.sweep = Some(Box::new(Sweep::new(&self.core, &snapshot, Some(state.tag))));
        }
        let in_time = Instant::now() < self.whole_deadline();
        if let Some(sweep) = &mut self.sweep {
            sweep.last = Some((state.id.clone(), source));
            if !in_time {
                sweep.give_up();
            }
        }
        self.next(Some(state.tag))
    }

    /// Whether a request that may have been executed goes to another backend; at most once.
    pub(crate) fn may_retry(&mut self) -> bool {
        self.core.options.retry_idempotent && !std::mem::replace(&mut self.retried, true)
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

    /// Readies a request for the backend that is about to get it.
    #[inline]
    pub(crate) fn send<B>(
        &self,
        request: &mut Option<Request<B>>,
        state: &BackendState,
        remote: bool,
    ) {
        let core = &*self.core;
        let forwards = remote && core.local.is_some();
        if let Some(request) = request
            && (forwards || core.options.extensions)
        {
            if forwards {
                match core.affinity.hop(&state.id) {
                    Some(hop) => request.headers_mut().insert(HOP, hop),
                    None => request.headers_mut().remove(HOP),
                };
            }
            if core.options.extensions {
                request.extensions_mut().insert(self.outcome(Some(&state.id)));
            }
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
    pub(crate) fn answered<B>(&mut self, state: &BackendState, response: &mut Response<B>) {
        let pool = self.core.backends.pool();
        let change = match self.verdict {
            Verdict::Assigned => Some(Change::Assign),
            Verdict::Moved => Some(Change::Move),
            Verdict::Pinned if self.refresh => Some(Change::Refresh),
            Verdict::Pinned | Verdict::Borrowed => Some(Change::Keep),
            _ => None,
        };
        if let Some(change) = change {
            let clock = &*self.core.clock;
            let commit = Commit { change, backend: state, pin: self.pin, https: self.https, clock };
            if self.core.affinity.respond(&commit, response.headers_mut()) {
                pool.counters.token_issued();
            }
        }
        if self.owed_to.is_some_and(|owed| owed != state.tag) && self.reason.is_none() {
            pool.counters.violation();
            tracing::error!(backend = %state.id, "a pinned request was served elsewhere: a bug");
        }
        self.settle(Some(&state.id), response.extensions_mut());
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

    /// The request ends with an error of ours.
    pub(crate) fn rejected(&mut self, error: &StickyError) {
        tracing::debug!(error = %error, "no answer from a backend");
        self.verdict = Verdict::Rejected;
        self.count(error.backend());
    }

    /// The outcome as it stands.
    pub(crate) fn outcome(&self, backend: Option<&BackendId>) -> Outcome {
        Outcome { verdict: self.verdict, backend: backend.cloned(), reason: self.reason }
    }

    fn count(&mut self, backend: Option<&BackendId>) {
        self.counted = true;
        self.core.backends.pool().counters.count(self.verdict, self.reason);
        if tracing::enabled!(target: "tower_sticky", tracing::Level::ERROR) {
            self.trace(backend);
        }
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

impl<S> Attempt<S> {
    fn new(state: Arc<BackendState>, service: Option<S>, patience: Patience) -> Self {
        Self { state, service, trial: None, patience }
    }
}

impl Sweep {
    fn new<S>(core: &Core<S>, snapshot: &Snapshot<S>, tried: Option<u64>) -> Self {
        let (mut ready, busy) = (snapshot.ready.to_vec(), snapshot.busy.to_vec());
        if core.options.panic && snapshot.nobody_is_up() {
            let states = snapshot.index().states().iter();
            ready = states
                .filter(|state| state.mode() == Mode::Active && state.weight() > 0)
                .cloned()
                .collect();
        }
        let mut sweep = Self { tried: Vec::new(), ready, busy, parked: None, last: None };
        if let Some(tag) = tried {
            sweep.strike(tag);
        }
        sweep
    }

    fn strike(&mut self, tag: u64) {
        if !self.tried.contains(&tag) {
            self.tried.push(tag);
        }
        self.ready.retain(|state| state.tag != tag);
        self.busy.retain(|state| state.tag != tag);
    }

    /// No time is left: nobody else is asked.
    fn give_up(&mut self) {
        self.ready.clear();
        self.busy.clear();
    }

    /// The next candidate. A session that is known goes where its rank says, which is the same on
    /// every gateway and for all its parallel requests; others go where the strategy says.
    fn take<S>(&mut self, core: &Core<S>, pin: Option<Pin>) -> Option<Arc<BackendState>> {
        let list = if self.ready.is_empty() { &mut self.busy } else { &mut self.ready };
        if list.is_empty() {
            return None;
        }
        let chosen = match pin.and_then(|pin| pin.session()) {
            Some(session) => rendezvous(session, list)?,
            None => core.strategy.choose(&Candidates::new(list)).min(list.len() - 1),
        };
        Some(list.remove(chosen))
    }
}

/// Tells the strategy how long a backend took, if it wants to know.
pub(crate) fn observe<S>(core: &Core<S>, state: &BackendState, started: Option<Instant>) {
    if let Some(started) = started {
        core.strategy.answered(Candidate::new(state), started.elapsed());
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| value.starts_with(b"application/grpc"))
}
