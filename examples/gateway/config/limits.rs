//! `[limits]`: how much, and how long.

use std::time::Duration;

use serde::Deserialize;
use tower_sticky::serve;

use super::{
    Error,
    units::{Count, Size, Time},
};

/// Defines the section as it is read and as it is used. One key is one line: its name, the type that
/// reads and checks it, the type that it is used as, and its default.
macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident: $read:ty => $used:ty = $default:expr;)*) => {
        /// `[limits]` as it is written.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, expecting = "a table")]
        pub(crate) struct Section {
            $($(#[$doc])* $key: Option<$read>,)*
        }

        /// `[limits]` with its defaults.
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct Limits {
            $($(#[$doc])* pub(crate) $key: $used,)*
        }

        impl From<Section> for Limits {
            fn from(section: Section) -> Self {
                Self { $($key: section.$key.map_or($default, <$used>::from),)* }
            }
        }
    };
}

limits! {
    /// Open client connections.
    connections: Count<1> => u32 = 10_000;
    /// From the first byte of a request, or from accepting the connection, to the end of the head.
    header_timeout: Time<1> => Duration = Duration::from_secs(5);
    /// A kept client connection without a request.
    idle_timeout: Time<1> => Duration = Duration::from_secs(60);
    /// All header fields of a request.
    header_bytes: Size => u64 = 64 << 10;
    /// Header fields of a request.
    headers: Count<1, 10_000> => usize = 100;
    target_bytes: Size => u64 = 16 << 10;
    /// 0 is no limit.
    body_bytes: Size => u64 = 0;
    /// Streams at once on one HTTP/2 connection of a client.
    h2_streams: Count<1> => u32 = 128;
    /// Per stream.
    h2_window: Size => u64 = 64 << 10;
    h2_ping: Time<1> => Duration = Duration::from_secs(20);
    h2_ping_timeout: Time<1> => Duration = Duration::from_secs(10);
    /// Per direction and stream, unsent bytes of the system included.
    buffer_bytes: Size => u64 = 64 << 10;
    /// A client, or an HTTP/2 stream, that takes nothing of a response.
    write_timeout: Time<1> => Duration = Duration::from_secs(60);
    /// Data without an acknowledgement, on both sides.
    tcp_user_timeout: Time<1> => Duration = Duration::from_secs(75);
    /// How long a backend may take to respond to `Expect: 100-continue`.
    expect_wait: Time => Duration = Duration::from_secs(1);
    /// How long the rest of a request is read and dropped after an early response.
    linger: Time => Duration = Duration::from_secs(5);
    linger_bytes: Size => u64 = 1 << 20;
    /// TLS handshakes at once.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there are none then"))]
    handshakes: Count<1> => u32 = 256;
    connect_timeout: Time<1> => Duration = Duration::from_secs(1);
    /// The whole wait for a backend to become ready, over all candidates.
    ready_timeout: Time => Duration = Duration::from_secs(1);
    /// Per backend.
    max_waiters: Count => usize = 1024;
    /// From the end of the request to the head of the response.
    response_timeout: Time<1> => Duration = Duration::from_secs(60);
    /// The longest silence of a client within a request's body.
    body_timeout: Time<1> => Duration = Duration::from_secs(30);
}

/// The smallest head that is of any use, and the largest that is kept in memory.
const HEADER_BYTES: (u64, u64) = (512, 1 << 30);
/// hyper's smallest buffers, and what is of any use.
const BUFFER_BYTES: (u64, u64) = (16 << 10, 1 << 30);
const TARGET_BYTES: (u64, u64) = (1, 1 << 30);
/// RFC 9113, section 6.9.1.
const H2_WINDOW: (u64, u64) = (1024, (1 << 31) - 1);

impl Limits {
    /// Checks the limits in bytes, and those that depend on each other.
    pub(super) fn checked(self) -> Result<Self, Error> {
        for (key, bytes, (least, most)) in [
            ("limits.header_bytes", self.header_bytes, HEADER_BYTES),
            ("limits.target_bytes", self.target_bytes, TARGET_BYTES),
            ("limits.buffer_bytes", self.buffer_bytes, BUFFER_BYTES),
            ("limits.h2_window", self.h2_window, H2_WINDOW),
        ] {
            if !(least..=most).contains(&bytes) {
                let why = format!("{bytes} bytes; expected at least {least} and at most {most}");
                return Err(Error::of(key, why));
            }
        }
        if self.tcp_user_timeout <= self.write_timeout {
            let why = format!(
                "{:?} does not exceed limits.write_timeout = {:?}; use a longer one",
                self.tcp_user_timeout, self.write_timeout
            );
            return Err(Error::of("limits.tcp_user_timeout", why));
        }
        Ok(self)
    }

    /// What one client may do.
    pub(crate) fn server(&self) -> serve::Limits {
        let limits = serve::Limits::new();
        #[cfg(feature = "tls")]
        let limits = limits.handshakes(self.handshakes);
        limits
            .connections(self.connections)
            .header_timeout(self.header_timeout)
            .idle_timeout(self.idle_timeout)
            .write_timeout(self.write_timeout)
            .tcp_user_timeout(self.tcp_user_timeout)
            .buffer_bytes(self.buffer_bytes as usize)
            .header_bytes(self.header_bytes as usize)
            .headers(self.headers)
            .target_bytes(self.target_bytes as usize)
            .body_bytes((self.body_bytes != 0).then_some(self.body_bytes))
            .http2_streams(self.h2_streams)
            .http2_window(u32::try_from(self.h2_window).unwrap_or(u32::MAX))
            .http2_ping(self.h2_ping, self.h2_ping_timeout)
            .linger(self.linger, self.linger_bytes)
    }
}
