//! What a request holds while a backend works on it.

use std::{fmt, sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use crate::{
    affinity::RequestState,
    health::{Answers, Judged},
    pool::{BackendState, DrainSignal, Entered, Permit, StreamId},
};

/// One request in flight on a backend, with all that it holds there.
pub(crate) struct InFlight {
    entered: Entered,
    _slot: Option<Permit<BackendState>>,
    /// What the session's affinity holds open meanwhile.
    notes: RequestState,
    /// How often the backend had been given another service when the request was sent.
    services: u32,
    /// The session that it belongs to, if one is remembered; else 0.
    session: u64,
    /// For how many seconds an idle session is remembered; 0 when streams do not keep it alive.
    idle: u32,
    /// Its place among the streams, once its reader had to wait for more.
    stream: Option<StreamId>,
}

impl InFlight {
    /// `services`: what the [backend said](BackendState::service_generation) before the request was sent.
    #[inline]
    pub(crate) fn new(entered: Entered, slot: Option<Permit<BackendState>>, services: u32) -> Self {
        let notes = RequestState::default();
        Self { services, entered, _slot: slot, notes, session: 0, idle: 0, stream: None }
    }

    /// The answer has come, to a request of `session` (0 for none), which is remembered for `idle`
    /// seconds. Keeps the notes of the request until it has ended.
    #[inline]
    pub(crate) fn answered(&mut self, notes: &mut RequestState, session: u64, idle: u32) {
        (self.session, self.idle) = (session, idle);
        // Most requests have none, and what is not written need not be waited for.
        if !notes.is_empty() {
            self.notes = std::mem::take(notes);
        }
    }

    /// Whether the answer is cut off: it is a stream, and the backend's drain is over. One whose reader
    /// has not had to wait may be whole already, only not read yet.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| self.state().streams.is_cut(stream))
    }

    /// Whoever reads the answer has to wait for more, and is woken should it be cut off. `false` when
    /// it is.
    pub(crate) fn wait(&mut self, waker: &Waker) -> bool {
        let state = self.entered.state();
        state.streams.register(&mut self.stream, self.session, || state.age_secs(), waker)
    }

    /// The answer becomes a stream of which only the end is seen here; what tells its carrier when to
    /// end.
    pub(crate) fn become_stream(&mut self) -> DrainSignal {
        let _ = self.wait(Waker::noop());
        self.state().drain_signal()
    }

    /// Keeps an eye on its answer, whose head was good.
    pub(crate) fn judged(&self, answers: Arc<dyn Answers>) -> Judged {
        Judged::new(answers, self.state().clone(), self.services)
    }

    /// Whether the backend was given another service since.
    pub(crate) fn is_outdated(&self) -> bool {
        self.services != self.state().service_generation()
    }

    pub(crate) fn state(&self) -> &Arc<BackendState> {
        self.entered.state()
    }

    /// The end of a long stream is the last sight of its session. What is shorter than a quarter of the
    /// idle timeout makes no difference worth remembering.
    fn stream_ended(&self, since: u32) {
        let lasted = self.state().age_secs().saturating_sub(since);
        if self.idle != 0 && lasted >= self.idle / 4 {
            let idle = Duration::from_secs(u64::from(self.idle));
            self.state().stream_ends.record(self.session, Instant::now(), idle);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            let since = self.state().streams.end(stream);
            if let Some(since) = since
                && self.session != 0
            {
                self.stream_ended(since);
            }
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.state().id).finish()
    }
}
