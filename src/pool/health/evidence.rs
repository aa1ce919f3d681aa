//! Evidence against a backend from requests, probes and redials.
//!
//! It makes the backend *suspect*: other backends are preferred, but no request is refused because of
//! it. Each kind of evidence ends by its opposite: refused connections by a connection, broken ones by
//! an answer, failing answers by time and a good answer.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Ejection,
    recheck::{Backoff, RecheckId, RecheckSchedule},
};
use crate::error::{Redialer, Refusal};

/// How many connections in a row must break before an answer to be evidence: a single one may have
/// been closed while it was idle.
const BROKEN_THRESHOLD: u32 = 2;

/// The evidence against one backend.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Refused connections in a row.
    refusals: u32,
    /// The error of the last refused connection.
    last_error: Option<Arc<str>>,
    /// Connections in a row that ended before an answer.
    broken_connections: u32,
    pub(super) is_unreachable: bool,
    pub(super) is_broken: bool,
    /// Whether it has accepted a connection since it was found to be broken.
    pub(super) accepts_connections: bool,
    pub(super) redialer: Option<Redialer>,
    /// When connections began to be refused.
    outage: Option<Instant>,
    /// When a connection or an answer last ended the evidence.
    cleared_at: Option<Instant>,
    last_failure: Option<Instant>,
    pub(crate) ejection: Ejection,
    pub(crate) rechecks: RecheckSchedule,
}

impl Evidence {
    pub(crate) fn is_suspect(&self) -> bool {
        self.is_unreachable || self.is_broken || self.ejection.is_ejected()
    }

    /// Whether a good answer would change nothing.
    pub(crate) fn is_clear(&self) -> bool {
        self.refusals == 0
            && self.broken_connections == 0
            && !self.is_suspect()
            && self.ejection.is_clear()
    }

    /// Since when all connections have been refused.
    pub(crate) fn outage(&self) -> Option<Instant> {
        self.outage
    }

    /// When a connection last failed.
    pub(crate) fn last_failure(&self) -> Option<Instant> {
        self.last_failure
    }

