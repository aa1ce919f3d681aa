//! The state of a connection, seen from outside of hyper: whether a request is in flight, and whether the
//! head of one has begun. The timeouts of the connection follow from that.
//!
//! hyper's own timeout for HTTP/1.1 heads also runs while a connection is idle between two requests, and
//! costs an allocation and a timer per request. HTTP/2 has none.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, StatusCode};

/// The state of one connection, shared by its socket, its service and its driver.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Cloned by everything that keeps the connection busy: requests, their bodies, their answers.
    busy: Arc<()>,
    /// Requests so far.
    requests: AtomicU64,
    /// Whether a part of a request head was received.
    partial: AtomicBool,
    /// The number of the last request with a body: odd while the body is read, and even after that.
    body: AtomicU64,
    /// Whether the rest of a request was left unread.
    unread: AtomicBool,
    /// Whether hyper closes the connection.
    closing: AtomicBool,
    written: Written,
    interim: Interim,
}

/// While so many bytes of interim answers wait for the client, further ones are dropped: a backend may send
/// any number of them.
const MAX_INTERIM: usize = 64 << 10;

/// Interim answers (RFC 9110, section 15.2), which hyper's server cannot send.
#[derive(Debug, Default)]
struct Interim {
    /// Whether the client of the request in flight knows them: in HTTP/1.1.
    allowed: AtomicBool,
    waits: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

/// What hyper has to send, and what of it the socket has taken.
#[derive(Debug, Default)]
struct Written {
    /// Whether hyper has bytes left to write: it flushes the socket when it has none.
    unwritten: AtomicBool,
    /// Whether the socket took nothing when hyper wrote last.
    blocked: AtomicBool,
    /// How often the socket took something.
    writes: AtomicU64,
    /// How often hyper had no bytes left.
    flushes: AtomicU64,
    waits: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

/// As long as a clone of this exists, its connection is busy.
pub(super) type Busy = Arc<()>;

impl Watch {
    /// A request's head is complete.
    pub(super) fn began(&self) -> Busy {
        // Only the connection's task writes, so that the addition need not be atomic.
        self.requests.store(self.requests() + 1, Relaxed);
        self.partial.store(false, Relaxed);
        self.busy.clone()
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }

    pub(super) fn has_partial_head(&self) -> bool {
        self.partial.load(Relaxed) && !self.is_busy()
    }

    /// How often the socket has taken everything that there was to send.
    pub(super) fn flushes(&self) -> u64 {
        self.written.flushes.load(SeqCst)
    }

