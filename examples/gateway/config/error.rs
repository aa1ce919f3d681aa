//! What is wrong with the configuration.

use std::fmt;

use tower_sticky::ConfigError;

/// What is wrong with the configuration, in one message.
#[derive(Debug)]
pub(crate) struct Error(String);

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// An error about the value of `key`, as it is written in the file or on the command line.
    pub(crate) fn of(key: &str, why: impl fmt::Display) -> Self {
        Self(format!("{key}: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string())
    }
}
