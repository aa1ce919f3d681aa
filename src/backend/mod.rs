//! Who can serve: the pool, its immutable snapshot, and what is known about each backend.

mod backends;
mod id;
mod in_flight;
mod latency;
mod places;
mod pool;
mod slots;
#[cfg(test)]
mod slots_tests;
mod snapshot;
mod state;
mod status;
mod traffic;
mod turns;

pub use self::{
    backends::Backends,
    id::BackendId,
    pool::PoolError,
    state::{Mode, State},
    status::{BackendStatus, PoolStatus},
};
pub(crate) use self::{
    id::MAX_ID_LEN,
    in_flight::InFlight,
    latency::Latency,
    pool::Pool,
    slots::{Place, Slot},
    snapshot::{Index, Snapshot, TagHasher},
    state::{BackendState, Gate, Readiness},
};
