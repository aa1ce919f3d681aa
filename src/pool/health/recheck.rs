//! The schedule of the rechecks of a suspect backend.

use std::time::Duration;

use tokio::time::Instant;

use crate::hash::mix;

/// The rechecks of one suspect: after `first`, then after twice as long each time, up to `longest`, one
/// at a time. A recheck is a redial in the background or a trial request.
#[derive(Debug, Default)]
pub(crate) struct RecheckSchedule {
    /// Failed rechecks since the backend became suspect, without those that were made early.
    failed: u32,
    /// Whether any recheck has failed, early ones included.
    any_failed: bool,
    /// When the next recheck is due; `None` while the backend is not suspect.
    due: Option<Instant>,
    /// When it would be due had it not been moved forward; `None` if it was not.
    regular_due: Option<Instant>,
    /// Rechecks that have started. The last one is running while fewer have finished.
    started: u64,
    finished: u64,
    /// The last one that has failed.
    last_failed: u64,
    /// Whether the running recheck is a trial request.
    by_request: bool,
}

/// The number of a recheck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecheckId(u64);

/// The pauses between rechecks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    /// Makes the jitter differ between backends and between processes.
    pub(crate) seed: u64,
}

impl Backoff {
    /// The pause after `failed` failed rechecks, with a jitter of up to a fifth less.
    fn pause(&self, failed: u32, number: u64) -> Duration {
        let whole = self.first.saturating_mul(1 << failed.min(16)).min(self.longest);
        with_jitter(whole, self.seed ^ number)
    }
}

/// `whole`, shortened by up to a fifth that depends on `seed`.
fn with_jitter(whole: Duration, seed: u64) -> Duration {
    let part = mix(seed) as f64 / u64::MAX as f64;
    whole.mul_f64(1.0 - 0.2 * part)
}

