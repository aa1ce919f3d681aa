//! [`RedisStore`]: fenced sessions in Redis or Valkey.

mod connect;
mod format;
mod store;

pub use self::store::RedisStore;
