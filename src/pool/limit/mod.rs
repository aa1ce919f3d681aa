//! The concurrency limit of a backend: its permits, and the queue of requests that wait for one.

mod fair_queue;
mod permits;
mod quota;

pub(crate) use self::{
    permits::{ConcurrencyLimit, HasLimit, Permit, Waiter},
    quota::{NO_SESSION, UNIDENTIFIED},
};
