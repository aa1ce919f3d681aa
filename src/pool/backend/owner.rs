//! Which feed manages a backend.

use std::sync::{Arc, Weak};

/// The identity of a feed. When it is dropped its backends have no owner, and the next feed that lists
/// them adopts them.
#[derive(Debug, Default)]
pub(crate) struct Owner(Arc<()>);

/// A backend's reference to its owner; the default is for backends that the program inserted.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnerRef(Option<Weak<()>>);

impl Owner {
    pub(crate) fn reference(&self) -> OwnerRef {
        OwnerRef(Some(Arc::downgrade(&self.0)))
    }

    pub(crate) fn owns(&self, reference: &OwnerRef) -> bool {
        reference.0.as_ref().is_some_and(|weak| weak.as_ptr() == Arc::as_ptr(&self.0))
    }
}

impl OwnerRef {
    /// Whether its feed has ended.
    pub(crate) fn is_stale(&self) -> bool {
        self.0.as_ref().is_some_and(|weak| weak.strong_count() == 0)
    }
}
