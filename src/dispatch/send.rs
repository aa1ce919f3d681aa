//! Preparing a request for the service that is about to get it.

use http::Request;
use tokio::time::Instant;

use super::{core::Core, resolve::HOP, state::Dispatch};
use crate::{outcome::Verdict, pool::BackendState, strategy::Candidate};

impl<S> Dispatch<S> {
    /// Adds to a request what its backend is to be told.
    #[inline]
    pub(crate) fn send<B>(
        &mut self,
        request: &mut Option<Request<B>>,
        state: &BackendState,
        remote: bool,
    ) {
        let forwards = remote && self.core.local.is_some();
        let options = &self.core.options;
        if (forwards || options.extensions || options.session_info.is_on())
            && let Some(request) = request
        {
            self.prepare(request, state, forwards);
        }
    }

    #[cold]
    fn prepare<B>(&mut self, request: &mut Request<B>, state: &BackendState, forwards: bool) {
        if forwards {
            match self.core.affinity.peer_token(&state.id) {
                Some(hop) => request.headers_mut().insert(HOP, hop),
                None => request.headers_mut().remove(HOP),
            };
        }
        if self.core.options.extensions {
            request.extensions_mut().insert(self.outcome(Some(&state.id)));
        }
        if self.core.options.session_info.is_on() {
            self.describe_session(request, state, forwards);
        }
    }

    pub(crate) fn send_last_resort<B>(&mut self, request: &mut Request<B>) {
        self.decision.set_verdict(Verdict::LastResort);
        if self.core.options.extensions {
            request.extensions_mut().insert(self.outcome(None));
        }
    }

    /// The time at which a request is sent, if the strategy measures latencies.
    #[inline]
    pub(crate) fn started(&self) -> Option<Instant> {
        self.core.options.wants_latency.then(Instant::now)
    }
}

/// Tells the strategy how long a backend took, if it measures latencies.
pub(crate) fn observe<S>(core: &Core<S>, state: &BackendState, started: Option<Instant>) {
    if let Some(started) = started {
        core.strategy.answered(Candidate::new(state), started.elapsed());
    }
}
