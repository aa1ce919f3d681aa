//! Evidence: what requests, probes and redials have met at a backend.
//!
//! It makes a backend *suspect*: others are preferred, and nobody is refused because of it. Each kind
//! of evidence ends by its like: refused connections by a connection, broken ones by an answer, failing
//! answers with time and a good answer.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Ejection,
    looks::{Backoff, LookId, Looks},
};
use crate::error::{Redialer, Refusal};

/// So many connections in a row that break before an answer are evidence: the first may have been
/// closed while it was idle.
const BREAKS: u32 = 2;

/// What is held against one backend.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Connections in a row that did not come about.
    refusals: u32,
    /// What the last of them said.
    said: Option<Arc<str>>,
    /// Connections in a row that ended before an answer.
    breaks: u32,
    unreachable: bool,
    broken: bool,
    /// Whether it has accepted a connection since it was found to be broken.
    accepts: bool,
    redialer: Option<Redialer>,
    /// Since when connections have been refused.
    outage: Option<Instant>,
    /// When a connection or an answer ended the evidence for the last time.
    cleared: Option<Instant>,
    failed: Option<Instant>,
    pub(crate) ejection: Ejection,
    pub(crate) looks: Looks,
}

/// How a request may try a suspect when nobody better is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Like any other backend: it takes connections, and its answers come.
    Open,
    /// One request at a time, to see whether it answers.
    Trial,
    /// Not at all before a redial has succeeded, which costs no request anything.
    Redial,
}

impl Evidence {
    pub(crate) fn is_suspect(&self) -> bool {
        self.unreachable || self.broken || self.ejection.is_out()
    }

