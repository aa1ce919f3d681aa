//! The decisions about one request, without I/O: which backend gets it, and what follows a failure.

mod attempt;
mod attempt_spans;
mod by_key;
mod candidates;
mod choose;
mod commit;
mod core;
mod decision;
mod explain;
mod explanation;
mod failover;
mod feedback;
mod handoff;
mod held_pin;
mod in_flight;
mod placement;
mod rebalance;
mod recovery;
mod request_kind;
mod resolve;
mod send;
mod session_headers;
mod shared_choice;
mod spans;
mod state;
mod store_lookup;
mod suspects;
mod tally;
mod voluntary_move;

pub(crate) use self::state::Dispatch;
pub(crate) use self::{
    attempt::{Attempt, NextStep, TrialPermit, WaitLimit},
    recovery::Recovery,
    send::observe,
    store_lookup::StoreLookup,
};
pub(crate) use self::{
    core::{Core, Options, SessionHeaders},
    feedback::{AsAnswers, failed, judge},
    handoff::{Handoff, HandoffHook},
    held_pin::HeldPin,
    in_flight::InFlight,
};
pub use self::{
    explanation::{Explanation, Finding, Forecast},
    handoff::Move,
    rebalance::Rebalance,
};
