//! What follows when a backend does not take the request: who is asked next, and what becomes of the
//! pin.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Attempt, Dispatch, Next, Patience, Trial,
    candidates::{Parked, Remaining},
};
use crate::{
    BoxError, Busy, Failover, Reason, StickyError, Verdict,
    affinity::Head,
    backend::{BackendState, Gate, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// The pinned backend cannot serve: the policy decides.
    pub(super) fn unavailable(&mut self, state: &Arc<BackendState>, reason: Reason) -> Next<S> {
        self.reason = Some(reason);
        match self.core.options.unavailable {
            Failover::Reject => Next::Fail(StickyError::Unavailable { backend: state.id.clone() }),
            Failover::Repin => self.fail_over(Verdict::Moved, state.tag),
            Failover::Borrow => self.fail_over(Verdict::Borrowed, state.tag),
        }
    }

    fn fail_over(&mut self, verdict: Verdict, from: u64) -> Next<S> {
        self.verdict = verdict;
        self.next(Some(from))
    }

    /// The next candidate after `tried`, or the end.
    pub(super) fn next(&mut self, tried: Option<u64>) -> Next<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let mut remaining =
            self.remaining.take().unwrap_or_else(|| Box::new(Remaining::new(&core)));
        if let Some(tag) = tried {
            remaining.strike(tag);
        }
        let mut next = None;
        while let Some(state) = remaining.take(&core, self.pin) {
            next = self.attempt(&snapshot, &state);
            if next.is_some() {
                break;
            }
        }
        let next = match (next, remaining.parked.take()) {
            (Some(attempt), parked) => {
                remaining.parked = parked;
                Next::Try(attempt)
            }
            (None, Some(parked)) => self.wait_for(&snapshot, parked),
            (None, None) => match remaining.last.take() {
                _ if self.has_inner && core.local.is_none() => Next::LastResort,
                Some((backend, source)) => Next::Fail(StickyError::NotSent { backend, source }),
                None => Next::Fail(StickyError::NoBackend),
            },
        };
        self.remaining = Some(remaining);
        next
    }

    /// All have been asked: back to the one that was busy, now with all the time that is left.
    fn wait_for(&mut self, snapshot: &Snapshot<S>, parked: Parked) -> Next<S> {
        let Some(attempt) = self.attempt(snapshot, &parked.state) else {
            return Next::Fail(StickyError::Busy { backend: parked.state.id.clone() });
        };
        self.verdict = parked.verdict;
        self.reason = parked.reason;
        Next::Try(Attempt { patience: Patience::Last, ..attempt })
    }

    pub(super) fn attempt(
        &self,
        snapshot: &Snapshot<S>,
        state: &Arc<BackendState>,
    ) -> Option<Attempt<S>> {
        let trial = match state.gate() {
            Gate::Trial => Some(Trial::take(state)?),
            _ => None,
        };
        let position = snapshot.index().position(state.tag)?;
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return None;
        }
        Some(Attempt { state: state.clone(), service, trial, patience: Patience::None })
    }

    /// The backend did not become ready within the time that it had.
    pub(crate) fn busy(
        &mut self,
        state: &Arc<BackendState>,
        patience: Patience,
        head: &Head<'_>,
    ) -> Next<S> {
        self.https = head.is_https();
        let parked = Parked { state: state.clone(), verdict: self.verdict, reason: self.reason };
        match patience {
            Patience::None => self.park(parked, Some(state.tag)),
            Patience::Pinned => {
                let Busy { then, .. } = self.core.options.busy;
                self.reason = Some(Reason::Busy);
                match then {
                    Failover::Reject => {
                        return Next::Fail(StickyError::Busy { backend: state.id.clone() });
                    }
                    Failover::Repin => self.verdict = Verdict::Moved,
                    Failover::Borrow => self.verdict = Verdict::Borrowed,
                }
                self.park(parked, Some(state.tag))
            }
            Patience::Last => {
                self.reason = Some(Reason::Busy);
                if self.has_inner && self.core.local.is_none() {
                    return Next::LastResort;
                }
                Next::Fail(StickyError::Busy { backend: state.id.clone() })
            }
        }
    }

    fn remaining(&mut self) -> &mut Remaining {
        self.remaining.get_or_insert_with(|| Box::new(Remaining::new(&self.core)))
    }

    fn park(&mut self, parked: Parked, tried: Option<u64>) -> Next<S> {
        self.remaining().parked.get_or_insert(parked);
        self.next(tried)
    }

    /// The backend could not take the request, which is here again.
    pub(crate) fn not_sent(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        source: BoxError,
        head: &Head<'_>,
    ) -> Next<S> {
        tracing::debug!(backend = %state.id, %reason, error = %source, "the request was not taken");
        self.https = head.is_https();
        let from_pin = self.verdict == Verdict::Pinned;
        if from_pin || self.reason.is_none() {
            self.reason = Some(reason);
        }
        if from_pin && self.core.options.unavailable == Failover::Reject {
            return Next::Fail(StickyError::Unavailable { backend: state.id.clone() });
        }
        if from_pin {
            self.verdict = match self.core.options.unavailable {
                Failover::Borrow => Verdict::Borrowed,
                _ => Verdict::Moved,
            };
        }
        let in_time = Instant::now() < self.whole_deadline();
        let remaining = self.remaining();
        remaining.last = Some((state.id.clone(), source));
        if !in_time {
            remaining.give_up();
        }
        self.next(Some(state.tag))
    }

    /// Whether a request that may have been executed goes to another backend; at most once.
    pub(crate) fn may_retry(&mut self) -> bool {
        self.core.options.retry_idempotent && !std::mem::replace(&mut self.retried, true)
    }
}
