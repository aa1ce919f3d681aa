//! The responses of a backend that are still under way, so that they can be cut off.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Waker,
};

use slab::Slab;

/// The open streams of one backend: responses whose reader had to wait for more, and upgraded
/// connections. A response that came in one piece never gets here, and costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// How often they were cut off. A stream is cut off when this is not what it was at its beginning.
    cuts: AtomicU32,
    readers: Mutex<Slab<Waker>>,
}

/// The place of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamId(usize);

impl Streams {
    #[inline]
    pub(super) fn cuts(&self) -> u32 {
        self.cuts.load(Relaxed)
    }

    pub(crate) fn len(&self) -> usize {
        self.readers().len()
    }

    /// A reader waits: it is woken when the streams are cut off. `false` when that has happened since
    /// `cuts`.
    pub(super) fn wait(&self, id: &mut Option<StreamId>, waker: &Waker, cuts: u32) -> bool {
        let mut readers = self.readers();
        if self.cuts() != cuts {
            return false;
        }
        match id.and_then(|StreamId(id)| readers.get_mut(id)) {
            Some(known) => known.clone_from(waker),
            None => *id = Some(StreamId(readers.insert(waker.clone()))),
        }
        true
    }

    pub(super) fn end(&self, StreamId(id): StreamId) {
        let waker = self.readers().try_remove(id);
        // A waker is foreign code: it is never dropped under the lock.
        drop(waker);
    }

    /// Cuts all off that have begun, and tells how many.
    pub(super) fn cut(&self) -> usize {
        let readers = self.readers();
        self.cuts.fetch_add(1, Relaxed);
        let wakers: Vec<Waker> = readers.iter().map(|(_, waker)| waker.clone()).collect();
        drop(readers);
        let count = wakers.len();
        wakers.into_iter().for_each(Waker::wake);
        count
    }

    fn readers(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
