//! Utilities without dependencies on other modules: clocks, locks, rate limits, random numbers, string
//! enums.

pub(crate) mod clock;
mod lock;
#[cfg(feature = "dns")]
pub(crate) mod name_servers;
mod rate_limiter;
mod reader;
mod rng;
pub(crate) mod string_enum;
pub(crate) mod sync;

pub use self::clock::{SystemClock, WallClock};
pub(crate) use self::{lock::lock, rate_limiter::RateLimiter, reader::Reader, rng::Rng};
