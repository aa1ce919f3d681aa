//! What real traffic tells about a backend: a refused connection takes it out for a while.

use std::time::Duration;

use tokio::time::Instant;

/// The verdict of passive detection on one backend: a circuit breaker that opens on connection
/// failures, waits longer each time, and closes again when a trial request was answered.
#[derive(Debug, Default)]
pub(crate) struct Passive {
    /// Connection failures since the last answer.
    failures: u32,
    /// Ejections since the last answer: the exponent of the back-off.
    ejections: u32,
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
    Trial {
        taken: bool,
    },
}

impl Passive {
    pub(crate) fn is_ejected(&self) -> bool {
        matches!(self.phase, Phase::Ejected { .. })
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial { .. })
    }

    /// When the ejection ends, if there is one.
    pub(crate) fn ejected_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ejected { until } => Some(until),
            _ => None,
        }
    }

    /// A connection failed. `threshold` failures in a row eject (0: never), a failed trial does at
    /// once: first for a tenth of `longest`, then for twice as long each time, up to `longest`.
    pub(crate) fn failed(&mut self, threshold: u32, longest: Duration, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let eject = match self.phase {
            Phase::In => threshold > 0 && self.failures >= threshold,
            Phase::Trial { .. } => true,
            Phase::Ejected { .. } => false,
        };
        if eject {
            let longest = longest.min(Duration::from_secs(365 * 24 * 3600));
            let wait = (longest / 10).saturating_mul(1 << self.ejections.min(10)).min(longest);
            self.ejections += 1;
            self.phase = Phase::Ejected { until: now + wait };
        }
    }

    /// A request was answered. When the backend is out, only the answer to a trial counts: others may
    /// have been on their way since before it failed.
    pub(crate) fn answered(&mut self, on_trial: bool) {
        if on_trial || matches!(self.phase, Phase::In) {
            *self = Self::default();
        }
    }

    /// Opens the trial when the ejection is over.
    pub(crate) fn release(&mut self, now: Instant) {
        if self.ejected_until().is_some_and(|until| until <= now) {
            self.phase = Phase::Trial { taken: false };
        }
    }

    /// Takes the one trial that may be under way.
    pub(crate) fn take_trial(&mut self) -> bool {
        match &mut self.phase {
            Phase::Trial { taken } => !std::mem::replace(taken, true),
            _ => false,
        }
    }

    /// The trial ended without a result, for example because the client went away.
    pub(crate) fn return_trial(&mut self) {
        if let Phase::Trial { taken } = &mut self.phase {
            *taken = false;
        }
    }

    /// Whether an answer would change anything.
    pub(crate) fn is_quiet(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn ejections_grow_up_to_the_longest_and_end_in_a_trial() {
        let mut passive = Passive::default();
        for expected in [1, 2, 4, 8, 10, 10] {
            passive.failed(1, LONGEST, Instant::now());
            let until = passive.ejected_until().expect("one failure ejects");
            assert_eq!(until - Instant::now(), Duration::from_secs(expected));
            passive.failed(1, LONGEST, Instant::now());
            assert_eq!(passive.ejected_until(), Some(until), "a late failure changes nothing");
            tokio::time::advance(Duration::from_millis(expected * 1000 - 1)).await;
            passive.release(Instant::now());
            assert!(passive.is_ejected(), "not before its time");
            passive.answered(false);
            assert!(passive.is_ejected(), "a late answer changes nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            passive.release(Instant::now());
            assert!(passive.take_trial(), "one request may try");
            assert!(!passive.take_trial(), "only one at a time");
            passive.return_trial();
            assert!(passive.take_trial(), "a trial without a result is given back");
        }
        passive.answered(true);
        assert!(!passive.is_on_trial() && passive.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn the_threshold_counts_failures_in_a_row_and_zero_is_off() {
        let mut passive = Passive::default();
        passive.failed(2, LONGEST, Instant::now());
        assert!(!passive.is_ejected(), "one of two");
        passive.answered(false);
        passive.failed(2, LONGEST, Instant::now());
        assert!(!passive.is_ejected(), "an answer starts the count anew");
        passive.failed(2, LONGEST, Instant::now());
        assert!(passive.is_ejected());
        let mut off = Passive::default();
        off.failed(0, LONGEST, Instant::now());
        assert!(!off.is_ejected());
    }
}
