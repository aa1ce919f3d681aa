//! The `Affinity` trait, which is sealed.

use std::{fmt, sync::Arc};

use super::bound::BoundAffinity;
use crate::error::ConfigError;

/// A method to recognise sessions and to remember their pins. The implementations are in this module. The
/// trait is sealed, because its methods may still change.
pub trait Affinity: sealed::Bind {}

impl<A: sealed::Bind> Affinity for A {}

pub(crate) mod sealed {
    use super::{Arc, BoundAffinity, ConfigError, fmt};

    /// Checks the configuration, and prepares it for one pool.
    pub trait Bind: fmt::Debug + Send + Sync + 'static {
        #[doc(hidden)]
        fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError>;
    }
}

impl<A: sealed::Bind + ?Sized> sealed::Bind for Box<A> {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        (**self).bind(pool)
    }
}
