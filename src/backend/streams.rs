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
pub(super) struct StreamId {
    place: usize,
    /// How often streams had been cut off when it began.
    cuts: u32,
}

impl Streams {
    #[inline]
    pub(super) fn is_cut(&self, stream: &StreamId) -> bool {
        self.cuts.load(Relaxed) != stream.cuts
    }

    pub(crate) fn len(&self) -> usize {
        self.readers().len()
    }

    /// A reader waits, which makes its response a stream: it is woken when the streams are cut off.
    /// `false` when that has happened since it became one.
    pub(super) fn wait(&self, id: &mut Option<StreamId>, waker: &Waker) -> bool {
        let mut readers = self.readers();
        let cuts = self.cuts.load(Relaxed);
        match id {
            Some(stream) if stream.cuts != cuts => return false,
            Some(stream) => {
                if let Some(known) = readers.get_mut(stream.place) {
                    known.clone_from(waker);
                }
            }
            None => *id = Some(StreamId { place: readers.insert(waker.clone()), cuts }),
        }
        true
    }

    pub(super) fn end(&self, stream: StreamId) {
        let waker = self.readers().try_remove(stream.place);
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
