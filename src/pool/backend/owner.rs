//! Who brought a backend into its pool.

use std::sync::{Arc, Weak};

/// Who brings backends: a feed. Backends whose owner is no more belong to nobody, and the next feed
/// that names them adopts them.
#[derive(Debug, Default)]
pub(crate) struct Owner(Arc<()>);

/// What a backend carries of its owner; the default stands for the program's own hand.
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
    /// Whether it was left by a feed that is no more.
    pub(crate) fn is_stale(&self) -> bool {
        self.0.as_ref().is_some_and(|weak| weak.strong_count() == 0)
    }
}
