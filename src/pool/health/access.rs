//! How a suspect backend may be tried: by any request, by a trial request, or by a redial.

use std::time::Duration;

use tokio::time::Instant;

use super::Evidence;
use crate::error::Redialer;

/// How a suspect may be tried when no better backend is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// By any request: the backend accepts connections and answers.
    Open,
    /// By one request at a time, to see whether the backend answers.
    Trial,
    /// By no request before a redial has succeeded, as a redial costs no request anything.
    Redial,
}

impl Evidence {
    /// What opens a connection in the background, if that would tell something about the backend.
    pub(crate) fn redialer(&self) -> Option<&Redialer> {
        let is_useful = self.is_unreachable || (self.is_broken && !self.accepts_connections);
        self.redialer.as_ref().filter(|_| is_useful)
    }

    /// Whether a redial will tell soon if a backend whose connections broke still listens.
    pub(crate) fn awaits_redial(&self) -> bool {
        self.is_broken && !self.is_unreachable && self.redialer().is_some()
    }

    pub(crate) fn access(&self) -> Access {
        match (self.is_unreachable, self.is_broken) {
            (false, false) => Access::Open,
            _ if self.redialer().is_some() => Access::Redial,
            _ => Access::Trial,
        }
    }

    /// Whether a request should try the suspect now although other backends are available: its recheck
    /// is due, and only a request can end the evidence.
    ///
    /// A connection that breaks may lose the request, so repeatable requests are preferred. Requests of
    /// sessions that are pinned to the backend do not wait for the first recheck, as they would have to
    /// move instead.
    pub(crate) fn wants_trial(
        &self,
        longest: Duration,
        now: Instant,
        repeatable: bool,
        is_pinned: bool,
    ) -> bool {
        if self.rechecks.is_running() {
            return false;
        }
        match self.access() {
            Access::Open => self.ejection.is_on_trial(),
            Access::Redial => false,
            Access::Trial if self.is_unreachable => self.rechecks.is_due(now),
            Access::Trial if repeatable => {
                self.rechecks.is_due(now) || (is_pinned && !self.rechecks.has_failed())
            }
            Access::Trial => self.rechecks.due().is_some_and(|due| due + longest <= now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::health::evidence::testing::{Case, redialer};

    fn wants(case: &Case, repeatable: bool, is_pinned: bool) -> bool {
        case.evidence.wants_trial(case.backoff.longest, Instant::now(), repeatable, is_pinned)
    }

    #[tokio::test(start_paused = true)]
    async fn broken_backend_is_redialed_before_a_request_tries_it() {
        let mut case = Case::new();
        let now = Instant::now();
        case.break_connection(true, Some(redialer()), None);
        assert!(case.evidence.awaits_redial() && !wants(&case, true, true), "the redial is first");
        assert_eq!(case.evidence.rechecks.due(), Some(now + Duration::from_millis(10)));
        tokio::time::advance(Duration::from_millis(10)).await;
        case.connect();
        assert!(case.evidence.is_suspect() && !case.evidence.awaits_redial());
        assert_eq!(case.evidence.access(), Access::Trial);
        assert!(wants(&case, true, true), "pinned sessions try it immediately");
        assert!(!wants(&case, true, false), "other sessions wait for the recheck");
        tokio::time::advance(Duration::from_millis(90)).await;
        assert!(wants(&case, true, false));
        let recheck = case.evidence.rechecks.begin(true);
        case.break_connection(true, None, recheck);
        case.evidence.rechecks.end(recheck.unwrap());
        assert_eq!(case.evidence.access(), Access::Redial, "after a failed trial it is redialed");
        assert!(case.evidence.rechecks.due() > Some(Instant::now() + Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn trial_after_refusals_waits_for_the_recheck() {
        let mut case = Case::new();
        case.refuse(false);
        assert!(!wants(&case, true, true) && !wants(&case, false, false), "not within 100 ms");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(wants(&case, false, false), "a refused request can be sent elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn trial_after_broken_connections_prefers_repeatable_requests() {
        let mut case = Case::new();
        case.break_connection(true, None, None);
        assert!(wants(&case, true, true), "pinned sessions try it immediately");
        assert!(!wants(&case, true, false), "other sessions wait for the recheck");
        assert!(!wants(&case, false, true), "the request cannot be repeated");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(wants(&case, true, false) && !wants(&case, false, false));
        let recheck = case.evidence.rechecks.begin(true);
        assert!(!wants(&case, true, true), "one trial at a time");
        case.break_connection(true, None, recheck);
        case.evidence.rechecks.end(recheck.unwrap());
        assert!(!wants(&case, true, true), "a failed trial delays the next one");
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(wants(&case, true, false) && !wants(&case, false, false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(wants(&case, false, false), "no repeatable request came within the longest pause");
    }

    #[tokio::test(start_paused = true)]
    async fn only_broken_connections_await_a_redial() {
        let mut case = Case::new();
        case.break_connection(true, None, None);
        assert!(!case.evidence.awaits_redial(), "nothing can redial");
        let mut case = Case::new();
        case.refuse(true);
        assert!(!case.evidence.awaits_redial(), "it is known that it does not listen");
        case.break_connection(true, Some(redialer()), None);
        assert!(!case.evidence.awaits_redial(), "a later break does not show that it listens");
    }

    #[tokio::test(start_paused = true)]
    async fn trial_without_an_answer_delays_the_next_one() {
        let mut case = Case::new();
        case.break_connection(true, None, None);
        case.evidence.record_failed_recheck(None, &case.backoff, Instant::now());
        assert!(wants(&case, true, true), "a request that was no trial changes nothing");
        tokio::time::advance(Duration::from_millis(100)).await;
        let recheck = case.evidence.rechecks.begin(true);
        case.evidence.record_failed_recheck(recheck, &case.backoff, Instant::now());
        case.evidence.rechecks.end(recheck.unwrap());
        assert!(!wants(&case, true, true) && !wants(&case, true, false));
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(wants(&case, true, false));
    }
}
