//! How much is read from a socket at once: little while it is passed on slowly, so that little is buffered, and
//! more while it is passed on at once, which costs fewer system calls.

use std::time::Duration;

use tokio::time::Instant;

/// After so many bytes that were taken without a pause, reads are large.
const FAST_AFTER: u64 = 128 << 10;
/// A peer that takes longer than this for what was read is slow.
const PAUSE: Duration = Duration::from_millis(10);

/// hyper's smallest buffer.
const SMALLEST: usize = 8 << 10;

/// A quarter of the buffered bytes, but for one: hyper doubles its buffer when a read has filled it, so that it
/// stays at this size.
fn small(buffer_bytes: usize) -> u64 {
    let quarter = (buffer_bytes / 4).max(SMALLEST);
    (1 << quarter.ilog2()) - 1
}

/// The size of the next read.
#[derive(Debug)]
pub(crate) struct ReadSize {
    small: u64,
    large: u64,
    /// The bytes that were read since the last pause.
    taken: u64,
    /// When the last read ended, if it was as large as it might be.
    last: Option<Instant>,
}

impl ReadSize {
    /// For a connection that buffers `buffer_bytes`: that much while what is read is taken at once, and a quarter
    /// of it while it is taken slowly.
    pub(crate) fn new(buffer_bytes: usize) -> Self {
        Self { small: small(buffer_bytes), large: buffer_bytes as u64, taken: 0, last: None }
    }

    /// Another message begins: its reader may be another one.
    pub(crate) fn reset(&mut self) {
        (self.taken, self.last) = (0, None);
    }

    /// The most that may be read now.
    pub(crate) fn next(&mut self) -> u64 {
        if self.last.take().is_some_and(|last| last.elapsed() > PAUSE) {
            self.taken = 0;
        }
        if self.taken < FAST_AFTER { self.small } else { self.large }
    }

    /// So many bytes were read.
    pub(crate) fn read(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.taken = self.taken.saturating_add(bytes);
        // The time is only asked for where it matters.
        self.last = (bytes >= self.small).then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = (16 << 10) - 1;

    #[tokio::test(start_paused = true)]
    async fn reads_are_large_while_what_was_read_is_taken_at_once() {
        let mut size = ReadSize::new(64 << 10);
        for _ in 0..9 {
            assert_eq!(size.next(), SMALL as u64);
            size.read(SMALL);
        }
        assert_eq!(size.next(), 64 << 10, "more than 128 KiB were taken without a pause");
        size.read(64 << 10);
        tokio::time::advance(PAUSE + Duration::from_millis(1)).await;
        assert_eq!(size.next(), SMALL as u64, "there was a pause");
        for _ in 0..9 {
            size.read(SMALL);
        }
        tokio::time::advance(PAUSE).await;
        assert_eq!(size.next(), 64 << 10);
        size.reset();
        assert_eq!(size.next(), SMALL as u64, "another message begins");
    }

    #[test]
    fn a_small_read_does_not_fill_hypers_buffer() {
        for (bytes, read) in [
            (0, (8 << 10) - 1),
            (64 << 10, (16 << 10) - 1),
            (100_000, (16 << 10) - 1),
            (1 << 20, (256 << 10) - 1),
        ] {
            assert_eq!(small(bytes), read, "{bytes}");
        }
    }
}
