//! How much is read from a socket at once: little while it is passed on slowly, so that little is buffered, and
//! more while it is passed on at once, which costs fewer system calls.

use std::time::Duration;

use tokio::time::Instant;

/// When reads become large, and how large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// After so many bytes that were taken without a pause.
    after: u64,
    /// So many times what is buffered while one side is slow.
    times: u64,
    /// The part of what is buffered that is read at once while one side is slow.
    part: usize,
}

impl Growth {
    /// Of the bodies of responses. A client that reads nothing has taken less than this when it blocks.
    #[cfg(any(feature = "proxy", test))]
    pub(crate) const RESPONSE: Self = Self { after: 64 << 10, times: 4, part: 4 };
    /// Of the bodies of requests: the system takes more for a backend that reads nothing.
    #[cfg(any(feature = "serve", test))]
    pub(crate) const REQUEST: Self = Self { after: 256 << 10, times: 2, part: 8 };

    /// The largest read of a connection that buffers so many bytes while one side is slow.
    pub(crate) fn largest(self, buffer_bytes: usize) -> usize {
        buffer_bytes.saturating_mul(usize::try_from(self.times).unwrap_or(usize::MAX))
    }
}

/// A peer that takes longer than this for what was read is slow.
const PAUSE: Duration = Duration::from_millis(10);

/// hyper's smallest buffer.
const SMALLEST: usize = 8 << 10;

/// So many bytes, but for one: hyper doubles its buffer when a read has filled it, so that it stays at this size.
fn small(bytes: usize) -> u64 {
    (1 << bytes.max(SMALLEST).ilog2()) - 1
}

/// The size of the next read.
#[derive(Debug)]
pub(crate) struct ReadSize {
    small: u64,
    large: u64,
    large_after: u64,
    /// The bytes that were read since the last pause.
    taken: u64,
    /// When the last read ended, if it was as large as it might be.
    last: Option<Instant>,
}

impl ReadSize {
    /// For a connection that buffers `buffer_bytes`: a part of it while what is read is taken slowly, and more while
    /// it is taken at once.
    pub(crate) fn new(buffer_bytes: usize, growth: Growth) -> Self {
        let large = growth.largest(buffer_bytes) as u64;
        let small = small(buffer_bytes / growth.part);
        Self { small, large, large_after: growth.after, taken: 0, last: None }
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
        if self.taken < self.large_after { self.small } else { self.large }
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
        let mut size = ReadSize::new(64 << 10, Growth::RESPONSE);
        for _ in 0..5 {
            assert_eq!(size.next(), SMALL as u64);
            size.read(SMALL);
        }
        assert_eq!(size.next(), 256 << 10, "more than 64 KiB were taken without a pause");
        size.read(256 << 10);
        tokio::time::advance(PAUSE + Duration::from_millis(1)).await;
        assert_eq!(size.next(), SMALL as u64, "there was a pause");
        for _ in 0..5 {
            size.read(SMALL);
        }
        tokio::time::advance(PAUSE).await;
        assert_eq!(size.next(), 256 << 10);
        size.reset();
        assert_eq!(size.next(), SMALL as u64, "another message begins");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_of_requests_grow_later_and_less() {
        let mut size = ReadSize::new(64 << 10, Growth::REQUEST);
        size.read((256 << 10) - 1);
        assert_eq!(size.next(), (8 << 10) - 1);
        size.read(1);
        assert_eq!(size.next(), 128 << 10);
    }

    #[test]
    fn a_small_read_does_not_fill_hypers_buffer() {
        for (bytes, read) in [
            (0, (8 << 10) - 1),
            (16 << 10, (16 << 10) - 1),
            (25_000, (16 << 10) - 1),
            (256 << 10, (256 << 10) - 1),
        ] {
            assert_eq!(small(bytes), read, "{bytes}");
        }
    }
}
