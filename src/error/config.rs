//! `ConfigError`, and the boxed error of any backend.

use std::{borrow::Cow, error::Error, fmt};

/// The type that the errors of all backends are converted into.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An invalid configuration. The message says what was wrong, what was expected, and what to do.
///
/// Configuration is checked when it is built, as far as possible, and not with the first request.
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
