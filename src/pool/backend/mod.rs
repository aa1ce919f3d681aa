//! One backend: its state, settings, health, requests, streams and drain.

mod drain;
mod entered;
mod generation;
mod health;
#[cfg(feature = "admin")]
mod history;
mod latency;
mod mode;
mod options;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owner;
mod requests;
mod settings;
mod since;
mod state;
mod streams;
mod watchers;

#[cfg(feature = "admin")]
pub(crate) use self::history::{HISTORY_INTERVALS, HISTORY_SECS, Interval};
#[cfg(any(feature = "discover", feature = "dns"))]
pub(crate) use self::owner::Owner;
pub use self::{
    drain::{DrainEnd, DrainReport, DrainSignal, DrainStatus},
    mode::{Mode, State},
    options::BackendOptions,
};
pub(crate) use self::{
    drain::{DrainPhase, DrainPlan},
    entered::Entered,
    generation::Generation,
    state::BackendState,
    streams::StreamId,
    watchers::Watchers,
};
