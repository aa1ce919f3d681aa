//! The decisions of one request: which backend, and which one next.

mod attempt;
mod by_key;
mod candidates;
mod choose;
mod commit;
mod core;
mod failover;
mod feedback;
mod handoff;
mod held_pin;
mod in_flight;
mod placement;
mod rebalance;
mod recovery;
mod request_kind;
mod session_headers;
mod shared_choice;
mod state;
mod store_lookup;
mod suspects;
mod voluntary_move;

pub(crate) use self::state::Dispatch;
pub(crate) use self::{
    attempt::{Attempt, NextStep, TrialPermit, WaitLimit},
    commit::observe,
    recovery::Recovery,
    store_lookup::StoreLookup,
};
pub(crate) use self::{
    core::{Core, Options},
    feedback::{AsAnswers, failed, judge},
    handoff::{Handoff, HandoffHook},
    held_pin::HeldPin,
    in_flight::InFlight,
};
pub use self::{handoff::Move, rebalance::Rebalance};
