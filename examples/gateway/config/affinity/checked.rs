//! An affinity that is checked after every key, so that an error names the key that is wrong.

use std::fmt::{Debug, Display};

use tower_sticky::{Backends, ConfigError, StickyLayer, affinity::Affinity, proxy::Upstream};

use crate::config::Error;

/// Whether `affinity` can be used.
pub(crate) fn check(affinity: impl Affinity) -> Result<(), ConfigError> {
    StickyLayer::try_new(Backends::<Upstream>::new(), affinity).map(drop)
}

/// An affinity that is made from the section `at`, such as `affinity[0]`.
pub(super) struct Checked<'a, A> {
    at: &'a str,
    affinity: A,
}

impl<'a, A: Affinity + Clone> Checked<'a, A> {
    /// Begins with `affinity`, whose name is the value of `key`, a key of the file or a flag.
    pub(super) fn new(at: &'a str, key: impl Display, affinity: A) -> Result<Self, Error> {
        let checked = Self { at, affinity };
        checked.check(|error| Error::of(&key.to_string(), error))
    }

    /// Goes on with `affinity`, which is good so far.
    pub(super) const fn from(at: &'a str, affinity: A) -> Self {
        Self { at, affinity }
    }

    /// Sets the value of `key`, if there is one.
    pub(super) fn set<V: Debug>(
        self,
        key: &str,
        value: Option<impl Into<V>>,
        set: impl FnOnce(A, V) -> A,
    ) -> Result<Self, Error> {
        let Some(value) = value else { return Ok(self) };
        let value: V = value.into();
        let (at, shown) = (self.at, format!("{value:?}"));
        let checked = Self { at, affinity: set(self.affinity, value) };
        checked.check(|error| Error::new(format!("{at}.{key} = {shown}: {error}")))
    }

    fn check(self, wrong: impl FnOnce(ConfigError) -> Error) -> Result<Self, Error> {
        check(self.affinity.clone()).map_err(wrong)?;
        Ok(self)
    }

    pub(super) fn done(self) -> A {
        self.affinity
    }
}
