//! `AnyPool`: a pool without the type of its services.

use super::application::Change;
use crate::{
    metrics::Report,
    pool::{Backends, BackendStatus, Events, PoolError, PoolStatus},
};

/// A pool without the type of its services.
pub(super) trait AnyPool: Send + Sync {
    fn status(&self) -> PoolStatus;
    fn get(&self, id: &str) -> Option<BackendStatus>;
    fn events(&self) -> Events;
    fn report(&self) -> Report;
    /// Makes a change. A drain continues in the background, and its end is an event.
    fn change(&self, id: &str, change: &Change) -> Result<(), PoolError>;
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
