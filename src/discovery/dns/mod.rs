//! [`Backends::follow_dns`](crate::Backends::follow_dns): backends from DNS records.

mod answer;
mod follow;
mod options;
mod resolve;
mod schedule;

#[cfg(fuzzing)]
pub(crate) use self::answer::{Answer, Records};
pub use self::options::Dns;
