//! Reports how an answer ended: it is good once its body has ended, and a failure when the body breaks off.

use std::{fmt, sync::Arc};

use crate::pool::{BackendState, Generation};

/// Is told how answers ended, independent of the type of the backends' services.
pub(crate) trait Answers: Send + Sync {
    /// The body of an answer has ended, or is not read any more.
    fn passed(&self, state: &BackendState);

    /// The backend ended the connection before the end of the body.
    fn broke_off(&self, state: &BackendState);
}

/// An answer with a good status, while its body is read. Dropping it reports that it has passed.
pub(crate) struct Judged {
    answers: Arc<dyn Answers>,
    state: Arc<BackendState>,
    /// The generation of the backend when the request was sent.
    generation: Generation,
    is_broken: bool,
}

impl Judged {
    pub(crate) fn new(
        answers: Arc<dyn Answers>,
        state: Arc<BackendState>,
        generation: Generation,
    ) -> Self {
        Self { answers, state, generation, is_broken: false }
    }

    pub(crate) fn broke_off(mut self) {
        self.is_broken = true;
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if !self.state.generation().has_service_of(self.generation) {
            // The backend has another service now.
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::strategy::testing::states;

    /// Whether each answer has passed.
    #[derive(Default)]
    struct Told(Mutex<Vec<bool>>);

    impl Answers for Told {
        fn passed(&self, _: &BackendState) {
            self.0.lock().unwrap().push(true);
        }

        fn broke_off(&self, _: &BackendState) {
            self.0.lock().unwrap().push(false);
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_reported_as_a_failure() {
        let (told, state) = (Arc::new(Told::default()), states(&[1]).remove(0));
        let judged = || Judged::new(told.clone(), state.clone(), state.generation());
        judged().broke_off();
        drop(judged());
        assert_eq!(*told.0.lock().unwrap(), [false, true]);
        let outdated = judged();
        state.begin_service_generation();
        outdated.broke_off();
        assert_eq!(told.0.lock().unwrap().len(), 2, "the backend has another service now");
    }
}
