//! `AnyPool`: a pool without the type of its services.

use std::collections::HashSet;

use super::{
    application::{About, Change},
    view::{BackendView, PoolView, fill_shares},
};
use crate::{
    metrics::Report,
    pool::{BackendStatus, Backends, Events, MoveRecord, PoolError, PoolStatus},
};

/// A pool without the type of its services.
pub(super) trait AnyPool: Send + Sync {
    fn status(&self) -> PoolStatus;
    fn get(&self, id: &str) -> Option<BackendStatus>;
    fn events(&self) -> Events;
    fn report(&self) -> Report;
    /// Makes a change. A drain continues in the background, and its end is an event.
    fn change(&self, id: &str, change: &Change) -> Result<(), PoolError>;
    fn moves(&self) -> Vec<MoveRecord>;
    /// What the pages show; `about` is what the application knows of a backend.
    fn view(&self, about: &dyn Fn(&str) -> About) -> PoolView;
}

impl<S: Clone + Send + Sync + 'static> AnyPool for Backends<S> {
    fn status(&self) -> PoolStatus {
        self.snapshot()
    }

    fn get(&self, id: &str) -> Option<BackendStatus> {
        Self::get(self, id)
    }

    fn events(&self) -> Events {
        Self::events(self)
    }

    fn report(&self) -> Report {
        Report::new().pool(self)
    }

    fn moves(&self) -> Vec<MoveRecord> {
        Self::moves(self)
    }

    fn view(&self, about: &dyn Fn(&str) -> About) -> PoolView {
        let (snapshot, status) = (self.pool().load(), self.snapshot());
        let index = snapshot.index();
        let first = snapshot.first_tier().map_or(&[][..], |tier| tier.states);
        let takes_new: HashSet<u64> = first.iter().map(|state| state.tag).collect();
        let backends = status.backends.into_iter().filter_map(|status| {
            // The members may have changed between the two reads.
            let state = index.get(status.id.tag())?;
            let histograms = state.recorder.histograms();
            Some(BackendView {
                about: about(status.id.as_str()),
                history: state.history.intervals(),
                latency: histograms.and_then(|(first_byte, _)| first_byte.mean_and_p99()),
                takes_new: takes_new.contains(&state.tag),
                ought: 0.0,
                share: None,
                status,
            })
        });
        let mut backends: Vec<_> = backends.collect();
        fill_shares(&mut backends);
        PoolView {
            name: self.name().to_owned(),
            stats: status.stats,
            backends,
            moves: self.moves(),
            latency: self.pool().recorder.first_bytes().mean_and_p99(),
            balance: self.pool().balance().average(),
        }
    }

    fn change(&self, id: &str, change: &Change) -> Result<(), PoolError> {
        match *change {
            Change::Mode(mode) => self.set_mode(id, mode),
            Change::Weight(weight) => self.set_weight(id, weight),
            Change::Limit(limit) => self.set_limit(id, limit),
            Change::Removed => self.remove(id).map(drop),
            Change::Drain { deadline, then, hand_over } => {
                let mut drain = self.drain(id).then(then);
                if let Some(deadline) = deadline {
                    drain = drain.deadline(deadline);
                }
                if let Some(rate) = hand_over {
                    drain = drain.hand_over(rate);
                }
                drain.start().map(drop)
            }
        }
    }
}
