//! Who can serve: the pool, its immutable snapshot, and what is known about each backend.

mod backends;
mod balance;
mod census;
mod drain;
mod housekeeping;
mod id;
mod in_flight;
mod latency;
mod options;
mod places;
mod pool;
mod slots;
#[cfg(test)]
mod slots_tests;
mod snapshot;
mod state;
mod status;
mod streams;
mod tiers;
mod traffic;
mod turns;

pub use self::{
    backends::Backends,
    drain::{Drain, DrainEnd, DrainReport, DrainSignal, Draining},
    id::BackendId,
    options::BackendOptions,
    pool::PoolError,
    state::{Mode, State},
    status::{BackendStatus, PoolStatus},
};
pub(crate) use self::{
    balance::session_moved,
    id::MAX_ID_LEN,
    in_flight::InFlight,
    latency::Latency,
    pool::Pool,
    slots::{Place, Slot},
    snapshot::{Index, Members, Snapshot, TagHasher},
    state::{BackendState, Gate, Readiness},
    tiers::Tier,
};
