//! How many sessions a backend has, and when each was last seen.

mod counter;
mod exact;
mod last_seen;
mod unconfirmed;
mod window;

pub(crate) use self::{counter::SessionCounter, last_seen::LastSeen, window::Window};
