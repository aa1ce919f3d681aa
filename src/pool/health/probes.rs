//! The verdict of active probes on a backend.

use tokio::time::Instant;

/// The results of the probes of one backend.
#[derive(Debug, Default)]
pub(crate) struct ProbeState {
    /// Results in a row; one of the two is 0.
    successes: u32,
    failures: u32,
    /// `None` before the first verdict, which counts as up.
    up: Option<bool>,
    /// When the probes marked it down.
    down_since: Option<Instant>,
    /// The error of the last failed probe, until the backend is up again.
    failure: Option<Box<str>>,
}

/// The length in bytes at which the text of a failure is cut.
const MAX_FAILURE: usize = 256;

impl ProbeState {
    pub(crate) fn is_down(&self) -> bool {
        self.up == Some(false)
    }

    /// Since when the probes have had it down.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// Whether the verdict may change with the next results, so that probes should be more frequent.
    pub(crate) fn is_uncertain(&self) -> bool {
        match self.up {
            None => true,
            Some(true) => self.failures > 0,
            Some(false) => self.successes > 0,
        }
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Records a success. After `rise` in a row the backend is up; returns whether this one brought it
    /// up from down.
    pub(crate) fn record_success(&mut self, rise: u32) -> bool {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if self.successes < rise {
            return false;
        }
        (self.failure, self.down_since) = (None, None);
        self.up.replace(true) == Some(false)
    }

    /// Records a failure, with its text. After `fall` in a row the backend is down.
    pub(crate) fn record_failure(&mut self, fall: u32, mut text: String, now: Instant) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= fall {
            self.up = Some(false);
            self.down_since.get_or_insert(now);
        }
        if let Some(end) =
            (0..=MAX_FAILURE.min(text.len())).rev().find(|&i| text.is_char_boundary(i))
        {
            text.truncate(end);
        }
        self.failure = Some(text.into());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fail(state: &mut ProbeState) {
        state.record_failure(3, "no".to_owned(), Instant::now());
    }

    #[test]
    fn verdict_changes_after_enough_results_in_a_row() {
        let mut state = ProbeState::default();
        assert!(state.is_uncertain() && !state.is_down(), "without a verdict it counts as up");
        fail(&mut state);
        fail(&mut state);
        assert!(!state.record_success(2) && !state.is_down(), "two failures of three");
        fail(&mut state);
        fail(&mut state);
        assert!(!state.is_down(), "a success resets the count of failures");
        fail(&mut state);
        assert!(state.is_down() && !state.is_uncertain());
        assert!(
            !state.record_success(2) && state.is_down() && state.is_uncertain(),
            "one success of two"
        );
        fail(&mut state);
        assert!(
            !state.record_success(2) && state.is_down(),
            "a failure resets the count of successes"
        );
        assert!(state.record_success(2), "the second success brings it up");
        assert!(!state.is_down() && !state.is_uncertain() && state.failure().is_none());
        assert!(!state.record_success(2), "it is up already");
    }

    #[test]
    fn long_failure_text_is_cut_at_a_character_boundary() {
        let mut state = ProbeState::default();
        state.record_failure(1, format!("x{}", "é".repeat(300)), Instant::now());
        let text = state.failure().unwrap();
        assert!(text.len() == 255 && text.ends_with('é'), "{} bytes", text.len());
    }

    #[test]
    fn it_is_down_since_the_failure_that_has_taken_it_down() {
        let (mut state, start) = (ProbeState::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (seconds, down_since) in [(1, None), (2, Some(at(2))), (3, Some(at(2)))] {
            state.record_failure(2, "no".to_owned(), at(seconds));
            assert_eq!(state.down_since(), down_since);
        }
        state.record_success(2);
        assert_eq!(state.down_since(), Some(at(2)), "one success of two");
        state.record_success(2);
        assert_eq!(state.down_since(), None);
    }
}
