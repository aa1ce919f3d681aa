//! The open streams of a backend, so that a drain can cut them off.

use std::task::Waker;

use slab::Slab;

use crate::util::{
    lock,
    sync::{
        AtomicU32, Mutex, MutexGuard,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// The open streams of one backend: responses whose reader had to wait for more, and upgraded
/// connections. A response that arrives as a whole is not registered and costs nothing.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    /// How often streams were cut off. A stream is cut off when this has changed since it was registered.
    cuts: AtomicU32,
    /// How many there are, so that nobody has to lock in order to find none.
    count: AtomicU32,
    readers: Mutex<Slab<Reader>>,
}

#[derive(Debug)]
struct Reader {
    waker: Waker,
    /// The session of the stream; 0 for none.
    session: u64,
    /// When the stream was registered, in seconds of the age of its backend.
    since: u32,
}

/// A registered stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamId {
    // Not a `usize`, as it is moved with each response.
    key: u32,
    /// The value of `cuts` when the stream was registered.
    cuts: u32,
}

impl OpenStreams {
    pub(crate) fn new() -> Self {
        Self { cuts: AtomicU32::new(0), count: AtomicU32::new(0), readers: Mutex::new(Slab::new()) }
    }

    #[inline]
    pub(crate) fn is_cut(&self, stream: &StreamId) -> bool {
        self.cuts.load(Relaxed) != stream.cuts
    }

    pub(crate) fn len(&self) -> usize {
        self.readers().len()
    }

    /// Whether a stream of the session is open.
    pub(crate) fn has_session(&self, session: u64) -> bool {
        self.count.load(Acquire) != 0
            && self.readers().iter().any(|(_, reader)| reader.session == session)
    }

    /// Calls `visit` with the session of each open stream that has one.
    pub(crate) fn each_session(&self, mut visit: impl FnMut(u64)) {
        let readers = self.readers();
        let sessions = readers.iter().map(|(_, reader)| reader.session);
        sessions.filter(|session| *session != 0).for_each(&mut visit);
    }

    /// Registers the waker of a reader that waits, which makes its response a stream of `session` (0 for
    /// none), open `since` now. The waker is called when the streams are cut off. Returns `false` if the
    /// stream has been cut off already.
    pub(crate) fn register(
        &self,
        id: &mut Option<StreamId>,
        session: u64,
        since: impl FnOnce() -> u32,
        waker: &Waker,
    ) -> bool {
        // A waker runs foreign code, so it is never cloned or dropped under the lock.
        let mut waker = waker.clone();
        let mut readers = self.readers();
        let cuts = self.cuts.load(Relaxed);
        let waits = match id {
            Some(stream) if stream.cuts != cuts => false,
            Some(stream) => {
                if let Some(known) = readers.get_mut(stream.key as usize) {
                    std::mem::swap(&mut known.waker, &mut waker);
                }
                true
            }
            None => {
                let waker = std::mem::replace(&mut waker, Waker::noop().clone());
                let key = readers.insert(Reader { waker, session, since: since() }) as u32;
                self.count.store(readers.len() as u32, Release);
                *id = Some(StreamId { key, cuts });
                true
            }
        };
        drop(readers);
        waits
    }

    /// When a stream was registered.
    pub(crate) fn since(&self, stream: &StreamId) -> Option<u32> {
        self.readers().get(stream.key as usize).map(|reader| reader.since)
    }

    /// Removes a stream that has ended.
    pub(crate) fn end(&self, stream: StreamId) {
        let mut readers = self.readers();
        // A waker runs foreign code, so it is not dropped under the lock.
        let reader = readers.try_remove(stream.key as usize);
        self.count.store(readers.len() as u32, Release);
        drop(readers);
        drop(reader);
    }

    /// Cuts off all open streams. Returns how many.
    pub(crate) fn cut(&self) -> usize {
        let readers = self.readers();
        self.cuts.fetch_add(1, Relaxed);
        let wakers: Vec<Waker> = readers.iter().map(|(_, reader)| reader.waker.clone()).collect();
        drop(readers);
        let count = wakers.len();
        wakers.into_iter().for_each(Waker::wake);
        count
    }

    fn readers(&self) -> MutexGuard<'_, Slab<Reader>> {
        lock(&self.readers)
    }
}
