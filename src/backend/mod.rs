//! Who can serve: the pool, its immutable snapshot, and what is known about each backend.

mod backends;
mod departed;
mod id;
mod in_flight;
mod latency;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owned;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owner;
mod pool;
mod snapshot;
mod state;
mod status;

#[cfg(feature = "dns")]
pub(crate) use self::owned::Standing;
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
    snapshot::{Index, Snapshot, TagHasher},
    state::{BackendState, Gate, Readiness},
};
#[cfg(any(feature = "discover", feature = "dns"))]
pub(crate) use self::{
    owned::{Change, Refused, What},
    owner::Owner,
};
