//! [`Backends::follow_dns`](crate::Backends::follow_dns): backends from DNS records.

mod answer;
mod follow;
mod options;
mod resolve;
mod schedule;

pub use self::options::Dns;
