//! Where PEM text comes from, and whether it has changed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::error::ConfigError;

/// Where PEM text comes from.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    Memory(Arc<[u8]>),
}

/// A hash of the content of a source. Contents are compared instead of times: in Kubernetes a file is a link
/// that is switched to another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentHash([u8; SHA256_OUTPUT_LEN]);

impl ContentHash {
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let hashes: Vec<u8> =
            parts.iter().flat_map(|part| digest(&SHA256, part).as_ref().to_vec()).collect();
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, &hashes).as_ref());
        Self(bytes)
    }
}

impl Source {
    pub(super) fn file(path: impl AsRef<Path>) -> Self {
        Self::File(path.as_ref().to_owned())
    }

    pub(super) fn memory(pem: impl AsRef<[u8]>) -> Self {
        Self::Memory(pem.as_ref().into())
    }

    /// The content; `what` names it in an error.
    pub(super) fn read(&self, what: &str) -> Result<Vec<u8>, ConfigError> {
        match self {
            Self::File(path) => fs::read(path).map_err(|error| {
                let path = path.display();
                ConfigError::new(format!(
                    "the {what} {path} cannot be read: {error}; check its path and its permissions"
                ))
            }),
            Self::Memory(pem) => Ok(pem.to_vec()),
        }
    }

    /// `error` about the content, with where it comes from.
    pub(super) fn error(&self, what: &str, error: impl fmt::Display) -> ConfigError {
        match self {
            Self::File(path) => ConfigError::new(format!("the {what} {}: {error}", path.display())),
            Self::Memory(_) => ConfigError::new(format!("the {what}: {error}")),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Memory(_) => f.write_str("from memory"),
        }
    }
}

/// Never shows a key.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
