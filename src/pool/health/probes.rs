//! What active probes tell about a backend.

use tokio::time::Instant;

/// The verdict of the probes on one backend.
#[derive(Debug, Default)]
pub(crate) struct ProbeState {
    /// Results of the same kind in a row.
    passed: u32,
    failed: u32,
    /// `None` while nothing is known, which counts as up.
    up: Option<bool>,
    /// When it was found to be down.
    fell: Option<Instant>,
    /// What the last failed probe said, until there is a reason to forget it.
    failure: Option<Box<str>>,
}

/// So many bytes of a failure's text are kept.
const MAX_FAILURE: usize = 256;

impl ProbeState {
    pub(crate) fn is_down(&self) -> bool {
        self.up == Some(false)
    }

    /// Since when it has been down.
    pub(crate) fn fell(&self) -> Option<Instant> {
        self.fell
    }

    /// Whether the next result is worth having soon.
    pub(crate) fn is_in_doubt(&self) -> bool {
        match self.up {
            None => true,
            Some(true) => self.failed > 0,
            Some(false) => self.passed > 0,
        }
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// A probe succeeded, `rise` in a row bring the backend back. Tells whether this one did.
    pub(crate) fn passed(&mut self, rise: u32) -> bool {
        self.failed = 0;
        self.passed = self.passed.saturating_add(1);
        if self.passed < rise {
            return false;
        }
        (self.failure, self.fell) = (None, None);
        self.up.replace(true) == Some(false)
    }

    /// A probe failed, `fall` in a row take the backend out.
    pub(crate) fn failed(&mut self, fall: u32, mut why: String, now: Instant) {
        self.passed = 0;
        self.failed = self.failed.saturating_add(1);
        if self.failed >= fall {
            self.up = Some(false);
            self.fell.get_or_insert(now);
        }
        if let Some(end) = (0..=MAX_FAILURE.min(why.len())).rev().find(|&i| why.is_char_boundary(i))
        {
            why.truncate(end);
        }
        self.failure = Some(why.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(active: &mut ProbeState) {
        active.failed(3, "no".to_owned(), Instant::now());
    }

    #[test]
    fn results_in_a_row_make_the_verdict() {
        let mut active = ProbeState::default();
        assert!(active.is_in_doubt() && !active.is_down(), "unknown counts as up");
        failed(&mut active);
        failed(&mut active);
        assert!(!active.passed(2) && !active.is_down(), "two failures of three");
        failed(&mut active);
        failed(&mut active);
        assert!(!active.is_down(), "a success begins the count anew");
        failed(&mut active);
        assert!(active.is_down() && !active.is_in_doubt());
        assert!(!active.passed(2) && active.is_down() && active.is_in_doubt(), "one of two");
        failed(&mut active);
        assert!(!active.passed(2) && active.is_down(), "a failure begins the count anew");
        assert!(active.passed(2), "this one brings it back");
        assert!(!active.is_down() && !active.is_in_doubt() && active.failure().is_none());
        assert!(!active.passed(2), "it is back already");
    }

    #[test]
    fn a_long_failure_is_cut_between_characters() {
        let mut active = ProbeState::default();
        active.failed(1, format!("x{}", "é".repeat(300)), Instant::now());
        let text = active.failure().unwrap();
        assert!(text.len() == 255 && text.ends_with('é'), "{} bytes", text.len());
    }
}
