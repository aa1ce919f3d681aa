//! What real traffic tells about a backend: one that fails is out for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;

/// The verdict of passive detection on one backend: a circuit breaker that opens on failures, waits
/// longer each time, and closes again when a trial request was answered.
#[derive(Debug, Default)]
pub(crate) struct Passive {
    /// Connection failures since the last answer.
    refused: u32,
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
    Trial {
        taken: bool,
    },
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection.
    Refused,
    /// No proper answer, though the request was taken.
    Broken,
    /// An answer that says so.
    Answer,
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

    /// A request failed. Tells whether that is reason enough to eject: as many failures of the kind
    /// in a row as the settings say, or a failed trial.
    ///
    /// A connection that fails is fresh news. A failing answer may have been on its way since before
    /// the ejection, so while the backend is half open only that of a trial counts.
    pub(crate) fn failed(
        &mut self,
        trouble: Trouble,
        on_trial: bool,
        settings: &Settings,
        now: Instant,
    ) -> bool {
        let (count, threshold) = match trouble {
            Trouble::Refused => (&mut self.refused, settings.connect_failures),
            Trouble::Broken => (&mut self.errors, settings.consecutive_failures),
            Trouble::Answer => {
                self.refused = 0;
                (&mut self.errors, settings.consecutive_failures)
            }
        };
        *count = count.saturating_add(1);
        match self.phase {
            Phase::In => {
                let eject = threshold > 0 && *count >= threshold;
                self.note(settings.ejection, now);
                eject
            }
            Phase::Trial { .. } => trouble == Trouble::Refused || on_trial,
            Phase::Ejected { .. } => false,
        }
    }

    /// Takes the backend out: first for a tenth of `longest`, then for twice as long each time, up to
    /// `longest`.
    pub(crate) fn eject(&mut self, longest: Duration, now: Instant) {
        if self.is_ejected() {
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
            Phase::In => (self.refused, self.errors) = (0, 0),
            Phase::Trial { .. } if on_trial => self.reinstate(now),
            Phase::Trial { .. } | Phase::Ejected { .. } => {}
        }
    }

    /// Ends an ejection, or a trial: it is in again.
    pub(crate) fn reinstate(&mut self, now: Instant) {
        (self.refused, self.errors) = (0, 0);
        if !matches!(self.phase, Phase::In) {
            self.phase = Phase::In;
            self.troubled = Some(now);
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

    /// Whether it is out, or half in.
    pub(crate) fn is_out(&self) -> bool {
        !matches!(self.phase, Phase::In)
    }

    /// Whether a good answer would change nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        self.refused == 0 && self.errors == 0 && !self.is_out()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connect_failures: u32, consecutive_failures: u32) -> Settings {
        Settings { connect_failures, consecutive_failures, ..Settings::new() }
    }

    /// As the pool does it while nothing limits the share that is ejected.
    fn fail(passive: &mut Passive, trouble: Trouble, on_trial: bool, settings: &Settings) {
        if passive.failed(trouble, on_trial, settings, Instant::now()) {
            passive.eject(settings.ejection, Instant::now());
        }
    }

    fn refuse(passive: &mut Passive, threshold: u32) {
        fail(passive, Trouble::Refused, false, &settings(threshold, 0));
    }

    async fn serve_out(passive: &mut Passive) -> Duration {
        let out = passive.ejected_until().expect("it is ejected") - Instant::now();
        tokio::time::advance(out).await;
        passive.release(Instant::now());
        assert!(passive.take_trial());
        out
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_grow_up_to_the_longest_and_end_in_a_trial() {
        let mut passive = Passive::default();
        for expected in [1, 2, 4, 8, 10, 10] {
            refuse(&mut passive, 1);
            let until = passive.ejected_until().expect("one failure ejects");
            assert_eq!(until - Instant::now(), Duration::from_secs(expected));
            refuse(&mut passive, 1);
            assert_eq!(passive.ejected_until(), Some(until), "a late failure changes nothing");
            tokio::time::advance(Duration::from_millis(expected * 1000 - 1)).await;
            passive.release(Instant::now());
            assert!(passive.is_ejected(), "not before its time");
            passive.answered(false, Instant::now());
            assert!(passive.is_ejected(), "a late answer changes nothing");
            tokio::time::advance(Duration::from_millis(1)).await;
            passive.release(Instant::now());
            assert!(passive.take_trial(), "one request may try");
            assert!(!passive.take_trial(), "only one at a time");
            passive.return_trial();
            assert!(passive.take_trial(), "a trial without a result is given back");
        }
        passive.answered(true, Instant::now());
        assert!(!passive.is_on_trial() && passive.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn the_threshold_counts_failures_in_a_row_and_zero_is_off() {
        let mut passive = Passive::default();
        refuse(&mut passive, 2);
        assert!(!passive.is_ejected(), "one of two");
        passive.answered(false, Instant::now());
        refuse(&mut passive, 2);
        assert!(!passive.is_ejected(), "an answer starts the count anew");
        refuse(&mut passive, 2);
        assert!(passive.is_ejected());
        let mut off = Passive::default();
        refuse(&mut off, 0);
        assert!(!off.is_ejected());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_answers_are_counted_by_themselves() {
        let (mut passive, settings) = (Passive::default(), settings(2, 3));
        fail(&mut passive, Trouble::Refused, false, &settings);
        fail(&mut passive, Trouble::Answer, false, &settings);
        fail(&mut passive, Trouble::Refused, false, &settings);
        assert!(!passive.is_ejected(), "an answer, even a failing one, shows a connection");
        fail(&mut passive, Trouble::Broken, false, &settings);
        assert!(!passive.is_ejected() && !passive.is_quiet(), "two of three");
        fail(&mut passive, Trouble::Answer, false, &settings);
        assert!(passive.is_ejected());
        serve_out(&mut passive).await;
        fail(&mut passive, Trouble::Answer, false, &settings);
        assert!(passive.is_on_trial(), "a late answer, not that of the trial");
        fail(&mut passive, Trouble::Answer, true, &settings);
        assert!(passive.is_ejected(), "the trial failed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_back_off_outlives_a_good_trial_and_is_forgotten_with_time() {
        let mut passive = Passive::default();
        let mut outs = Vec::new();
        for _ in 0..5 {
            refuse(&mut passive, 1);
            outs.push(serve_out(&mut passive).await.as_secs());
            passive.answered(true, Instant::now());
            assert!(passive.is_quiet(), "a good trial brings it back at once");
            tokio::time::advance(Duration::from_secs(9)).await;
        }
        assert_eq!(outs, [1, 2, 4, 8, 10], "it comes and goes: longer each time");
        tokio::time::advance(Duration::from_secs(1)).await;
        refuse(&mut passive, 1);
        assert_eq!(serve_out(&mut passive).await.as_secs(), 1, "it had behaved for 10 s");
    }
}
