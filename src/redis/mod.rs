//! What the stores of pins and of sessions both need of Redis.

mod address;
mod target;

pub(crate) use self::address::parse;
pub(crate) use self::target::RedisTarget;
#[cfg(feature = "session")]
pub(crate) use self::target::{prepare, provide_cryptography};
