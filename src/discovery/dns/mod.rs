//! Backends from the domain name system.

mod follow;
mod options;
mod resolve;
mod schedule;

pub use self::options::Dns;
