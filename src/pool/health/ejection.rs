//! Ejection of a backend whose answers fail.

use std::time::Duration;

use tokio::time::Instant;

/// A circuit breaker: it opens after failing answers, for longer each time, and closes when a trial
/// request gets a good answer.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    /// Failing answers since the last good one.
    failures: u32,
    /// The exponent of the back-off. A successful trial does not reset it, so that a backend that keeps
    /// failing is ejected for longer each time.
    ejections: u32,
    /// When it last failed or was reinstated.
    last_change: Option<Instant>,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy)]
enum Phase {
    #[default]
    Serving,
    Ejected {
        until: Instant,
    },
    /// Half open: one request at a time may try the backend.
    Trial,
}

impl Ejection {
    /// When the ejection ends; `None` when the backend is not ejected.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ejected { until } => Some(until),
            _ => None,
        }
    }

    /// Whether the ejection has ended and a trial is to close the circuit.
    pub(crate) fn is_on_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial)
    }

    /// Whether the backend is ejected or on trial.
    pub(crate) fn is_ejected(&self) -> bool {
        !matches!(self.phase, Phase::Serving)
    }

    /// Whether a good answer would change nothing.
    pub(crate) fn is_clear(&self) -> bool {
        self.failures == 0 && !self.is_ejected()
    }

    /// Records a failed answer. Returns whether the backend should be ejected: after `threshold` failures
    /// in a row (0 for never), or after a failed trial. During a trial the answers to other requests do
    /// not count, as those may have been sent before the ejection.
    pub(crate) fn record_failure(
        &mut self,
        threshold: u32,
        on_trial: bool,
        longest: Duration,
        now: Instant,
    ) -> bool {
        if threshold == 0 {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        match self.phase {
            Phase::Serving => {
                self.note_failure(longest, now);
                self.failures >= threshold
            }
            Phase::Trial => on_trial,
            Phase::Ejected { .. } => false,
        }
    }

    /// Ejects the backend: first for a tenth of `longest`, then for twice as long each time, up to
    /// `longest`.
    pub(crate) fn eject(&mut self, longest: Duration, now: Instant) {
        if self.until().is_some() {
            return;
        }
        if matches!(self.phase, Phase::Serving) {
            self.note_failure(longest, now);
        }
        let wait = (longest / 10).saturating_mul(1 << self.ejections.min(10)).min(longest);
        self.ejections = self.ejections.saturating_add(1);
        self.phase = Phase::Ejected { until: now + wait };
    }

    /// Notes a failure. Resets the back-off if the backend had not failed for as long as the longest
    /// ejection.
    fn note_failure(&mut self, longest: Duration, now: Instant) {
        if self.last_change.is_none_or(|then| now.saturating_duration_since(then) >= longest) {
            self.ejections = 0;
        }
        self.last_change = Some(now);
    }

    /// Records a good answer. While the backend is ejected only the answer to a trial counts: other
    /// requests may have been sent before it failed.
    pub(crate) fn record_success(&mut self, on_trial: bool, now: Instant) {
        match self.phase {
            Phase::Serving => self.failures = 0,
            Phase::Trial if on_trial => self.reinstate(now),
            Phase::Trial | Phase::Ejected { .. } => {}
        }
    }

    /// Ends the ejection or the trial.
    pub(crate) fn reinstate(&mut self, now: Instant) {
        self.failures = 0;
        if self.is_ejected() {
            self.phase = Phase::Serving;
            self.last_change = Some(now);
        }
    }

    /// Begins the trial if the ejection has ended.
    pub(crate) fn begin_trial(&mut self, now: Instant) {
        if self.until().is_some_and(|until| until <= now) {
            self.phase = Phase::Trial;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    /// Ejects as the pool does when it does not limit the share of ejected backends.
    fn fail(ejection: &mut Ejection, threshold: u32, on_trial: bool) {
        if ejection.record_failure(threshold, on_trial, LONGEST, Instant::now()) {
            ejection.eject(LONGEST, Instant::now());
        }
    }

    async fn wait_for_trial(ejection: &mut Ejection) -> Duration {
        let duration = ejection.until().expect("it is ejected") - Instant::now();
        tokio::time::advance(duration).await;
        ejection.begin_trial(Instant::now());
        assert!(ejection.is_on_trial());
        duration
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_double_up_to_the_longest_and_end_with_a_trial() {
        let mut ejection = Ejection::default();
        for expected in [1, 2, 4, 8, 10, 10] {
            fail(&mut ejection, 1, true);
            let until = ejection.until().expect("one failure ejects");
            assert_eq!(until - Instant::now(), Duration::from_secs(expected));
            fail(&mut ejection, 1, true);
            assert_eq!(
                ejection.until(),
                Some(until),
                "a failure during the ejection changes nothing"
            );
            tokio::time::advance(Duration::from_millis(expected * 1000 - 1)).await;
            ejection.begin_trial(Instant::now());
            assert!(!ejection.is_on_trial(), "the trial does not begin early");
            ejection.record_success(false, Instant::now());
            assert!(ejection.is_ejected(), "an answer during the ejection changes nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            ejection.begin_trial(Instant::now());
            assert!(ejection.is_on_trial());
        }
        ejection.record_success(true, Instant::now());
        assert!(!ejection.is_ejected() && ejection.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn threshold_counts_failures_in_a_row_and_zero_disables_it() {
        let mut ejection = Ejection::default();
        fail(&mut ejection, 2, false);
        assert!(!ejection.is_ejected() && !ejection.is_clear(), "one of two failures");
        ejection.record_success(false, Instant::now());
        fail(&mut ejection, 2, false);
        assert!(!ejection.is_ejected(), "a good answer resets the count");
        fail(&mut ejection, 2, false);
        assert!(ejection.is_ejected());
        wait_for_trial(&mut ejection).await;
        fail(&mut ejection, 2, false);
        assert!(ejection.is_on_trial(), "the answer to another request does not count");
        ejection.record_success(false, Instant::now());
        assert!(ejection.is_on_trial(), "nor does a good one");
        fail(&mut ejection, 2, true);
        assert!(ejection.until().is_some(), "the trial failed");
        let mut off = Ejection::default();
        fail(&mut off, 0, false);
        assert!(off.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_survives_a_good_trial_and_is_reset_with_time() {
        let mut ejection = Ejection::default();
        let mut durations = Vec::new();
        for _ in 0..5 {
            fail(&mut ejection, 1, false);
            durations.push(wait_for_trial(&mut ejection).await.as_secs());
            ejection.record_success(true, Instant::now());
            assert!(ejection.is_clear(), "a good trial reinstates the backend");
            tokio::time::advance(Duration::from_secs(9)).await;
        }
        assert_eq!(durations, [1, 2, 4, 8, 10], "each ejection takes longer");
        tokio::time::advance(Duration::from_secs(1)).await;
        fail(&mut ejection, 1, false);
        assert_eq!(
            wait_for_trial(&mut ejection).await.as_secs(),
            1,
            "the back-off is reset after 10 s without a failure"
        );
    }
}
