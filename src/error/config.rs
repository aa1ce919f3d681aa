//! `ConfigError`, and the error type of any backend.

use std::{borrow::Cow, error::Error, fmt};

/// The error type that any backend's error is turned into.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A configuration that cannot work: what was wrong, what was expected, what to do.
///
/// Everything that can be checked before the first request is checked when it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: Cow<'static, str>,
}

impl ConfigError {
    /// An error with `message`, which should say what was wrong, what was expected and what to do.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConfigError {}
