//! Ejection for answers: a backend whose answers fail is out of favour for a while.

use std::time::Duration;

use tokio::time::Instant;

/// A circuit breaker: it opens on failing answers, waits longer each time, and closes again when a
/// trial request was answered well.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    /// Failing answers since the last good one.
    errors: u32,
    /// Ejections so far: the exponent of the back-off. It outlives a trial that went well, so that a
    /// backend that comes and goes is out for longer each time.
    ejections: u32,
    /// When it failed, or came back, for the last time.
    troubled: Option<Instant>,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy)]
enum Phase {
    #[default]
    In,
    Ejected {
        until: Instant,
    },
    /// Half open: one request at a time may try.
    Trial,
}

impl Ejection {
    /// When the ejection ends, if there is one.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ejected { until } => Some(until),
            _ => None,
        }
    }

    /// Whether it is over, and a trial is to end it.
    pub(crate) fn is_on_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial)
    }

    /// Whether the backend is out, or half in.
    pub(crate) fn is_out(&self) -> bool {
        !matches!(self.phase, Phase::In)
    }

    /// Whether a good answer would change nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        self.errors == 0 && !self.is_out()
    }

    /// An answer failed. Tells whether that is reason enough to eject: `threshold` of them in a row (0 is
    /// never), or a failed trial. While the backend is half open the answers of other requests, which may
    /// have been on their way since before the ejection, do not count.
    pub(crate) fn failed(
        &mut self,
        threshold: u32,
        on_trial: bool,
        longest: Duration,
        now: Instant,
    ) -> bool {
        if threshold == 0 {
            return false;
        }
        self.errors = self.errors.saturating_add(1);
        match self.phase {
            Phase::In => {
                self.note(longest, now);
                self.errors >= threshold
            }
            Phase::Trial => on_trial,
            Phase::Ejected { .. } => false,
        }
    }

    /// Takes the backend out: first for a tenth of `longest`, then for twice as long each time, up to
    /// `longest`.
    pub(crate) fn eject(&mut self, longest: Duration, now: Instant) {
        if self.until().is_some() {
            return;
        }
        if matches!(self.phase, Phase::In) {
            self.note(longest, now);
        }
        let wait = (longest / 10).saturating_mul(1 << self.ejections.min(10)).min(longest);
        self.ejections = self.ejections.saturating_add(1);
        self.phase = Phase::Ejected { until: now + wait };
    }

    /// Something went wrong while it was in. If it had behaved for as long as the longest ejection, what
    /// was before is forgotten.
    fn note(&mut self, longest: Duration, now: Instant) {
        if self.troubled.is_none_or(|then| now.saturating_duration_since(then) >= longest) {
            self.ejections = 0;
        }
        self.troubled = Some(now);
    }

    /// A request was answered well. When the backend is out, only the answer to a trial counts:
    /// others may have been on their way since before it failed.
    pub(crate) fn answered(&mut self, on_trial: bool, now: Instant) {
        match self.phase {
            Phase::In => self.errors = 0,
            Phase::Trial if on_trial => self.reinstate(now),
            Phase::Trial | Phase::Ejected { .. } => {}
        }
    }

    /// Ends an ejection, or a trial: it is in again.
    pub(crate) fn reinstate(&mut self, now: Instant) {
        self.errors = 0;
        if self.is_out() {
            self.phase = Phase::In;
            self.troubled = Some(now);
        }
    }

    /// Opens the trial when the ejection is over.
    pub(crate) fn release(&mut self, now: Instant) {
        if self.until().is_some_and(|until| until <= now) {
            self.phase = Phase::Trial;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    /// As the pool does it while nothing limits the share that is ejected.
    fn fail(ejection: &mut Ejection, threshold: u32, on_trial: bool) {
        if ejection.failed(threshold, on_trial, LONGEST, Instant::now()) {
            ejection.eject(LONGEST, Instant::now());
        }
    }

    async fn serve_out(ejection: &mut Ejection) -> Duration {
        let out = ejection.until().expect("it is ejected") - Instant::now();
        tokio::time::advance(out).await;
        ejection.release(Instant::now());
        assert!(ejection.is_on_trial());
        out
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_grow_up_to_the_longest_and_end_in_a_trial() {
        let mut ejection = Ejection::default();
        for expected in [1, 2, 4, 8, 10, 10] {
            fail(&mut ejection, 1, true);
            let until = ejection.until().expect("one failure ejects");
            assert_eq!(until - Instant::now(), Duration::from_secs(expected));
            fail(&mut ejection, 1, true);
            assert_eq!(ejection.until(), Some(until), "a late failure changes nothing");
            tokio::time::advance(Duration::from_millis(expected * 1000 - 1)).await;
            ejection.release(Instant::now());
            assert!(!ejection.is_on_trial(), "not before its time");
            ejection.answered(false, Instant::now());
            assert!(ejection.is_out(), "a late answer changes nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            ejection.release(Instant::now());
            assert!(ejection.is_on_trial());
        }
        ejection.answered(true, Instant::now());
        assert!(!ejection.is_out() && ejection.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn the_threshold_counts_failures_in_a_row_and_zero_is_off() {
        let mut ejection = Ejection::default();
        fail(&mut ejection, 2, false);
        assert!(!ejection.is_out() && !ejection.is_quiet(), "one of two");
        ejection.answered(false, Instant::now());
        fail(&mut ejection, 2, false);
        assert!(!ejection.is_out(), "an answer starts the count anew");
        fail(&mut ejection, 2, false);
        assert!(ejection.is_out());
        serve_out(&mut ejection).await;
        fail(&mut ejection, 2, false);
        assert!(ejection.is_on_trial(), "a late answer, not that of the trial");
        fail(&mut ejection, 2, true);
        assert!(ejection.until().is_some(), "the trial failed");
        let mut off = Ejection::default();
        fail(&mut off, 0, false);
        assert!(off.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn the_back_off_outlives_a_good_trial_and_is_forgotten_with_time() {
        let mut ejection = Ejection::default();
        let mut outs = Vec::new();
        for _ in 0..5 {
            fail(&mut ejection, 1, false);
            outs.push(serve_out(&mut ejection).await.as_secs());
            ejection.answered(true, Instant::now());
            assert!(ejection.is_quiet(), "a good trial brings it back at once");
            tokio::time::advance(Duration::from_secs(9)).await;
        }
        assert_eq!(outs, [1, 2, 4, 8, 10], "it comes and goes: longer each time");
        tokio::time::advance(Duration::from_secs(1)).await;
        fail(&mut ejection, 1, false);
        assert_eq!(serve_out(&mut ejection).await.as_secs(), 1, "it had behaved for 10 s");
    }
}
