//! Who takes a new session.
//!
//! A strategy places requests without a usable pin, and sessions that have to leave their backend and
//! that nothing tells apart (those with a plain token). Requests that are served by their own backend
//! count as load (in [`Candidate::in_flight`]) and never advance a strategy.

mod least_connections;
mod p2c;
mod peak_ewma;
mod random;
mod rendezvous;
mod round_robin;
mod smooth_round_robin;
mod traits;
mod weighted;

pub(crate) use self::rendezvous::rendezvous;
#[cfg(test)]
pub(crate) use self::traits::testing;
pub use self::traits::{Candidate, Candidates, Strategy};
pub use self::{
    least_connections::LeastConnections, p2c::P2c, peak_ewma::PeakEwma, random::Random,
    round_robin::RoundRobin,
};
