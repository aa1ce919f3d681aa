//! Where the shops of the demo keep their carts.

use std::fmt;

use tokio::runtime;
use tower_sticky::{ConfigError, session_data::RedisStore};

use crate::config::Error;

/// A store that all shops share.
#[derive(Clone)]
pub(crate) enum Store {
    /// In this process.
    Memory,
    /// In Redis, at this address.
    Redis(String),
}

impl Store {
    /// Reads the value of `--demo-store`.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        // The value may contain a password, so it is not quoted.
        let wrong = |why: &str| {
            Error::new(format!(
                "--demo-store {why}; expected memory, or the address of a Redis such as \
                 redis://127.0.0.1:6379/"
            ))
        };
        if !text.starts_with("redis") && !text.starts_with("unix:") {
            return Err(wrong("names a store that is unknown"));
        }
        if text.starts_with("redis-") || text.starts_with("rediss-") {
            return Err(wrong("names a cluster or sentinels, which the demo does not use"));
        }
        // Only checks the address: nothing connects yet. The client needs a runtime to be built.
        let runtime = runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| Error::new(format!("there is no runtime: {error}")))?;
        let _within = runtime.enter();
        redis(&text).map_err(|error| Error::new(format!("--demo-store: {error}")))?;
        Ok(Self::Redis(text))
    }
}

/// The sessions of the demo in Redis, under a prefix of their own.
pub(super) fn redis(url: &str) -> Result<RedisStore, ConfigError> {
    Ok(RedisStore::new(url)?.prefix("sticky-demo:"))
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "Memory",
            // Without the password.
            Self::Redis(_) => "Redis",
        })
    }
}
