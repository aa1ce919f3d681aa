//! How much is read from a socket at once: little while it is passed on slowly, so that little is buffered, and
//! more while it is passed on at once, which costs fewer system calls.

use std::time::Duration;

use tokio::time::Instant;

/// After so many bytes that were taken without a pause, reads are large.
const FAST_AFTER: u64 = 128 << 10;
/// A peer that takes longer than this for what was read is slow.
const PAUSE: Duration = Duration::from_millis(10);

/// The size of the next read.
#[derive(Debug)]
pub(super) struct ReadSize {
    small: u64,
    large: u64,
    /// The bytes that were read since the last pause.
    taken: u64,
    /// When the last read ended, if it was as large as it might be.
    last: Option<Instant>,
}

impl ReadSize {
    pub(super) fn new(small: u64, large: u64) -> Self {
        Self { small, large, taken: 0, last: None }
    }

    /// Another message begins: its reader may be another one.
    pub(super) fn reset(&mut self) {
        (self.taken, self.last) = (0, None);
    }

    /// The most that may be read now.
    pub(super) fn next(&mut self) -> u64 {
        if self.last.take().is_some_and(|last| last.elapsed() > PAUSE) {
            self.taken = 0;
        }
        if self.taken < FAST_AFTER { self.small } else { self.large }
    }

    /// So many bytes were read.
    pub(super) fn read(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.taken = self.taken.saturating_add(bytes);
        // The time is only asked for where it matters.
        self.last = (bytes >= self.small).then(Instant::now);
    }
}
