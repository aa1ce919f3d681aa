//! Which feed manages a backend.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{id::BackendId, util::lock};

/// The identity of a feed. When it is dropped or released its backends have no owner, and the next feed that
/// lists them adopts them.
#[derive(Debug, Default)]
pub(crate) struct Owner(Arc<Feed>);

#[derive(Debug, Default)]
struct Feed {
    /// Whether other feeds may adopt the backends.
    is_released: AtomicBool,
    /// The backends that drain because the feed no longer lists them.
    leaving: Mutex<HashSet<BackendId>>,
}

/// A backend's reference to its owner; the default is for backends that the program inserted.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnerRef(Option<Weak<Feed>>);

impl Owner {
    pub(crate) fn reference(&self) -> OwnerRef {
        OwnerRef(Some(Arc::downgrade(&self.0)))
    }

    pub(crate) fn owns(&self, reference: &OwnerRef) -> bool {
        reference.0.as_ref().is_some_and(|weak| weak.as_ptr() == Arc::as_ptr(&self.0))
    }

    /// Lets other feeds adopt the backends. Until one does, they are still owned by this one.
    pub(crate) fn release(&self) {
        self.0.is_released.store(true, Relaxed);
    }

    /// The feed drains a backend because it no longer lists it.
    pub(crate) fn begin_leave(&self, id: &BackendId) {
        lock(&self.0.leaving).insert(id.clone());
    }

    /// The backend is listed again, or is gone.
    pub(crate) fn end_leave(&self, id: &BackendId) {
        lock(&self.0.leaving).remove(id);
    }
}

impl OwnerRef {
    /// Whether its feed has ended, or has released its backends.
    pub(crate) fn is_stale(&self) -> bool {
        let is_stale =
            |weak: &Weak<Feed>| weak.upgrade().is_none_or(|feed| feed.is_released.load(Relaxed));
        self.0.as_ref().is_some_and(is_stale)
    }

    /// Whether its feed drains the backend because it no longer lists it.
    pub(crate) fn is_leaving(&self, id: &BackendId) -> bool {
        let feed = self.0.as_ref().and_then(Weak::upgrade);
        feed.is_some_and(|feed| lock(&feed.leaving).contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_leaves_until_it_is_listed_again() {
        let (owner, id) = (Owner::default(), BackendId::new("a").unwrap());
        let reference = owner.reference();
        assert!(owner.owns(&reference) && !owner.owns(&OwnerRef::default()));
        owner.begin_leave(&id);
        assert!(reference.is_leaving(&id) && !reference.is_leaving(&BackendId::new("b").unwrap()));
        owner.end_leave(&id);
        assert!(!reference.is_leaving(&id) && !reference.is_stale());
        owner.release();
        assert!(reference.is_stale() && !OwnerRef::default().is_stale());
    }
}
