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
    let any_full = || core.backends.pool().has_limits() && list.iter().any(|state| state.is_full());
    let chosen = ranked.unwrap_or_else(|| match any_full() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BackendOptions, Backends, PoolError, StickyLayer, affinity::Cookie, pool::Permit,
        strategy::RoundRobin,
    };

    type Service = tower::util::BoxCloneSyncService<http::Request<()>, (), std::io::Error>;
    type Pool = Backends<Service>;
    type SetLimit = fn(&Pool) -> Result<(), PoolError>;

    fn options() -> BackendOptions {
        BackendOptions::new().limit(1)
    }

    fn service() -> Service {
        Service::new(tower::service_fn(|_| async { Ok(()) }))
    }

    #[test]
    fn full_backend_is_not_chosen_however_it_got_its_limit() {
        let ways: [SetLimit; 5] = [
            |pool| pool.set_limit("full", 1),
            |pool| {
                pool.update(|change| {
                    change.set_limit("full", 1);
                })
            },
            |pool| pool.remove("full").and_then(|_| pool.insert_with("full", service(), options())),
            |pool| {
                pool.update(|change| {
                    change.remove("full").insert_with("full", service(), options());
                })
            },
            |pool| pool.insert_with("another", service(), options()),
        ];
        for (way, set_limit) in ways.into_iter().enumerate() {
            let pool = Backends::from_iter(["other", "full"].map(|id| (id, service())));
            set_limit(&pool).unwrap();
            let core = StickyLayer::new(pool, Cookie::plain("sid")).into_service().core().clone();
            let snapshot = core.backends.pool().load();
            let list = snapshot.first_tier().unwrap().states;
            let full: Vec<_> = list.iter().filter(|state| state.limit() > 0).collect();
            assert_eq!(full.len(), 1);
            let _permit = Permit::try_acquire(full[0]).unwrap();
            for _ in 0..20 {
                assert_eq!(list[choose(&core, None, list)].limit(), 0, "way {way}");
            }
        }
    }

    #[test]
    fn full_backend_is_not_chosen_when_all_have_had_a_limit_from_the_start() {
        let pool = Backends::new();
        for id in ["other", "full"] {
            pool.insert_with(id, service(), options()).unwrap();
        }
        let layer = StickyLayer::new(pool, Cookie::plain("sid")).strategy(RoundRobin::new());
        let core = layer.into_service().core().clone();
        let snapshot = core.backends.pool().load();
        let list = snapshot.first_tier().unwrap().states;
        let _permit = Permit::try_acquire(&list[1]).unwrap();
        for _ in 0..4 {
            assert_eq!(choose(&core, None, list), 0);
        }
    }
}