impl RecheckSchedule {
    /// Schedules a recheck of a backend that is suspect, unless one is scheduled already.
    pub(crate) fn schedule(&mut self, backoff: &Backoff, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now + backoff.pause(self.failed, self.started));
        }
    }

    /// Schedules a recheck within 10 ms, to learn whether the backend still listens. Not immediately, as
    /// it may be about to close its listener.
    pub(crate) fn schedule_quick(&mut self, now: Instant) {
        const QUICK: Duration = Duration::from_millis(10);
        let quick = now + QUICK;
        self.due = Some(self.due.map_or(quick, |due| due.min(quick)));
    }

    /// Reschedules the next recheck as if the last failure had been at `failed`.
    pub(crate) fn postpone(&mut self, backoff: &Backoff, failed: Instant) {
        self.due = Some(failed + backoff.pause(self.failed, self.started));
        self.regular_due = None;
    }

    /// Makes the next recheck due now, for a request that waits for its result.
    pub(crate) fn make_due(&mut self, now: Instant) {
        self.make_due_by(now);
    }

    /// Makes the next recheck due within 25 to 50 ms, for requests that wait for the backend to recover.
    pub(crate) fn make_due_soon(&mut self, seed: u64, now: Instant) {
        const SOON: Duration = Duration::from_millis(45);
        self.make_due_by(now + with_jitter(SOON, seed ^ self.started));
    }

    /// Makes the next recheck due at `at` unless it is due earlier.
    fn make_due_by(&mut self, at: Instant) {
        if let Some(due) = self.due.filter(|due| *due > at) {
            self.regular_due.get_or_insert(due);
            self.due = Some(at);
        }
    }

    /// Ends the schedule, as there is nothing left to recheck.
    pub(crate) fn reset(&mut self) {
        (self.failed, self.any_failed, self.due, self.regular_due) = (0, false, None, None);
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.started > self.finished
    }

    /// Whether a trial request is running.
    pub(crate) fn is_trial_running(&self) -> bool {
        self.is_running() && self.by_request
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.any_failed
    }

    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Whether a recheck has failed that was not earlier than the one with this number.
    pub(crate) fn has_failed_since(&self, number: u64) -> bool {
        self.last_failed >= number
    }

    /// Starts a recheck; `None` while another one is running.
    pub(crate) fn begin(&mut self, by_request: bool) -> Option<RecheckId> {
        if self.is_running() {
            return None;
        }
        self.started += 1;
        self.by_request = by_request;
        Some(RecheckId(self.started))
    }

    /// Records that the recheck failed, and schedules the next one. A recheck that was made early is an
    /// additional one, and leaves the regular schedule as it was.
    pub(crate) fn fail(&mut self, id: RecheckId, backoff: &Backoff, now: Instant) {
        if id.0 != self.started {
            return;
        }
        (self.any_failed, self.last_failed) = (true, id.0);
        match self.regular_due.take().or(self.due).filter(|due| *due > now) {
            Some(due) => self.due = Some(due),
            None => {
                self.failed = self.failed.saturating_add(1);
                self.due = Some(now + backoff.pause(self.failed, self.started));
            }
        }
    }

    /// Records that the recheck has finished, with any result.
    pub(crate) fn end(&mut self, id: RecheckId) {
        if id.0 == self.started {
            self.finished = self.started;
        }
    }

    /// Ignores the result of a running recheck, as the backend has another service.
    pub(crate) fn invalidate(&mut self) {
        self.reset();
        self.finished = self.started;
        self.started += 1;
        self.finished += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1), seed: 7 };

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let mut schedule = RecheckSchedule::default();
        schedule.schedule(&BACKOFF, Instant::now());
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let pause = schedule.due().expect("a recheck is scheduled") - Instant::now();
            let (least, most) = (whole * 8 / 10, whole);
            assert!((least..=most).contains(&(pause.as_millis() as u64)), "{pause:?} of {whole}");
            let planned = schedule.due();
            schedule.schedule(&BACKOFF, Instant::now());
            assert_eq!(schedule.due(), planned, "more evidence does not change the schedule");
            tokio::time::advance(pause).await;
            assert!(schedule.is_due(Instant::now()));
            let id = schedule.begin(false).expect("no recheck is running");
            schedule.fail(id, &BACKOFF, Instant::now());
            schedule.end(id);
        }
        schedule.reset();
        assert_eq!((schedule.due(), schedule.has_failed()), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn backends_that_fail_together_are_first_rechecked_at_different_times() {
        let now = Instant::now();
        let due = |seed| {
            let mut schedule = RecheckSchedule::default();
            schedule.schedule(&Backoff { seed, ..BACKOFF }, now);
            schedule.due().unwrap()
        };
        let times: BTreeSet<_> = (1..=10).map(due).collect();
        assert_eq!(times.len(), 10, "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_recheck_runs_at_a_time_and_results_for_an_old_service_are_ignored() {
        let mut schedule = RecheckSchedule::default();
        schedule.schedule(&BACKOFF, Instant::now());
        let old = schedule.begin(true).unwrap();
        assert!(schedule.is_trial_running() && schedule.begin(false).is_none());
        schedule.invalidate();
        assert!(!schedule.is_running());
        let new = schedule.begin(false).unwrap();
        schedule.schedule(&BACKOFF, Instant::now());
        let due = schedule.due();
        schedule.fail(old, &BACKOFF, Instant::now());
        schedule.end(old);
        assert!(
            schedule.is_running() && schedule.due() == due,
            "the result for the old service is ignored"
        );
        schedule.end(new);
        assert!(!schedule.is_running());
    }

    #[tokio::test(start_paused = true)]
    async fn recheck_that_ends_without_a_failure_is_no_failure() {
        let mut schedule = RecheckSchedule::default();
        schedule.schedule(&BACKOFF, Instant::now());
        let awaited = schedule.started() + 1;
        let first = schedule.begin(false).unwrap();
        schedule.end(first);
        assert!(!schedule.has_failed_since(awaited), "it has succeeded, or was given up");
        let second = schedule.begin(false).unwrap();
        schedule.fail(second, &BACKOFF, Instant::now());
        schedule.end(second);
        assert!(schedule.has_failed_since(awaited));
        let _third = schedule.begin(false).unwrap();
        assert!(schedule.has_failed_since(awaited), "the next one need not be waited for");
        assert!(!schedule.has_failed_since(schedule.started() + 1), "it was earlier");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_move_the_recheck_forward() {
        let mut schedule = RecheckSchedule::default();
        schedule.make_due_soon(1, Instant::now());
        assert_eq!(schedule.due(), None, "nothing is due while the backend is not suspect");
        let slow = Backoff { first: Duration::from_secs(5), ..BACKOFF };
        schedule.schedule(&slow, Instant::now());
        schedule.make_due_soon(1, Instant::now());
        let pause = schedule.due().unwrap() - Instant::now();
        assert!((25..=50).contains(&(pause.as_millis() as u64)), "{pause:?}");
        schedule.make_due(Instant::now());
        assert!(schedule.is_due(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn early_rechecks_do_not_delay_the_regular_ones() {
        let mut schedule = RecheckSchedule::default();
        schedule.schedule(&BACKOFF, Instant::now());
        let planned = schedule.due();
        for (by_request, is_early) in [(false, true), (true, true), (true, false), (true, false)] {
            if is_early {
                schedule.make_due(Instant::now());
                schedule.make_due(Instant::now());
            }
            let id = schedule.begin(by_request).unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
            schedule.fail(id, &BACKOFF, Instant::now());
            schedule.end(id);
            assert_eq!(schedule.due(), planned, "the regular schedule is unchanged");
            assert!(schedule.has_failed());
        }
        schedule.make_due(Instant::now());
        let id = schedule.begin(false).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        schedule.fail(id, &BACKOFF, Instant::now());
        assert!(
            schedule.due() > planned,
            "an early recheck that runs until the regular time replaces it"
        );
    }
}
