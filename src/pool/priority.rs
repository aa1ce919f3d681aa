//! Who is asked first to take a new session, and who only after them.

use std::sync::Arc;

use super::{Availability, BackendState};

/// Backends that are equally good for a new session.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    pub(crate) states: Vec<Arc<BackendState>>,
    /// Whether they are backups: asked when no primary backend is up.
    pub(crate) backup: bool,
}

impl Tier {
    /// Whether its backends are ready, and not only up.
    pub(crate) fn is_ready(&self) -> bool {
        self.states.first().is_some_and(|state| state.availability() == Availability::Ready)
    }
}

/// The backends of `states` that may take a new session, in the order in which they are asked: ready
/// ones of the own zone, ready ones elsewhere, busy ones; all primaries before any backup. Suspects are
/// in none, and no tier is empty.
pub(super) fn tiers_of(states: &[Arc<BackendState>], own_zone: Option<&str>) -> Box<[Tier]> {
    let mut tiers: [Tier; 6] = std::array::from_fn(|i| Tier { states: Vec::new(), backup: i >= 3 });
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
