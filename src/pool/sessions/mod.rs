//! How many sessions a backend has, and when each was last seen.

mod counter;
mod exact;
mod last_seen;
mod unconfirmed;

pub(crate) use self::{
    counter::{Census, Window},
    last_seen::Sights,
};
