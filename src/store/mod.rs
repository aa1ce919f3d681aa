//! Stores of pins on the server side, for [`affinity::Learned`](crate::affinity::Learned).
//!
//! [`MemoryStore`] is the default: a table in this process. With the feature `redis`, `RedisStore` keeps
//! pins in Redis or Valkey, which several gateways share. Other engines can implement [`PinStore`].

mod memory;
#[cfg(feature = "redis")]
mod redis;
mod saved;
mod table;
mod traits;

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use self::redis::{EngineState, OnDown, RedisStats, RedisStore, RedisStoreBuilder, client};
pub use self::traits::{Answer, Lookup, OpenSession, PinStore, SessionKey, StoredPin, WhenClosed};
