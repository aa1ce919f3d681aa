//! [`RedisStore`]: pins in Redis or Valkey.

mod breaker;
mod builder;
mod cache;
mod cached_pin;
mod compact_instant;
mod connection;
mod engine;
mod idle_time;
mod keep_alive;
mod on_down;
mod open_sessions;
mod reconnect;
mod script;
mod single_flight;
mod stats;
mod store;

pub use ::redis as client;

pub use self::{
    builder::RedisStoreBuilder,
    on_down::OnDown,
    stats::{EngineState, RedisStats},
    store::RedisStore,
};
