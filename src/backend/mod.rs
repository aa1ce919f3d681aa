//! Who can serve: the pool, its immutable snapshot, and what is known about each backend.

mod availability;
mod backends;
mod balance;
mod census;
mod departed;
mod drain;
mod few;
mod housekeeping;
mod id;
mod in_flight;
mod latency;
mod mode;
mod options;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owned;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owner;
mod places;
mod pool;
mod published;
mod sights;
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
mod unconfirmed;

#[cfg(feature = "dns")]
pub(crate) use self::owned::Standing;
pub(crate) use self::{
    availability::{Gate, Readiness},
    balance::session_moved,
    id::MAX_ID_LEN,
    in_flight::{Entered, InFlight},
    latency::Latency,
    places::{NOBODY, UNTOLD},
    pool::Pool,
    slots::{Place, Slot},
    snapshot::{Index, Members, Snapshot, TagHasher},
    state::BackendState,
    tiers::Tier,
};
pub use self::{
    backends::Backends,
    drain::{Drain, DrainEnd, DrainReport, DrainSignal, Draining},
    id::BackendId,
    mode::{Mode, State},
    options::BackendOptions,
    pool::PoolError,
    status::{BackendStatus, PoolStatus},
};
#[cfg(any(feature = "discover", feature = "dns"))]
pub(crate) use self::{
    owned::{Change, Refused, What},
    owner::Owner,
};
