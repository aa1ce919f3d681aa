//! Who can serve: the pool, its immutable snapshot, and what is known about each backend.

mod backends;
mod id;
mod in_flight;
mod latency;
mod pool;
mod snapshot;
mod state;
mod status;

pub use self::{
    backends::Backends,
    id::BackendId,
    pool::PoolError,
    state::{Mode, State},
    status::{BackendStatus, PoolStatus},
};
pub(crate) use self::{
    id::MAX_ID_LEN,
    in_flight::{InFlight, Waiting},
    latency::Latency,
    pool::Pool,
    snapshot::{Index, Members, Snapshot, TagHasher},
    state::{BackendState, Gate, Readiness},
};