    /// Waits until everything is sent that hyper had when there had been `since` flushes.
    pub(super) fn poll_sent(&self, since: u64, cx: &Context<'_>) -> Poll<()> {
        let written = &self.written;
        let is_sent = || self.flushes() > since && !written.unwritten.load(SeqCst);
        if is_sent() {
            return Poll::Ready(());
        }
        let mut waiting = written.lock();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        written.waits.store(true, SeqCst);
        // It may have been flushed just now.
        if is_sent() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether interim answers to the request that has just begun may be sent.
    pub(super) fn allow_interim(&self, allowed: bool) {
        self.interim.allowed.store(allowed, Relaxed);
    }

    /// Sends an interim answer before the answer to the request in flight. It is dropped while bytes of the
    /// answer before that are not sent, as it must not stand within them.
    pub(super) fn add_interim(&self, status: StatusCode, headers: &HeaderMap) {
        if !self.interim.allowed.load(Relaxed) || self.written.unwritten.load(SeqCst) {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        let mut bytes = self.interim();
        if bytes.len() >= MAX_INTERIM {
            return;
        }
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        self.interim.waits.store(true, Relaxed);
    }

    /// Whether interim answers wait to be sent.
    pub(super) fn has_interim(&self) -> bool {
        self.interim.waits.load(Relaxed)
    }

    /// They were sent up to `length`.
    pub(super) fn sent_interim(&self, length: usize) {
        let mut bytes = self.interim();
        bytes.drain(..length);
        self.interim.waits.store(!bytes.is_empty(), Relaxed);
    }

    /// The bytes of the interim answers.
    pub(super) fn interim(&self) -> MutexGuard<'_, Vec<u8>> {
        self.interim.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a request begins to be read. Returns its number.
    pub(super) fn body_begins(&self) -> u64 {
        let number = self.body.load(Relaxed).wrapping_add(2) | 1;
        self.body.store(number, Relaxed);
        number
    }

    /// The body with this number is not read any more. That of the next request may have begun: whoever reads a body
    /// after its answer may be late.
    pub(super) fn body_ended(&self, number: u64) {
        let _ = self.body.compare_exchange(number, number.wrapping_add(1), Relaxed, Relaxed);
    }

    /// Whether the body of a request is being read.
    pub(super) fn reads_body(&self) -> bool {
        self.body.load(Relaxed) & 1 == 1
    }

    /// Leaves the rest of a request unread.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// Whether the rest of a request was left unread.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// hyper closes the connection.
    pub(super) fn closes(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether there is no request, nothing is left to send, and the connection stays open.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_busy()
            && !self.partial.load(Relaxed)
            && !self.is_unread()
            && !self.closing.load(Relaxed)
            && !self.has_interim()
            && !self.written.unwritten.load(SeqCst)
    }

    /// hyper writes; with `blocked` the socket has taken nothing.
    pub(super) fn wrote(&self, blocked: bool) {
        let written = &self.written;
        written.unwritten.store(true, SeqCst);
        written.blocked.store(blocked, Relaxed);
        if !blocked {
            written.writes.store(written.writes.load(Relaxed) + 1, Relaxed);
        }
    }

    /// How often the client has taken something.
    pub(super) fn writes(&self) -> u64 {
        self.written.writes.load(Relaxed)
    }

    /// Whether the client takes nothing of what there is to send.
    pub(super) fn is_blocked(&self) -> bool {
        self.written.blocked.load(Relaxed)
    }

    pub(super) fn flushed(&self) {
        let written = &self.written;
        // hyper flushes each time that it is polled, most often with nothing to send.
        if !written.unwritten.load(SeqCst) && !written.waits.load(SeqCst) {
            return;
        }
        written.unwritten.store(false, SeqCst);
        written.blocked.store(false, Relaxed);
        written.flushes.store(self.flushes() + 1, SeqCst);
        if written.waits.swap(false, SeqCst) {
            written.lock().drain(..).for_each(Waker::wake);
        }
    }

    pub(super) fn received(&self) {
        // Bytes during a request are most likely its body.
        if !self.is_busy() {
            self.partial.store(true, Relaxed);
        }
    }
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_of_nothing_counts_only_for_those_that_wait() {
        let (watch, cx) = (Watch::default(), Context::from_waker(Waker::noop()));
        watch.wrote(false);
        watch.flushed();
        let since = watch.flushes();
        watch.flushed();
        assert_eq!(watch.flushes(), since, "nothing was sent");
        assert!(watch.poll_sent(since, &cx).is_pending());
        watch.flushed();
        assert!(watch.poll_sent(since, &cx).is_ready(), "hyper had nothing to send");
    }

    #[test]
    fn a_body_that_ends_late_does_not_end_the_next_one() {
        let watch = Watch::default();
        assert!(!watch.reads_body());
        let (first, second) = (watch.body_begins(), watch.body_begins());
        watch.body_ended(first);
        assert!(watch.reads_body());
        watch.body_ended(second);
        assert!(!watch.reads_body());
    }

    #[test]
    fn interim_answers_that_wait_are_bounded() {
        let watch = Watch::default();
        watch.allow_interim(true);
        for _ in 0..10_000 {
            watch.add_interim(StatusCode::EARLY_HINTS, &HeaderMap::new());
        }
        let waiting = watch.interim().len();
        assert!((MAX_INTERIM..MAX_INTERIM + 64).contains(&waiting), "{waiting} bytes wait");
        watch.sent_interim(waiting);
        assert!(!watch.has_interim());
        watch.add_interim(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert!(watch.has_interim(), "there is room again");
    }
}