    /// Whether a good answer would change nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        self.refusals == 0 && self.breaks == 0 && !self.is_suspect() && self.ejection.is_quiet()
    }

    /// Since when connections have been refused, without one that was not.
    pub(crate) fn outage(&self) -> Option<Instant> {
        self.outage
    }

    /// The last failure of a connection.
    pub(crate) fn failed(&self) -> Option<Instant> {
        self.failed
    }

    /// What the last refused connection said.
    pub(crate) fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// What opens a connection in the background, if that tells something.
    pub(crate) fn redialer(&self) -> Option<&Redialer> {
        let tells = self.unreachable || (self.broken && !self.accepts);
        self.redialer.as_ref().filter(|_| tells)
    }

    /// Whether a redial is to tell soon whether a backend whose connections broke has ended.
    pub(crate) fn is_in_question(&self) -> bool {
        self.broken && !self.unreachable && self.redialer().is_some()
    }

    pub(crate) fn access(&self) -> Access {
        match (self.unreachable, self.broken) {
            (false, false) => Access::Open,
            _ if self.redialer().is_some() => Access::Redial,
            _ => Access::Trial,
        }
    }

    /// Whether a request should try the suspect now, though others are there: its look is due, and a
    /// request is what can end the evidence.
    ///
    /// A connection that breaks may take the request with it, so requests that can be repeated come
    /// first. Those of the sessions that are `at_home` there need not wait for the first look: they
    /// would have to move instead.
    pub(crate) fn wants_trial(
        &self,
        longest: Duration,
        now: Instant,
        repeatable: bool,
        at_home: bool,
    ) -> bool {
        if self.looks.is_under_way() {
            return false;
        }
        match self.access() {
            Access::Open => self.ejection.is_on_trial(),
            Access::Redial => false,
            Access::Trial if self.unreachable => self.looks.is_due(now),
            Access::Trial if repeatable => {
                self.looks.is_due(now) || (at_home && !self.looks.has_failed())
            }
            Access::Trial => self.looks.due().is_some_and(|due| due + longest <= now),
        }
    }

    /// A connection did not come about. `look`: the look that found that out.
    pub(crate) fn refused(
        &mut self,
        refusal: Refusal,
        look: Option<LookId>,
        threshold: u32,
        backoff: &Backoff,
        now: Instant,
    ) {
        // One that was begun before the backend was well again is no news.
        let late = self.cleared.is_some_and(|cleared| refusal.began < cleared);
        if threshold == 0 || late {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        self.outage.get_or_insert(refusal.began);
        self.failed = Some(now);
        self.said = Some(refusal.text);
        self.redialer = refusal.redialer.or(self.redialer.take());
        if self.refusals >= threshold {
            self.unreachable = true;
            // What broke its connections has ended, as it does not even listen any more. Whatever
            // listens next has broken nothing yet.
            (self.broken, self.breaks, self.accepts) = (false, 0, false);
        }
        self.looked(look, backoff, now);
    }

    /// A connection ended before any byte of an answer. `surely`: a fresh one did so, too.
    pub(crate) fn broke(
        &mut self,
        surely: bool,
        redialer: Option<Redialer>,
        look: Option<LookId>,
        threshold: u32,
        backoff: &Backoff,
        now: Instant,
    ) {
        if threshold == 0 {
            return;
        }
        self.breaks = self.breaks.saturating_add(if surely { BREAKS } else { 1 });
        self.failed = Some(now);
        self.redialer = redialer.or(self.redialer.take());
        let newly = self.breaks >= BREAKS && !self.broken;
        self.broken |= newly;
        self.accepts &= look.is_none();
        self.looked(look, backoff, now);
        if newly && self.is_in_question() {
            self.looks.plan_quick(now);
        }
    }

    /// A request that tried the backend got no answer on a connection that stood.
    pub(crate) fn look_failed(&mut self, look: Option<LookId>, backoff: &Backoff, now: Instant) {
        if look.is_some() {
            self.looked(look, backoff, now);
        }
    }

    /// Plans the next look, after one that failed or after other evidence.
    fn looked(&mut self, look: Option<LookId>, backoff: &Backoff, now: Instant) {
        if !(self.unreachable || self.broken) {
            return;
        }
        match look {
            Some(look) => self.looks.fail(look, backoff, now),
            None => self.looks.plan(backoff, now),
        }
    }

    /// A redial succeeded.
    pub(crate) fn connected(&mut self, backoff: &Backoff, now: Instant) {
        self.reached(now);
        if self.broken {
            // A request is to tell whether it answers.
            self.accepts = true;
            self.looks.postpone(backoff, self.failed.unwrap_or(now));
        }
    }

    fn reached(&mut self, now: Instant) {
        (self.refusals, self.unreachable) = (0, false);
        (self.outage, self.said) = (None, None);
        self.cleared = Some(now);
        if !self.broken {
            self.redialer = None;
            self.looks.rest();
        }
    }

    /// The backend answered, however well. `newly`: a request that was sent since the evidence was found;
    /// the answers of others may have been on their way since before.
    pub(crate) fn heard(&mut self, newly: bool, now: Instant) {
        if newly {
            (self.broken, self.breaks, self.accepts) = (false, 0, false);
            self.reached(now);
            return;
        }
        if !self.unreachable {
            (self.refusals, self.outage, self.said) = (0, None, None);
        }
        if !self.broken {
            self.breaks = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Case {
        evidence: Evidence,
        threshold: u32,
        backoff: Backoff,
    }

    impl Case {
        fn new() -> Self {
            let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
            let backoff = Backoff { first, longest, seed: 1 };
            Self { evidence: Evidence::default(), threshold: 1, backoff }
        }

        fn refuse(&mut self, redialer: bool, look: Option<LookId>) {
            let redialer =
                redialer.then(|| Redialer::new(|| async { Ok::<_, std::io::Error>(()) }));
            let refusal = Refusal { began: Instant::now(), redialer, text: "refused".into() };
            self.evidence.refused(refusal, look, self.threshold, &self.backoff, Instant::now());
        }

        fn break_off(&mut self, surely: bool) {
            self.evidence.broke(surely, None, None, self.threshold, &self.backoff, Instant::now());
        }

        fn wants(&self, repeatable: bool, at_home: bool) -> bool {
            self.evidence.wants_trial(self.backoff.longest, Instant::now(), repeatable, at_home)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_by_a_connection_or_by_the_answer_to_a_newer_request() {
        for answer in [false, true] {
            let mut case = Case::new();
            case.refuse(true, None);
            let began = Instant::now();
            assert!(case.evidence.is_suspect());
            assert_eq!(case.evidence.outage(), Some(began));
            tokio::time::advance(Duration::from_secs(1)).await;
            case.refuse(false, None);
            assert_eq!(case.evidence.outage(), Some(began), "one outage, from its first refusal");
            assert_eq!(case.evidence.access(), Access::Redial, "the way to redial is kept");
            case.evidence.heard(false, Instant::now());
            assert!(case.evidence.is_suspect(), "an older request was answered");
            if answer {
                case.evidence.heard(true, Instant::now());
            } else {
                case.evidence.connected(&case.backoff, Instant::now());
            }
            assert!(case.evidence.is_quiet() && case.evidence.outage().is_none());
            assert_eq!(case.evidence.looks.due(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_was_begun_before_the_return_is_no_news() {
        let mut case = Case::new();
        case.refuse(true, None);
        let slow = Refusal { began: Instant::now(), redialer: None, text: "timed out".into() };
        tokio::time::advance(Duration::from_millis(500)).await;
        case.evidence.connected(&case.backoff, Instant::now());
        case.evidence.refused(slow, None, case.threshold, &case.backoff, Instant::now());
        assert!(case.evidence.is_quiet());
        // An outage is counted from when the connection was begun.
        let slow = Refusal { began: Instant::now(), redialer: None, text: "timed out".into() };
        let began = slow.began;
        tokio::time::advance(Duration::from_millis(500)).await;
        case.evidence.refused(slow, None, case.threshold, &case.backoff, Instant::now());
        assert_eq!(case.evidence.outage(), Some(began));
    }

    #[tokio::test(start_paused = true)]
    async fn two_breaks_in_a_row_are_evidence_that_only_an_answer_ends() {
        let mut case = Case::new();
        case.break_off(false);
        assert!(!case.evidence.is_suspect() && !case.evidence.is_quiet());
        case.evidence.heard(false, Instant::now());
        case.break_off(false);
        assert!(!case.evidence.is_suspect(), "an answer begins the count anew");
        case.break_off(false);
        assert!(case.evidence.is_suspect());
        case.evidence.connected(&case.backoff, Instant::now());
        case.evidence.heard(false, Instant::now());
        assert!(case.evidence.is_suspect(), "a proxy accepts for the dead");
        case.evidence.heard(true, Instant::now());
        assert!(case.evidence.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn a_redial_tells_whether_a_broken_backend_has_ended() {
        let mut case = Case::new();
        let redialer = Redialer::new(|| async { Ok::<_, std::io::Error>(()) });
        let now = Instant::now();
        case.evidence.broke(true, Some(redialer), None, case.threshold, &case.backoff, now);
        assert!(case.evidence.is_in_question() && !case.wants(true, true), "first a redial");
        assert_eq!(case.evidence.looks.due(), Some(now + Duration::from_millis(10)));
        tokio::time::advance(Duration::from_millis(10)).await;
        case.evidence.connected(&case.backoff, Instant::now());
        assert!(case.evidence.is_suspect() && !case.evidence.is_in_question());
        assert_eq!(case.evidence.access(), Access::Trial);
        assert!(case.wants(true, true) && !case.wants(true, false), "its own sessions at once");
        tokio::time::advance(Duration::from_millis(90)).await;
        assert!(case.wants(true, false));
        let look = case.evidence.looks.begin(true);
        let now = Instant::now();
        case.evidence.broke(true, None, look, case.threshold, &case.backoff, now);
        case.evidence.looks.end(look.unwrap());
        assert_eq!(case.evidence.access(), Access::Redial, "and so on, less often");
        assert!(case.evidence.looks.due() > Some(now + Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_refuses_has_ended_and_broke_nothing_that_comes_next() {
        let mut case = Case::new();
        case.break_off(true);
        case.refuse(true, None);
        case.evidence.connected(&case.backoff, Instant::now());
        assert!(case.evidence.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn trials_wait_for_their_time_and_risk_no_request_that_cannot_be_repeated() {
        let mut case = Case::new();
        case.refuse(false, None);
        assert!(!case.wants(true, true) && !case.wants(false, false), "100 ms first");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(case.wants(false, false), "a refused request comes back whole");

        let mut case = Case::new();
        case.break_off(true);
        assert!(case.wants(true, true) && !case.wants(true, false), "its own sessions at once");
        assert!(!case.wants(false, true));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(case.wants(true, false) && !case.wants(false, false));
        let look = case.evidence.looks.begin(true);
        assert!(!case.wants(true, true), "one at a time");
        case.evidence.broke(true, None, look, case.threshold, &case.backoff, Instant::now());
        case.evidence.looks.end(look.unwrap());
        assert!(!case.wants(true, true), "longer after a trial that failed");
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(case.wants(true, false) && !case.wants(false, false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(case.wants(false, false), "nobody else came");
    }

    #[tokio::test(start_paused = true)]
    async fn the_threshold_counts_refusals_in_a_row_and_zero_is_off() {
        let mut case = Case::new();
        case.threshold = 2;
        case.refuse(true, None);
        assert!(!case.evidence.is_suspect(), "one of two");
        case.evidence.heard(false, Instant::now());
        case.refuse(true, None);
        assert!(!case.evidence.is_suspect(), "an answer begins the count anew");
        case.refuse(true, None);
        assert!(case.evidence.is_suspect());
        let mut case = Case::new();
        case.threshold = 0;
        case.refuse(true, None);
        case.break_off(true);
        assert!(case.evidence.is_quiet());
    }
}
