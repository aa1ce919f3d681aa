//! The sessions of a backend: how many there are, and when their streams were last open.

mod counter;
mod exact;
#[cfg(test)]
mod exact_tests;
mod last_seen;
mod load;
mod marks;
mod saved;
mod unconfirmed;
mod window;

pub(crate) use self::{
    counter::SessionCounter, last_seen::LastSeen, load::SessionLoad, window::Window,
};
