//! The lines that wait to be written.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::util::lock;

/// How long lines are gathered before they are written.
const INTERVAL: Duration = Duration::from_millis(200);

/// The average of the bytes of the lines that may wait, beyond which they are dropped.
const BYTES_PER_LINE: usize = 1024;

/// The lines that wait to be written, bounded. Whoever adds one never waits for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to do for the writer.
    wake: Condvar,
    /// The writer has done what it was given.
    done: Condvar,
    limit: usize,
    written: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: usize,
    commands: Commands,
    /// The writer is at work on what it has taken.
    busy: bool,
}

/// What the writer does at once.
#[derive(Debug, Default)]
struct Commands {
    /// Everything is to be written.
    flush: bool,
    /// The file is to be opened again.
    reopen: bool,
    /// No line will follow.
    closed: bool,
}

impl Commands {
    fn are_pending(&self) -> bool {
        self.flush || self.reopen || self.closed
    }
}

/// What the writer takes at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) lines: u64,
    /// The file is to be opened again after the lines are written.
    pub(super) reopen: bool,
    /// No more will come.
    pub(super) last: bool,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            limit: limit.max(1),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds a line, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = lock(&self.waiting);
        let bytes = waiting.bytes.len() + line.len();
        if waiting.lines >= self.limit || bytes > self.limit.saturating_mul(BYTES_PER_LINE) {
            drop(waiting);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        // The first line begins an interval, and a full queue ends it early.
        let wakes = waiting.lines == 1 || waiting.lines == self.half();
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    fn half(&self) -> usize {
        (self.limit / 2).max(2)
    }

    /// Waits for lines, and moves them into `batch`, which is empty.
    pub(super) fn take(&self, batch: &mut Vec<u8>) -> Batch {
        let mut waiting = lock(&self.waiting);
        waiting.busy = false;
        self.done.notify_all();
        waiting = self
            .wake
            .wait_while(waiting, |waiting| !waiting.commands.are_pending() && waiting.lines == 0)
            .unwrap_or_else(PoisonError::into_inner);
        let half = self.half();
        waiting = self
            .wake
            .wait_timeout_while(waiting, INTERVAL, |waiting| {
                !waiting.commands.are_pending() && waiting.lines < half
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        std::mem::swap(&mut waiting.bytes, batch);
        let lines = std::mem::take(&mut waiting.lines) as u64;
        let reopen = std::mem::take(&mut waiting.commands.reopen);
        waiting.commands.flush = false;
        waiting.busy = true;
        Batch { lines, reopen, last: waiting.commands.closed }
    }

    /// The file is to be opened again.
    pub(super) fn reopen(&self) {
        lock(&self.waiting).commands.reopen = true;
        self.wake.notify_one();
    }

    /// No line will follow.
    pub(super) fn close(&self) {
        lock(&self.waiting).commands.closed = true;
        self.wake.notify_one();
    }

    /// Waits until everything is written, at most for `limit`. Whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.commands.flush = true;
        self.wake.notify_one();
        let is_at_work = |waiting: &mut Waiting| waiting.lines > 0 || waiting.busy;
        let waited = self.done.wait_timeout_while(waiting, limit, is_at_work);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub(super) fn count_written(&self, lines: u64) {
        self.written.fetch_add(lines, Relaxed);
    }

    pub(super) fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
