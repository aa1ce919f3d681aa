//! The candidates that are left once the first choice did not work.

use std::sync::Arc;

use tokio::time::Instant;

use super::{choose::choose, core::Core, recovery::Awaiting};
use crate::{
    error::BoxError,
    id::BackendId,
    outcome::{Reason, Verdict},
    pool::{BackendState, Mode, Tier},
};

/// The candidates that are left.
#[derive(Default)]
pub(super) struct RemainingCandidates {
    pub(super) tiers: Vec<Tier>,
    /// The one to wait for when all others have been asked: the pinned one, or the first choice.
    pub(super) parked: Option<BusyFallback>,
    /// Whether a primary backend is up, and only busy: then no backup is asked.
    pub(super) primary_is_busy: bool,
    /// What the last candidate said that did not take the request.
    pub(super) last: Option<(BackendId, BoxError)>,
    /// Those that have been asked.
    pub(super) tried: Vec<u64>,
    /// How many of them were suspects.
    pub(super) suspects: usize,
    /// The one backend that may serve the session, if no other may.
    pub(super) only: Option<u64>,
    /// The number of the look that tells how a suspect is, for each that is waited for.
    pub(super) awaited_looks: Vec<(u64, u64)>,
    /// Until when redials are waited for before the request itself tries a suspect.
    pub(super) head_start: Option<Instant>,
    pub(super) awaiting: Option<Awaiting>,
    /// No time is left.
    pub(super) is_over: bool,
}

pub(super) struct BusyFallback {
    pub(super) state: Arc<BackendState>,
    pub(super) verdict: Verdict,
    pub(super) reason: Option<Reason>,
}

impl RemainingCandidates {
    pub(super) fn new<S>(core: &Core<S>) -> Self {
        let snapshot = core.backends.pool().load();
        let mut tiers = snapshot.tiers.to_vec();
        if core.options.session_info.replicas > 0 {
            merge_zones(&mut tiers);
        }
        if core.options.panic && snapshot.all_unavailable() {
            let states = snapshot.index().states().iter();
            let states = states
                .filter(|state| state.mode() == Mode::Active && state.weight() > 0)
                .cloned()
                .collect();
            tiers.push(Tier { states, backup: false });
        }
        // The next one is at the end.
        tiers.reverse();
        Self { tiers, ..Self::default() }
    }

    /// Only the backend with this tag may serve the session.
    pub(super) fn only(tag: u64) -> Self {
        Self { only: Some(tag), ..Self::default() }
    }

    /// It has been asked, and is not asked again.
    pub(super) fn mark_tried(&mut self, tag: u64) {
        self.tried.push(tag);
        for tier in &mut self.tiers {
            tier.states.retain(|state| state.tag != tag);
        }
    }

    /// No time is left: nobody else is asked.
    pub(super) fn give_up(&mut self) {
        self.tiers.clear();
        self.is_over = true;
    }

    /// Of those that are left only the one with this tag may be asked, and no suspect.
    pub(super) fn keep_only(&mut self, tag: u64) {
        for tier in &mut self.tiers {
            tier.states.retain(|state| state.tag == tag);
        }
        self.parked = self.parked.take().filter(|parked| parked.state.tag == tag);
        self.is_over = true;
    }

    /// The next candidate, for a session with this key.
    pub(super) fn take<S>(
        &mut self,
        core: &Core<S>,
        key: Option<u64>,
    ) -> Option<Arc<BackendState>> {
        while let Some(tier) = self.tiers.last_mut() {
            if tier.states.is_empty() {
                self.tiers.pop();
                continue;
            }
            // A primary backend that is busy is up, and is waited for.
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

/// Makes one tier of the ready backends of all zones: the rank alone decides.
fn merge_zones(tiers: &mut Vec<Tier>) {
    let mut merged: Vec<Tier> = Vec::new();
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
