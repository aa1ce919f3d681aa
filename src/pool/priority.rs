//! The order in which backends are considered for a new session.

use std::sync::Arc;

use super::{Availability, BackendState};

/// Backends with the same priority for a new session.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    pub(crate) states: Vec<Arc<BackendState>>,
    /// Whether they are backups, which are used when no primary backend is up.
    pub(crate) backup: bool,
}

impl Tier {
    /// Whether its backends are ready and not busy.
    pub(crate) fn is_ready(&self) -> bool {
        self.states.first().is_some_and(|state| state.availability() == Availability::Ready)
    }
}

/// The backends of `states` that may take a new session, by priority: ready ones in the own zone, ready
/// ones in other zones, busy ones; all primaries before any backup. Suspects are left out, and no tier
/// is empty.
pub(super) fn tiers_of(states: &[Arc<BackendState>], own_zone: Option<&str>) -> Box<[Tier]> {
    let mut tiers: [Tier; 6] = std::array::from_fn(|i| Tier { states: Vec::new(), backup: i >= 3 });
    // Most backends are ready, and a vector of thousands that grows is copied often.
    tiers[0].states.reserve_exact(states.len());
    for state in states {
        if !state.may_take_new_sessions() {
            continue;
        }
        let rank = match state.availability() {
            Availability::Ready if own_zone.is_none() || state.is_in(own_zone) => 0,
            Availability::Ready => 1,
            Availability::Busy => 2,
            Availability::Suspect | Availability::Down => continue,
        };
        tiers[rank + if state.is_backup() { 3 } else { 0 }].states.push(state.clone());
    }
    tiers.into_iter().filter(|tier| !tier.states.is_empty()).collect()
}
