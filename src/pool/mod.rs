//! The set of backends: its handle, its immutable snapshot, and the state of each backend.

mod availability;
mod backend;
mod backends;
#[cfg(any(feature = "discover", feature = "dns"))]
mod discovered;
mod drain;
mod events;
mod health;
mod housekeeping;
mod limit;
#[cfg(test)]
mod limit_tests;
mod move_log;
mod priority;
mod removed;
mod saved_sessions;
mod session_balance;
mod sessions;
mod shared;
mod shortage_log;
mod snapshot;
mod status;
mod update;
mod upgrade_guard;
mod versioned;

#[cfg(feature = "admin")]
pub(crate) use self::backend::{HISTORY_INTERVALS, HISTORY_SECS, Interval};
#[cfg(feature = "dns")]
pub(crate) use self::discovered::Ownership;
pub(crate) use self::events::Publisher;
pub(crate) use self::{
    availability::{Availability, Readiness},
    backend::{BackendState, Entered, Generation, StreamId},
    health::{Access, AnswerCounts, Backoff, Evidence, ProbeState, RecheckId, SlowStart},
    limit::{NO_SESSION, Permit, UNIDENTIFIED, Waiter},
    priority::Tier,
    session_balance::session_moved,
    shared::Pool,
    snapshot::{Index, Members, Snapshot, TagHasher},
};
#[cfg(any(feature = "discover", feature = "dns"))]
pub(crate) use self::{
    backend::Owner,
    discovered::{ChangeKind, MemberChange, RejectedChange},
};
pub use self::{
    backend::{BackendOptions, DrainEnd, DrainReport, DrainSignal, DrainStatus, Mode, State},
    backends::Backends,
    drain::{Drain, Draining},
    move_log::MoveRecord,
    shared::PoolError,
    status::{BackendStatus, PoolStatus},
};
pub use self::{
    events::{Cause, Event, Events},
    update::PoolUpdate,
    upgrade_guard::{UpgradeEnd, UpgradeGuard},
};
