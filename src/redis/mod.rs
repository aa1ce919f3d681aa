//! Connecting to Redis, for the store of pins and the store of sessions.

mod address;
mod target;

pub(crate) use self::address::parse;
pub(crate) use self::target::RedisTarget;
#[cfg(feature = "session")]
pub(crate) use self::target::{install_crypto_provider, prepare};
