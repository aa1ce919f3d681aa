//! Pins that are kept on our side, for [`affinity::Learned`](crate::affinity::Learned).
//!
//! [`MemoryStore`] is the default: a table in this process. With the feature `redis`, `RedisStore` keeps
//! them on Redis or Valkey, for several gateways. Any other engine implements [`PinStore`].

mod memory;
#[cfg(feature = "redis")]
mod redis;
mod table;
mod traits;

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use self::redis::{EngineState, OnDown, RedisStats, RedisStore, RedisStoreBuilder, client};
pub use self::traits::{Answer, Lookup, OpenSession, PinStore, SessionKey, StoredPin, WhenClosed};
