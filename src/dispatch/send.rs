//! Prepares a request for the service that is about to receive it.

use http::Request;
use tokio::time::Instant;

use super::{core::Core, resolve::FORWARDED, state::Dispatch};
use crate::{outcome::Verdict, pool::BackendState, strategy::Candidate};

impl<S> Dispatch<S> {
    /// Adds the outcome, the session info and the peer token to a request, as configured.
    #[inline]
    pub(crate) fn send<B>(
        &mut self,
        request: &mut Option<Request<B>>,
        state: &BackendState,
        remote: bool,
    ) {
        self.wait_ended();
        if let Some(slow_path) = &mut self.slow_path {
            slow_path.sent = Some(self.core.backends.pool().recorder.now());
        }
        self.attempt_begins(state);
        let forwards = remote && self.core.local.is_some();
        let info = &self.core.options.info;
        if (forwards || info.outcome_extension || info.describes_session())
            && let Some(request) = request
        {
            self.prepare(request, state, forwards);
        }
    }

    #[cold]
    fn prepare<B>(&mut self, request: &mut Request<B>, state: &BackendState, forwards: bool) {
        if forwards {
            match self.core.affinity.peer_token(&state.id) {
                Some(token) => request.headers_mut().insert(FORWARDED, token),
                None => request.headers_mut().remove(FORWARDED),
            };
        }
        if self.core.options.info.outcome_extension {
            request.extensions_mut().insert(self.outcome(Some(&state.id)));
        }
        if self.core.options.info.describes_session() {
            self.describe_session(request, state, forwards);
        }
    }

    pub(crate) fn send_last_resort<B>(&mut self, request: &mut Request<B>) {
        self.wait_ended();
        self.decision.set_verdict(Verdict::LastResort);
        if self.core.options.info.outcome_extension {
            request.extensions_mut().insert(self.outcome(None));
        }
    }

    /// The time at which a request is sent, if the strategy measures latencies.
    #[inline]
    pub(crate) fn started(&self) -> Option<Instant> {
        self.core.wants_latency.then(Instant::now)
    }
}

/// Reports the latency of a backend to the strategy, if it measures latencies.
pub(crate) fn observe<S>(core: &Core<S>, state: &BackendState, started: Option<Instant>) {
    if let Some(started) = started {
        core.strategy.answered(Candidate::new(state), started.elapsed());
    }
}
