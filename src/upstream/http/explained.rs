//! An error of hyper with its cause, which hyper's own text leaves out.

use std::{error::Error, fmt};

use crate::error::chain;

/// An error of a connection. Its text is that of hyper, and that of the first cause.
#[derive(Debug)]
pub(super) struct Explained(pub(super) hyper::Error);

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        match chain(&self.0).skip(1).last() {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
