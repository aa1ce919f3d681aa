//! Limits of a backend: permits, who waits for one, and whose turn it is.

mod fair_queue;
mod permits;
mod quota;

pub(crate) use self::{
    permits::{ConcurrencyLimit, HasLimit, Permit, Waiter},
    quota::{NO_SESSION, UNIDENTIFIED},
};
