//! Session affinity for [Tower](https://docs.rs/tower): keeps each user on the backend that holds
//! their session.

#![forbid(unsafe_code)]

mod backend;
mod body;
mod clock;
mod dispatch;
mod error;
mod future;
mod health;
mod hold;
mod layer;
mod on_error;
mod outcome;
mod peer;
mod policy;
mod reclaim;
mod service;
mod token;
mod wait;

pub mod affinity;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod strategy;

pub use self::{
    backend::{BackendId, BackendStatus, Backends, Mode, PoolError, PoolStatus, State},
    body::{NoBody, StickyBody},
    clock::{SystemClock, WallClock},
    error::{BoxError, ConfigError, NotSent, StickyError, TimedOut, Unanswered},
    future::ResponseFuture,
    health::Health,
    hold::{Hold, HoldEnd},
    layer::StickyLayer,
    on_error::{OnError, Propagate, Respond},
    outcome::{Outcome, Reason, Stats, Verdict},
    peer::Peer,
    policy::{Busy, Failover},
    reclaim::{Reclaim, ReclaimBody, ReclaimFuture},
    service::{NoInner, StickyService},
    token::{Key, KeyRing},
};
