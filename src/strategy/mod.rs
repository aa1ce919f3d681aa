//! Strategies: load balancing of new sessions.
//!
//! A strategy chooses the backend of requests without a valid pin, and of sessions that have to move and
//! cannot be told apart (those with a plain token). Requests of pinned sessions count as load (in
//! [`Candidate::in_flight`]) and never advance a strategy.

mod least_connections;
mod least_sessions;
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
    least_connections::LeastConnections, least_sessions::LeastSessions, p2c::P2c,
    peak_ewma::PeakEwma, random::Random, round_robin::RoundRobin,
};
