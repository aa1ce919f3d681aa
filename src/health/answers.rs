//! Answers that are judged: an answer is a good one once its body has ended, and a failure when it breaks
//! off.

use std::{fmt, sync::Arc};

use crate::pool::BackendState;

/// Who is told how an answer ended, whatever its backends are.
pub(crate) trait Answers: Send + Sync {
    /// An answer came to its end, or nobody reads it any more.
    fn passed(&self, state: &BackendState);

    /// The backend broke off in the middle of an answer.
    fn broke_off(&self, state: &BackendState);
}

/// An answer with a good head, until it is known how it ends. Dropped, it has passed.
pub(crate) struct Judged {
    answers: Arc<dyn Answers>,
    state: Arc<BackendState>,
    /// How often the backend had been given another service when the request was sent.
    generation: u32,
    is_broken: bool,
}

impl Judged {
    pub(crate) fn new(
        answers: Arc<dyn Answers>,
        state: Arc<BackendState>,
        generation: u32,
    ) -> Self {
        Self { answers, state, generation, is_broken: false }
    }

    pub(crate) fn broke_off(mut self) {
        self.is_broken = true;
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if self.generation != self.state.service_generation() {
            // It says nothing about the service that the backend has now.
            return;
        }
        match self.is_broken {
            true => self.answers.broke_off(&self.state),
            false => self.answers.passed(&self.state),
        }
    }
}

impl fmt::Debug for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Judged").field(&self.state.id).finish()
    }
}
