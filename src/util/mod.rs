//! Utilities without dependencies on other modules: clocks, locks, rate limits, random numbers, string
//! enums, sockets.

pub(crate) mod clock;
#[cfg(any(feature = "metrics", feature = "trace"))]
mod known_method;
mod lock;
#[cfg(feature = "dns")]
pub(crate) mod name_servers;
#[cfg(any(feature = "proxy", feature = "serve"))]
mod one_piece;
mod polled;
mod rate_limiter;
#[cfg(any(feature = "proxy", feature = "serve"))]
mod read_size;
mod reader;
mod rng;
#[cfg(feature = "metrics")]
mod shard_owners;
#[cfg(feature = "metrics")]
pub(crate) mod shards;
#[cfg(any(feature = "proxy", feature = "serve"))]
mod socket_enum;
#[cfg(any(feature = "proxy", feature = "serve"))]
mod socket_options;
pub(crate) mod string_enum;
pub(crate) mod sync;

pub use self::clock::{SystemClock, WallClock};
#[cfg(any(feature = "metrics", feature = "trace"))]
pub(crate) use self::known_method::KnownMethod;
pub(crate) use self::{
    lock::lock, polled::PolledFrame, rate_limiter::RateLimiter, reader::Reader, rng::Rng,
};
#[cfg(any(feature = "proxy", feature = "serve"))]
pub(crate) use self::{
    one_piece::poll_write_pieces,
    polled::PollIo,
    read_size::{Growth, ReadSize},
    socket_enum::{with_socket, write_to_socket},
    socket_options::SocketOptions,
};
