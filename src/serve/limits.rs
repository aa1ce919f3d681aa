//! What one client may do, and how long it may take.

use std::time::Duration;

use super::refusal::RequestLimits;

/// The longest time that is waited. A longer one could overflow when it is added to the clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the clients of a [`Server`](super::Server) may do, and how long it may take.
///
/// The defaults suit a server on the open internet. Sizes are in bytes.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::serve::Limits;
///
/// let limits = Limits::new()
///     .connections(50_000)
///     .header_timeout(Duration::from_secs(10))
///     .body_bytes(Some(10 << 20));
/// ```
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) connections: u32,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) tcp_user_timeout: Duration,
    pub(super) buffer_bytes: usize,
    pub(super) request: RequestLimits,
    pub(super) http2: Http2Limits,
    #[cfg(feature = "tls")]
    pub(super) handshakes: u32,
    pub(super) linger: Duration,
    pub(super) linger_bytes: u64,
}

/// The limits of HTTP/2 connections.
#[derive(Debug, Clone)]
pub(super) struct Http2Limits {
    pub(super) streams: u32,
    pub(super) window: u32,
    pub(super) ping: Duration,
    pub(super) ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    /// The defaults, which each setter names.
    #[must_use]
    pub fn new() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            tcp_user_timeout: Duration::from_secs(75),
            buffer_bytes: 64 << 10,
            request: RequestLimits::default(),
            http2: Http2Limits {
                streams: 128,
                window: 64 << 10,
                ping: Duration::from_secs(20),
                ping_timeout: Duration::from_secs(10),
            },
            #[cfg(feature = "tls")]
            handshakes: 256,
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
        }
    }

    /// Connections at once, upgraded ones included; default 10,000, at least 1. Further clients wait in the
    /// system's queue until one closes.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// From the first byte of a request, or from accepting the connection, to the end of the head; default 5 s.
    /// Then the connection is closed.
    #[must_use]
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout.min(LONGEST);
        self
    }

    /// A kept connection without a request; default 60 s. HTTP/1.1 connections are closed up to a second later,
    /// HTTP/2 connections after up to twice that time.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.min(LONGEST);
        self
    }

    /// A client, in HTTP/2 a stream, that takes nothing of what there is to send; default 60 s.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout.min(LONGEST);
        self
    }

    /// Sent data that the client's system does not acknowledge (`TCP_USER_TIMEOUT`, on Linux); default 75 s. It
    /// should be longer than [`write_timeout`](Self::write_timeout).
    #[must_use]
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.tcp_user_timeout = timeout.min(LONGEST);
        self
    }

    /// Bytes of a body that are buffered per stream and direction when one side is slower than the other; default
    /// 64 KiB, at least 16 KiB. After 256 KiB of a request that were passed on without a pause, up to twice as much
    /// is read at once. On Linux the system holds half as many unsent bytes besides (`TCP_NOTSENT_LOWAT`).
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.clamp(16 << 10, 1 << 30);
        self
    }

    /// All header fields of a request, as HTTP/1.1 has them; default 64 KiB, 431 beyond.
    #[must_use]
    pub fn header_bytes(mut self, bytes: usize) -> Self {
        self.request.header_bytes = bytes.clamp(512, 1 << 30);
        self
    }

    /// The number of header fields of a request; default 100, 431 beyond. More than 100 cost an allocation for
    /// each HTTP/1.1 request.
    #[must_use]
    pub fn headers(mut self, fields: usize) -> Self {
        self.request.headers = fields.clamp(1, 10_000);
        self
    }

    /// The target of a request; default 16 KiB, 414 beyond.
    #[must_use]
    pub fn target_bytes(mut self, bytes: usize) -> Self {
        self.request.target_bytes = bytes.max(1);
        self
    }

    /// The body of a request; default `None`, no limit; 413 beyond.
    #[must_use]
    pub fn body_bytes(mut self, bytes: Option<u64>) -> Self {
        self.request.body_bytes = bytes.unwrap_or(u64::MAX);
        self
    }

    /// Streams at once on one HTTP/2 connection; default 128.
    #[must_use]
    pub fn http2_streams(mut self, streams: u32) -> Self {
        self.http2.streams = streams.max(1);
        self
    }

    /// Bytes that the client may send ahead on one HTTP/2 stream (RFC 9113, section 6.9); default 64 KiB.
    #[must_use]
    pub fn http2_window(mut self, bytes: u32) -> Self {
        self.http2.window = bytes.clamp(1024, (1 << 31) - 1);
        self
    }

    /// How often an HTTP/2 connection is pinged, and how long the answer may take; default 20 s and 10 s.
    #[must_use]
    pub fn http2_ping(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.http2.ping, self.http2.ping_timeout) = (interval.min(LONGEST), timeout.min(LONGEST));
        self
    }

    /// TLS handshakes at once; default 256. Further ones wait, within their timeout.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn handshakes(mut self, handshakes: u32) -> Self {
        self.handshakes = handshakes.max(1);
        self
    }

    /// How long the rest of a request is read and dropped after an early response, and how many bytes of it;
    /// default 5 s and 1 MiB.
    #[must_use]
    pub fn linger(mut self, time: Duration, bytes: u64) -> Self {
        (self.linger, self.linger_bytes) = (time.min(LONGEST), bytes);
        self
    }
}
