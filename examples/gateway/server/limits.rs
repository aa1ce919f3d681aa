//! What one client may do, and how long it may take.

use std::time::Duration;

use super::refusal::RequestLimits;

/// The limits of all connections of a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerLimits {
    /// From the first byte of a head to its end, zero bytes included.
    pub(crate) header_timeout: Duration,
    /// A kept connection without a request; HTTP/1.1 up to a second longer, HTTP/2 up to twice as long.
    pub(crate) idle_timeout: Duration,
    /// A client that takes nothing of what there is to send.
    pub(crate) write_timeout: Duration,
    /// Data that the client's kernel does not acknowledge.
    pub(crate) tcp_user_timeout: Duration,
    /// Bytes of a body per stream and direction. The system holds half as many unsent bytes besides.
    pub(crate) buffer_bytes: usize,
    pub(crate) request: RequestLimits,
    pub(crate) http2: Http2Limits,
    /// How long the rest of a request is read and dropped after an early answer.
    pub(crate) linger: Duration,
    /// How much of it.
    pub(crate) linger_bytes: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            tcp_user_timeout: Duration::from_secs(75),
            buffer_bytes: 64 << 10,
            request: RequestLimits::default(),
            http2: Http2Limits::default(),
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
        }
    }
}

/// The limits of HTTP/2 connections.
#[derive(Debug, Clone)]
pub(crate) struct Http2Limits {
    /// Streams at once.
    pub(crate) streams: u32,
    /// Bytes of a stream's body that the client may send ahead.
    pub(crate) window: u32,
    /// How often a connection is pinged, and how long the answer may take.
    pub(crate) ping: Duration,
    pub(crate) ping_timeout: Duration,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            streams: 128,
            window: 64 << 10,
            ping: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
        }
    }
}
