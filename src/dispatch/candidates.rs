//! The remaining candidates after the first choice has failed.

use std::sync::Arc;

use tokio::time::Instant;

use super::{choose::choose, core::Core, recovery::RecoveryWait};
use crate::{
    error::BoxError,
    id::BackendId,
    outcome::{Reason, Verdict},
    pool::{BackendState, Mode, Tier},
};

/// The candidates of one priority that are left.
pub(super) struct CandidateTier {
    pub(super) states: Vec<Arc<BackendState>>,
    backup: bool,
}

impl CandidateTier {
    fn is_ready(&self) -> bool {
        Tier { states: &self.states, backup: self.backup }.is_ready()
    }
}

impl From<Tier<'_>> for CandidateTier {
    fn from(tier: Tier<'_>) -> Self {
        Self { states: tier.states.to_vec(), backup: tier.backup }
    }
}

/// The remaining candidates of a request.
#[derive(Default)]
pub(super) struct RemainingCandidates {
    pub(super) tiers: Vec<CandidateTier>,
    /// The busy backend to wait for when there are no candidates: the pinned one, or the first choice.
    pub(super) busy_fallback: Option<BusyFallback>,
    /// Whether a primary backend is busy but up: then no backup is tried.
    pub(super) primary_is_busy: bool,
    /// The error of the last candidate that did not take the request.
    pub(super) last_error: Option<(BackendId, BoxError)>,
    /// The tags of the backends that have been tried.
    pub(super) tried: Vec<u64>,
    /// How many of them were suspects.
    pub(super) suspects_tried: usize,
    /// The tag of the only backend that may serve the session.
    pub(super) only_tag: Option<u64>,
    /// The suspects that are waited for: their tags, and the number of the first recheck that counts.
    pub(super) awaited_rechecks: Vec<(u64, u64)>,
    /// Until when the request waits for redials instead of trying a suspect itself.
    pub(super) redial_grace_end: Option<Instant>,
    pub(super) recovery_wait: Option<RecoveryWait>,
    /// No suspects are tried.
    pub(super) skip_suspects: bool,
}

/// A busy backend, with the decision for when it serves the request.
pub(super) struct BusyFallback {
    pub(super) state: Arc<BackendState>,
    pub(super) verdict: Verdict,
    pub(super) reason: Option<Reason>,
}

impl RemainingCandidates {
    pub(super) fn new<S>(core: &Core<S>) -> Self {
        let snapshot = core.backends.pool().load();
        let mut tiers: Vec<CandidateTier> = snapshot.tiers().map(Into::into).collect();
        if core.options.info.replicas > 0 {
            merge_zones(&mut tiers);
        }
        if core.options.panic && snapshot.all_unavailable() {
            let states = snapshot.index().states().iter();
            let states = states
                .filter(|state| state.mode() == Mode::Active && state.weight() > 0)
                .cloned()
                .collect();
            tiers.push(CandidateTier { states, backup: false });
        }
        // The next tier is the last one.
        tiers.reverse();
        Self { tiers, ..Self::default() }
    }

    /// Only the backend with this tag may serve the session.
    pub(super) fn only(tag: u64) -> Self {
        Self { only_tag: Some(tag), ..Self::default() }
    }

    /// Excludes the backend with this tag from further attempts.
    pub(super) fn mark_tried(&mut self, tag: u64) {
        self.tried.push(tag);
        for tier in &mut self.tiers {
            tier.states.retain(|state| state.tag != tag);
        }
    }

    /// Removes all candidates, as no time is left.
    pub(super) fn clear(&mut self) {
        self.tiers.clear();
        self.skip_suspects = true;
    }

    /// Removes all candidates but the one with this tag, and all suspects.
    pub(super) fn keep_only(&mut self, tag: u64) {
        for tier in &mut self.tiers {
            tier.states.retain(|state| state.tag == tag);
        }
        self.busy_fallback = self.busy_fallback.take().filter(|busy| busy.state.tag == tag);
        self.skip_suspects = true;
    }

