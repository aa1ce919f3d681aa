//! The resources that a request holds while a backend works on it.

use std::{fmt, sync::Arc, task::Waker, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    affinity::RequestState,
    health::{Answers, Judged},
    outcome::recording::{Arrival, ResponseTimer, Timestamp},
    pool::{BackendState, DrainSignal, Entered, Generation, Permit, StreamId},
};

/// One request in flight on a backend. Dropping it releases what the request holds.
pub(crate) struct InFlight {
    entered: Entered,
    _permit: Option<Permit<BackendState>>,
    /// The affinity's state of the request, which may keep a stored pin open.
    affinity_state: RequestState,
    /// The generation of the backend when the request was sent.
    generation: Generation,
    /// The session of the request, if its pin is stored; else 0.
    session: u64,
    /// The idle timeout of the session in seconds; 0 when streams do not extend it.
    idle_timeout: u32,
    /// Set once the reader of the body had to wait, which makes the response a stream.
    stream: Option<StreamId>,
    timer: ResponseTimer,
}

impl InFlight {
    /// `generation`: that of the backend when the request is sent.
    #[inline]
    pub(crate) fn new(
        entered: Entered,
        permit: Option<Permit<BackendState>>,
        generation: Generation,
    ) -> Self {
        Self {
            generation,
            entered,
            _permit: permit,
            affinity_state: RequestState::default(),
            session: 0,
            idle_timeout: 0,
            stream: None,
            timer: ResponseTimer::default(),
        }
    }

    /// The response has arrived, to a request of `session` (0 for none) with this idle timeout in seconds.
    /// Keeps the affinity's state of the request until the response has ended.
    #[inline]
    pub(crate) fn answered(&mut self, state: &mut RequestState, session: u64, idle_timeout: u32) {
        (self.session, self.idle_timeout) = (session, idle_timeout);
        // The state of most requests is empty, and then the memory of `self` is not touched.
        if !state.is_empty() {
            self.affinity_state = std::mem::take(state);
        }
    }

    /// The head of the response to a request that arrived at `arrived`, and was sent at `sent` if that was later,
    /// is here. `is_whole`: whether its end is here, too.
    #[inline]
    pub(crate) fn head_arrived(
        &mut self,
        arrived: Arrival,
        sent: Option<Timestamp>,
        status: StatusCode,
        is_whole: impl FnOnce() -> bool,
    ) {
        self.timer = self.state().recorder.head_arrived(arrived, sent, status, is_whole);
    }

    /// A frame of the response's body has arrived.
    #[inline]
    pub(crate) fn frame_arrived(&mut self) {
        self.timer.frame();
    }

    /// Whether the response must end now: it is a stream, and the backend's drain has ended. A response
    /// whose reader never had to wait is not cut, as all of it may be buffered.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| self.state().streams.is_cut(stream))
    }

    /// Makes the response a stream, because its reader has to wait. `waker` is woken when the stream must
    /// end. Returns `false` if it must end now.
    pub(crate) fn register_reader(&mut self, waker: &Waker) -> bool {
        self.timer.waits();
        let state = self.entered.state();
        state.streams.register(&mut self.stream, self.session, || state.age_secs(), waker)
    }

    /// Makes the response a stream whose data is not seen here. Returns the signal for its end when the
    /// backend is drained.
    pub(crate) fn become_stream(&mut self) -> DrainSignal {
        let _ = self.register_reader(Waker::noop());
        self.state().drain_signal()
    }

    /// Watches the body of a response whose status is not a failure.
    pub(crate) fn judged(&self, answers: Arc<dyn Answers>) -> Judged {
        Judged::new(answers, self.state().clone(), self.generation)
    }

    /// The generation of the backend when the request was sent.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the backend has been given another service since the request was sent.
    pub(crate) fn is_outdated(&self) -> bool {
        !self.state().generation().has_service_of(self.generation)
    }

    /// Whether the backend has recovered since the request was sent, so that a connection of that time says
    /// nothing about it.
    pub(super) fn precedes_recovery(&self) -> bool {
        !self.state().generation().has_health_of(self.generation)
    }

    pub(crate) fn state(&self) -> &Arc<BackendState> {
        self.entered.state()
    }

    /// Records the end of a stream as the last activity of its session. Streams shorter than a quarter of
    /// the idle timeout are ignored.
    fn stream_ended(&self, since: u32) {
        let lasted = self.state().age_secs().saturating_sub(since);
        if lasted >= self.idle_timeout / 4 {
            let timeout = Duration::from_secs(u64::from(self.idle_timeout));
            self.state().stream_ends.record(self.session, Instant::now(), timeout);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.timer.finish(&self.entered.state().recorder);
        if let Some(stream) = self.stream.take() {
            let streams = &self.state().streams;
            // Before it is removed: a request that comes in between would find its session idle.
            if self.session != 0
                && self.idle_timeout != 0
                && let Some(since) = streams.since(&stream)
            {
                self.stream_ended(since);
            }
            streams.end(stream);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.state().id).finish()
    }
}
