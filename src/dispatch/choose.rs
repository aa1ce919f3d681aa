//! Chooses the backend of a session without one: the first in rank for its key, or the strategy's choice.

use std::sync::Arc;

use super::core::Core;
use crate::{
    pool::BackendState,
    strategy::{Candidates, rendezvous},
};

/// The position of the first backend in rank for `key`, or of the strategy's choice. `list` must not be
/// empty.
pub(super) fn choose<S>(core: &Core<S>, key: Option<u64>, list: &[Arc<BackendState>]) -> usize {
    let ranked = key.and_then(|key| rendezvous(key, list));
    let chosen = ranked.unwrap_or_else(|| match list.iter().any(|state| state.is_full()) {
        false => core.strategy.choose(&Candidates::new(list)),
        true => choose_with_room(core, list),
    });
    chosen.min(list.len() - 1)
}

/// The strategy's choice among the backends below their limits, if there are any. So the strategy
/// distributes the shares of full backends to all others.
#[cold]
fn choose_with_room<S>(core: &Core<S>, list: &[Arc<BackendState>]) -> usize {
    let with_room = list.iter().enumerate().filter(|(_, state)| !state.is_full());
    let (positions, states): (Vec<_>, Vec<_>) =
        with_room.map(|(position, state)| (position, state.clone())).unzip();
    if states.is_empty() {
        return core.strategy.choose(&Candidates::new(list));
    }
    let chosen = core.strategy.choose(&Candidates::new(&states));
    positions[chosen.min(positions.len() - 1)]
}
