//! One backend: its state, settings, health, requests, streams and drain.

mod drain;
mod entered;
mod health;
mod latency;
mod mode;
mod options;
#[cfg(any(feature = "discover", feature = "dns"))]
mod owner;
mod requests;
mod settings;
mod state;
mod streams;

#[cfg(any(feature = "discover", feature = "dns"))]
pub(crate) use self::owner::Owner;
pub use self::{
    drain::{DrainEnd, DrainReport, DrainSignal},
    mode::{Mode, State},
    options::BackendOptions,
};
pub(crate) use self::{
    drain::{DrainPhase, DrainPlan},
    entered::Entered,
    state::BackendState,
    streams::StreamId,
};
