//! The responses of a backend that are still under way, so that they can be cut off.

use std::task::Waker;

use slab::Slab;

use crate::util::{
    lock,
    sync::{AtomicU32, Mutex, MutexGuard, Ordering::Relaxed},
};

/// The open streams of one backend: responses whose reader had to wait for more, and upgraded
/// connections. A response that came in one piece never gets here, and costs nothing.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    /// How often they were cut off. A stream is cut off when this is not what it was at its beginning.
    cuts: AtomicU32,
    readers: Mutex<Slab<Reader>>,
}

#[derive(Debug)]
struct Reader {
    waker: Waker,
    /// The session that the stream belongs to; 0 for none.
    session: u64,
    /// When it began, as its backend counts seconds.
    since: u32,
}

/// The place of one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamId {
    // Smaller than a `usize`, as it is moved with each response.
    key: u32,
    /// How often streams had been cut off when it began.
    cuts: u32,
}

impl OpenStreams {
    pub(crate) fn new() -> Self {
        Self { cuts: AtomicU32::new(0), readers: Mutex::new(Slab::new()) }
    }

    #[inline]
    pub(crate) fn is_cut(&self, stream: &StreamId) -> bool {
        self.cuts.load(Relaxed) != stream.cuts
    }

    pub(crate) fn len(&self) -> usize {
        self.readers().len()
    }

    /// Whether a stream of this session is open.
    pub(crate) fn has_session(&self, session: u64) -> bool {
        self.readers().iter().any(|(_, reader)| reader.session == session)
    }

    /// The sessions of the open streams.
    pub(crate) fn each_session(&self, mut visit: impl FnMut(u64)) {
        let readers = self.readers();
        let sessions = readers.iter().map(|(_, reader)| reader.session);
        sessions.filter(|session| *session != 0).for_each(&mut visit);
    }

    /// A reader waits, which makes its response a stream of its session (0 for none), `since` now: it is
    /// woken when the streams are cut off. `false` when that has happened since it became one.
    pub(crate) fn register(
        &self,
        id: &mut Option<StreamId>,
        session: u64,
        since: impl FnOnce() -> u32,
        waker: &Waker,
    ) -> bool {
        // A waker is foreign code: it is never cloned or dropped under the lock.
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
                *id = Some(StreamId { key, cuts });
                true
            }
        };
        drop(readers);
        waits
    }

    /// A stream has ended; tells when it began.
    pub(crate) fn end(&self, stream: StreamId) -> Option<u32> {
        let reader = self.readers().try_remove(stream.key as usize);
        reader.map(|reader| reader.since)
    }

    /// Cuts all off that have begun, and tells how many.
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
