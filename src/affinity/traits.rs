//! What an affinity is.

use std::{fmt, sync::Arc};

use super::bound::BoundAffinity;
use crate::error::ConfigError;

/// A way to recognise a session and to remember its pin. The methods that there are stand in this
/// module; the trait is sealed, because what it asks of a method still grows.
pub trait Affinity: sealed::Bind {}

impl<A: sealed::Bind> Affinity for A {}

pub(crate) mod sealed {
    use super::{Arc, BoundAffinity, ConfigError, fmt};

    /// Checks the configuration and makes it ready for one pool.
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