    /// Removes and returns the next candidate for a session with this key.
    pub(super) fn take_next<S>(
        &mut self,
        core: &Core<S>,
        key: Option<u64>,
    ) -> Option<Arc<BackendState>> {
        while let Some(tier) = self.tiers.last_mut() {
            if tier.states.is_empty() {
                self.tiers.pop();
                continue;
            }
            // Wait for the busy primary backend instead.
            if tier.backup && self.primary_is_busy {
                self.tiers.pop();
                continue;
            }
            let chosen = choose(core, key, &tier.states);
            return Some(tier.states.remove(chosen));
        }
        None
    }
}

/// Merges the tiers of the zones, so that only the rank decides.
fn merge_zones(tiers: &mut Vec<CandidateTier>) {
    let mut merged: Vec<CandidateTier> = Vec::new();
    for tier in tiers.drain(..) {
        match merged.last_mut() {
            Some(last) if last.backup == tier.backup && last.is_ready() && tier.is_ready() => {
                last.states.extend(tier.states);
            }
            _ => merged.push(tier),
        }
    }
    *tiers = merged;
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::{
        Backends, StickyLayer,
        affinity::Cookie,
        dispatch::{Dispatch, NextStep},
        pool::Readiness,
        strategy::testing::states,
    };

    type Service = tower::util::BoxCloneSyncService<Request<()>, (), std::io::Error>;

    fn service() -> Service {
        Service::new(tower::service_fn(|_| async { Ok(()) }))
    }

    fn core() -> Arc<Core<Service>> {
        let backends = ["a", "b"].map(|id| (id, service()));
        let layer = StickyLayer::new(Backends::from_iter(backends), Cookie::plain("sid"));
        Arc::new(layer.into_service().core().clone())
    }

    fn backend(core: &Core<Service>, id: &str) -> Arc<BackendState> {
        let snapshot = core.backends.pool().load();
        let position = snapshot.index().position_of(id.as_bytes()).unwrap();
        snapshot.index().states()[position].clone()
    }

    fn tried(next: NextStep<Service>) -> String {
        match next {
            NextStep::Try(attempt) => attempt.state.id.to_string(),
            NextStep::Fail(error) => panic!("{error}"),
            _ => panic!("another step"),
        }
    }

    #[test]
    fn suspect_that_recovers_while_its_session_leaves_is_tried() {
        let core = core();
        let (a, b) = (backend(&core, "a"), backend(&core, "b"));
        let mut dispatch = Dispatch::new(core, false, None);
        dispatch.set_expected_backend(a.tag);
        // It was suspect when its availability was read, and is ready since.
        let mut next = tried(dispatch.leave_suspect(&a));
        if next == "b" {
            next = tried(dispatch.not_sent(&b, Reason::ConnectFailed, "refused".into()));
        }
        assert_eq!(next, "a");
        assert!(dispatch.decision.is_pinned() && dispatch.decision.reason().is_none());
    }

    #[test]
    fn the_zones_of_ready_backends_are_merged_and_busy_ones_and_backups_follow() {
        let states = states(&[1; 7]);
        for busy in [3, 6] {
            states[busy].update(|sources| sources.readiness = Readiness::Busy);
        }
        let tier = |positions: &[usize], backup| {
            let states = positions.iter().map(|position| states[*position].clone()).collect();
            CandidateTier { states, backup }
        };
        let mut tiers = vec![
            tier(&[0], false),
            tier(&[1, 2], false),
            tier(&[3], false),
            tier(&[4], true),
            tier(&[5], true),
            tier(&[6], true),
        ];
        merge_zones(&mut tiers);
        let ids = |tier: &CandidateTier| {
            tier.states.iter().map(|state| state.id.to_string()).collect::<Vec<_>>()
        };
        let merged: Vec<_> = tiers.iter().map(|tier| (ids(tier).concat(), tier.backup)).collect();
        let expected = [("b0b1b2", false), ("b3", false), ("b4b5", true), ("b6", true)];
        assert_eq!(merged, expected.map(|(ids, backup)| (ids.to_owned(), backup)));
    }
}
