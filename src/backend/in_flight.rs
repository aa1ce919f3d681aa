//! What a request holds while a backend works on it.

use std::{fmt, sync::Arc, task::Waker};

use super::{DrainSignal, slots::Slot, state::BackendState, streams::StreamId};
use crate::affinity::Notes;

/// One request in flight on a backend, until it is dropped. It outlives every change of the pool.
pub(crate) struct InFlight {
    state: Arc<BackendState>,
    _slot: Option<Slot<BackendState>>,
    /// What the session's affinity holds open meanwhile.
    notes: Notes,
    /// How often the backend had been given another service when the request was sent.
    services: u32,
    /// Its place among the streams, once its reader had to wait for more.
    stream: Option<StreamId>,
}

impl InFlight {
    pub(crate) fn new(state: Arc<BackendState>, slot: Option<Slot<BackendState>>) -> Self {
        state.enter();
        let services = state.services();
        Self { services, state, _slot: slot, notes: Notes::default(), stream: None }
    }

    /// The answer has come. Keeps the notes of the request until it has ended.
    #[inline]
    pub(crate) fn answered(&mut self, notes: Notes) {
        self.notes = notes;
    }

    /// Whether the answer is cut off: it is a stream, and the backend's drain is over. One whose reader
    /// has not had to wait may be whole already, only not read yet.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| self.state.streams.is_cut(stream))
    }

    /// Whoever reads the answer has to wait for more, and is woken should it be cut off. `false` when
    /// it is.
    pub(crate) fn wait(&mut self, waker: &Waker) -> bool {
        self.state.streams.wait(&mut self.stream, waker)
    }

    /// The answer becomes a stream of which only the end is seen here; what tells its carrier when to
    /// end.
    pub(crate) fn become_stream(&mut self) -> DrainSignal {
        let _ = self.wait(Waker::noop());
        self.state.drain.signal()
    }

    /// Whether the backend was given another service since.
    pub(crate) fn is_outdated(&self) -> bool {
        self.services != self.state.services()
    }

    pub(crate) fn state(&self) -> &Arc<BackendState> {
        &self.state
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.state.streams.end(stream);
        }
        self.state.leave();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.state.id).finish()
    }
}
