//! How the bytes that a stream may buffer are divided between hyper and the system.

use crate::util::{Growth, ReadSize};

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

    /// The most that is kept per connection while one side is slow; the head of a response must fit.
    pub(super) fn total(self) -> usize {
        self.0
    }

    /// The most that is read at once, while both sides are fast.
    pub(super) fn largest_read(self) -> usize {
        Growth::RESPONSE.largest(self.0)
    }

    /// How much is read at once.
    pub(super) fn read(self) -> ReadSize {
        ReadSize::new(self.0, Growth::RESPONSE)
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
    fn each_place_that_buffers_has_its_share() {
        for (buffers, total) in [
            (Buffers::default(), 64 << 10),
            (Buffers::new(1 << 20), 1 << 20),
            (Buffers::new(0), 16 << 10),
            (Buffers::new(usize::MAX), 1 << 30),
        ] {
            assert_eq!(buffers.total(), total);
            assert_eq!(buffers.given(), total / 8);
            assert_eq!(buffers.send(), total / 4);
            assert_eq!(buffers.unsent() as usize, total / 2);
            assert_eq!(buffers.window() as usize, total);
        }
    }
}
