//! How the bytes that a stream may buffer are divided between hyper and the system.

use super::read_size::ReadSize;

/// The bytes that are buffered per stream and direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers(usize);

/// hyper's smallest buffer.
const SMALLEST_READ: usize = 8 << 10;

/// HTTP/2 windows of all streams of a connection together (RFC 9113, section 6.9.1). Each stream has its own
/// limit; with a smaller one, streams that are read slowly would stop all others.
pub(super) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

impl Default for Buffers {
    fn default() -> Self {
        Self(64 << 10)
    }
}

impl Buffers {
    pub(super) fn new(bytes: usize) -> Self {
        Self(bytes.clamp(2 * SMALLEST_READ, 1 << 30))
    }

    /// The most that hyper keeps per connection; the head of a response must fit.
    pub(super) fn total(self) -> usize {
        self.0
    }

    /// The most that is read at once, while it is taken slowly and while it is taken at once. The first is a
    /// quarter, but for a byte: hyper doubles its buffer when a read has filled it, so that it stays at this size.
    pub(super) fn read(self) -> ReadSize {
        ReadSize::new(self.small_read(), self.0 as u64)
    }

    fn small_read(self) -> u64 {
        let quarter = (self.0 / 4).max(SMALLEST_READ);
        (1 << quarter.ilog2()) - 1
    }

    /// With so much of a request's body that is not sent, hyper gets no more.
    pub(super) fn given(self) -> usize {
        self.0 / 8
    }

    /// The most that HTTP/2 keeps of a stream's body that is to be sent.
    pub(super) fn send(self) -> usize {
        self.0 / 4
    }

    /// Of an HTTP/2 stream: what may come before it is read.
    pub(super) fn window(self) -> u32 {
        u32::try_from(self.0).unwrap_or(CONNECTION_WINDOW)
    }

    /// Bytes that the system has not sent yet: while there are more, it takes no others.
    pub(super) fn unsent(self) -> u32 {
        u32::try_from(self.0 / 2).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_does_not_fill_hypers_buffer() {
        for (bytes, read) in [
            (0, (8 << 10) - 1),
            (64 << 10, (16 << 10) - 1),
            (100_000, (16 << 10) - 1),
            (1 << 20, (256 << 10) - 1),
        ] {
            assert_eq!(Buffers::new(bytes).small_read(), read, "{bytes}");
        }
    }
}