    /// The error of the last refused connection.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Records a refused connection. `recheck`: the recheck that opened it.
    pub(crate) fn record_refusal(
        &mut self,
        refusal: Refusal,
        recheck: Option<RecheckId>,
        threshold: u32,
        backoff: &Backoff,
        now: Instant,
    ) {
        // A connection that was begun before the backend recovered is outdated.
        let outdated = self.cleared_at.is_some_and(|cleared| refusal.began < cleared);
        if threshold == 0 || outdated {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        self.outage.get_or_insert(refusal.began);
        self.last_failure = Some(now);
        self.last_error = Some(refusal.text);
        self.redialer = refusal.redialer.or(self.redialer.take());
        if self.refusals >= threshold {
            self.is_unreachable = true;
            // The process that broke connections no longer listens. The next one starts without that
            // evidence.
            self.clear_broken();
        }
        self.schedule_recheck(recheck, backoff, now);
    }

    /// Records a connection that ended before any byte of an answer. `is_conclusive`: it was a fresh
    /// one, so it was not closed for being idle.
    pub(crate) fn record_broken_connection(
        &mut self,
        is_conclusive: bool,
        redialer: Option<Redialer>,
        recheck: Option<RecheckId>,
        threshold: u32,
        backoff: &Backoff,
        now: Instant,
    ) {
        // It was opened before connections were refused, and belongs to the process that no longer listens. Only a
        // recheck opens one meanwhile.
        let outdated = self.is_unreachable && recheck.is_none();
        if threshold == 0 || outdated {
            return;
        }
        let count = if is_conclusive { BROKEN_THRESHOLD } else { 1 };
        self.broken_connections = self.broken_connections.saturating_add(count);
        self.last_failure = Some(now);
        self.redialer = redialer.or(self.redialer.take());
        let newly_broken = self.broken_connections >= BROKEN_THRESHOLD && !self.is_broken;
        self.is_broken |= newly_broken;
        self.accepts_connections &= recheck.is_none();
        self.schedule_recheck(recheck, backoff, now);
        if newly_broken && self.awaits_redial() {
            self.rechecks.schedule_quick(now);
        }
    }

    /// Records that a trial request got no answer on a connection that was not at fault.
    pub(crate) fn record_failed_recheck(
        &mut self,
        recheck: Option<RecheckId>,
        backoff: &Backoff,
        now: Instant,
    ) {
        if recheck.is_some() {
            self.schedule_recheck(recheck, backoff, now);
        }
    }

    /// Schedules the next recheck, after one that failed or after other evidence.
    fn schedule_recheck(&mut self, recheck: Option<RecheckId>, backoff: &Backoff, now: Instant) {
        if !(self.is_unreachable || self.is_broken) {
            return;
        }
        match recheck {
            Some(recheck) => self.rechecks.fail(recheck, backoff, now),
            None => self.rechecks.schedule(backoff, now),
        }
    }

    /// Records a redial that succeeded.
    pub(crate) fn record_connection(&mut self, backoff: &Backoff, now: Instant) {
        self.clear_refusals(now);
        if self.is_broken {
            // Only a request can show that it answers.
            self.accepts_connections = true;
            self.rechecks.postpone(backoff, self.last_failure.unwrap_or(now));
        }
    }

    /// Records an answer, good or bad. `is_newer`: its request was sent after the evidence was found.
    /// An answer to an older request may have been sent before the backend failed.
    pub(crate) fn record_answer(&mut self, is_newer: bool, now: Instant) {
        if is_newer {
            self.clear_broken();
            self.clear_refusals(now);
            return;
        }
        if !self.is_unreachable {
            (self.refusals, self.outage, self.last_error) = (0, None, None);
        }
        if !self.is_broken {
            self.broken_connections = 0;
        }
    }

    fn clear_refusals(&mut self, now: Instant) {
        (self.refusals, self.is_unreachable) = (0, false);
        (self.outage, self.last_error) = (None, None);
        self.cleared_at = Some(now);
        if !self.is_broken {
            self.redialer = None;
            self.rechecks.reset();
        }
    }

    fn clear_broken(&mut self) {
        self.is_broken = false;
        self.broken_connections = 0;
        self.accepts_connections = false;
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::*;

    /// Evidence with its settings: a threshold of one, and rechecks after 100 ms to 1 s.
    pub(in crate::pool::health) struct Case {
        pub(in crate::pool::health) evidence: Evidence,
        pub(in crate::pool::health) threshold: u32,
        pub(in crate::pool::health) backoff: Backoff,
    }

    pub(in crate::pool::health) fn redialer() -> Redialer {
        Redialer::new(|| async { Ok::<_, std::io::Error>(()) })
    }

    impl Case {
        pub(in crate::pool::health) fn new() -> Self {
            let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
            let backoff = Backoff { first, longest, seed: 1 };
            Self { evidence: Evidence::default(), threshold: 1, backoff }
        }

        pub(in crate::pool::health) fn refuse(&mut self, with_redialer: bool) {
            let redialer = with_redialer.then(redialer);
            let refusal = Refusal { began: Instant::now(), redialer, text: "refused".into() };
            self.record_refusal(refusal);
        }

        pub(in crate::pool::health) fn record_refusal(&mut self, refusal: Refusal) {
            let now = Instant::now();
            self.evidence.record_refusal(refusal, None, self.threshold, &self.backoff, now);
        }

        pub(in crate::pool::health) fn break_connection(
            &mut self,
            is_conclusive: bool,
            redialer: Option<Redialer>,
            recheck: Option<RecheckId>,
        ) {
            let (threshold, now) = (self.threshold, Instant::now());
            self.evidence.record_broken_connection(
                is_conclusive,
                redialer,
                recheck,
                threshold,
                &self.backoff,
                now,
            );
        }

        pub(in crate::pool::health) fn answer(&mut self, is_newer: bool) {
            self.evidence.record_answer(is_newer, Instant::now());
        }

        pub(in crate::pool::health) fn connect(&mut self) {
            self.evidence.record_connection(&self.backoff, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{testing::Case, *};
    use crate::pool::Access;

    #[tokio::test(start_paused = true)]
    async fn refusals_end_with_a_connection_or_the_answer_to_a_newer_request() {
        for answer in [false, true] {
            let mut case = Case::new();
            case.refuse(true);
            let began = Instant::now();
            assert!(case.evidence.is_suspect());
            assert_eq!(case.evidence.outage(), Some(began));
            tokio::time::advance(Duration::from_secs(1)).await;
            case.refuse(false);
            assert_eq!(
                case.evidence.outage(),
                Some(began),
                "the outage began with the first refusal"
            );
            assert_eq!(case.evidence.access(), Access::Redial, "the redialer is kept");
            case.answer(false);
            assert!(case.evidence.is_suspect(), "the answer to an older request changes nothing");
            if answer {
                case.answer(true);
            } else {
                case.connect();
            }
            assert!(case.evidence.is_clear() && case.evidence.outage().is_none());
            assert_eq!(case.evidence.rechecks.due(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_of_a_connection_begun_before_the_recovery_is_ignored() {
        let mut case = Case::new();
        case.refuse(true);
        let slow = Refusal { began: Instant::now(), redialer: None, text: "timed out".into() };
        tokio::time::advance(Duration::from_millis(500)).await;
        case.connect();
        case.record_refusal(slow);
        assert!(case.evidence.is_clear());
        let slow = Refusal { began: Instant::now(), redialer: None, text: "timed out".into() };
        let began = slow.began;
        tokio::time::advance(Duration::from_millis(500)).await;
        case.record_refusal(slow);
        assert_eq!(case.evidence.outage(), Some(began), "the outage began with the connection");
    }

    #[tokio::test(start_paused = true)]
    async fn two_broken_connections_in_a_row_are_evidence_until_an_answer() {
        let mut case = Case::new();
        case.break_connection(false, None, None);
        assert!(!case.evidence.is_suspect() && !case.evidence.is_clear());
        case.answer(false);
        case.break_connection(false, None, None);
        assert!(!case.evidence.is_suspect(), "an answer resets the count");
        case.break_connection(false, None, None);
        assert!(case.evidence.is_suspect());
        case.connect();
        case.answer(false);
        assert!(case.evidence.is_suspect(), "a connection is no answer: a proxy may accept it");
        case.answer(true);
        assert!(case.evidence.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_ends_the_evidence_of_broken_connections() {
        let mut case = Case::new();
        case.break_connection(true, None, None);
        case.refuse(true);
        case.connect();
        assert!(case.evidence.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_is_found_broken_while_others_are_refused_is_no_evidence() {
        let mut case = Case::new();
        case.refuse(true);
        case.break_connection(true, None, None);
        case.connect();
        assert!(case.evidence.is_clear(), "the process that broke it no longer listens");
        case.refuse(false);
        let recheck = case.evidence.rechecks.begin(true);
        case.break_connection(true, None, recheck);
        case.connect();
        assert!(case.evidence.is_suspect(), "it has accepted the connection of a trial");
    }

    #[tokio::test(start_paused = true)]
    async fn threshold_counts_refusals_in_a_row_and_zero_disables_it() {
        let mut case = Case::new();
        case.threshold = 2;
        case.refuse(true);
        assert!(!case.evidence.is_suspect(), "one of two refusals");
        case.answer(false);
        case.refuse(true);
        assert!(!case.evidence.is_suspect(), "an answer resets the count");
        case.refuse(true);
        assert!(case.evidence.is_suspect());
        let mut case = Case::new();
        case.threshold = 0;
        case.refuse(true);
        case.break_connection(true, None, None);
        assert!(case.evidence.is_clear());
    }

    #[tokio::test(start_paused = true)]
    async fn text_of_the_last_refusal_is_told_until_a_connection_succeeds() {
        let mut case = Case::new();
        assert_eq!(case.evidence.last_error(), None);
        for text in ["refused", "timed out"] {
            let refusal = Refusal { began: Instant::now(), redialer: None, text: text.into() };
            case.record_refusal(refusal);
            assert_eq!(case.evidence.last_error(), Some(text));
        }
        case.connect();
        assert_eq!(case.evidence.last_error(), None);
    }
}
