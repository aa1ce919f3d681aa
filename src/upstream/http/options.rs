//! The options of `Upstream`.

use std::time::Duration;

use super::{Http2, ProxyProtocol, Upstream, buffers::Buffers, forwarded::Via, http2::Pings};
use crate::error::ConfigError;

impl Upstream {
    /// How long connecting may take, name lookup and all addresses included; default 1 s.
    #[must_use]
    pub fn connect_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.connect_timeout = limit)
    }

    /// How long the head of the response may take from the end of the request; default 60 s. There is no such
    /// limit while the request's body is being sent, nor for the response's body.
    #[must_use]
    pub fn response_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.response_timeout = limit)
    }

    /// How long the client may send nothing of its request's body although the connection to the backend
    /// asks for more; default 30 s. It does not apply while the backend reads nothing, nor once the head of
    /// the response has arrived, nor for gRPC (a `content-type` that begins with `application/grpc`) and
    /// upgrades. The error is a [`ClientError`](crate::ClientError).
    #[must_use]
    pub fn body_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.body_timeout = limit)
    }

    /// How long a backend may take to respond to `Expect: 100-continue` before it is sent the body nevertheless;
    /// default 1 s (RFC 9110, section 10.1.1). Until then the body is not polled, so that the request can go
    /// to another backend when the connection ends.
    #[must_use]
    pub fn expect_wait(self, limit: Duration) -> Self {
        self.with(|inner| inner.expect_wait = limit)
    }

    /// How long data may stay unacknowledged before the connection is closed (`TCP_USER_TIMEOUT`, RFC 5482; on
    /// Linux); default 75 s. Connections that are idle for 60 s are probed.
    #[must_use]
    pub fn tcp_user_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.tcp_user_timeout = limit)
    }

    /// Whether to speak HTTP/2; default [`Http2::Off`]. All requests of a runtime thread share one connection, and
    /// another one when all its streams are in use.
    ///
    /// An upgrade (WebSocket) needs HTTP/1.1: with [`Http2::Auto`] it gets a connection for which only that is
    /// offered. A backend that refuses it is sent the request without its upgrade.
    #[must_use]
    pub fn http2(self, http2: impl Into<Http2>) -> Self {
        let http2 = http2.into();
        self.with(|inner| inner.http2 = http2)
    }

    /// How many streams an HTTP/2 connection has at once, if the backend allows so many
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS`; RFC 9113, section 5.1.2); default 128, at least 1.
    #[must_use]
    pub fn http2_max_streams(self, streams: usize) -> Self {
        self.with(|inner| inner.max_streams = streams.max(1))
    }

    /// Pings the backend on each HTTP/2 connection every `interval`, idle ones included, and closes the connection
    /// when it does not answer within `timeout` (RFC 9113, section 6.7); default: no pings. A dead machine is
    /// found without them, too: see [`tcp_user_timeout`](Self::tcp_user_timeout).
    ///
    /// Many gRPC servers close connections that ping more often than every 5 minutes.
    #[must_use]
    pub fn http2_ping(self, interval: Duration, timeout: Duration) -> Self {
        self.with(|inner| inner.pings = Some(Pings { interval, timeout }))
    }

    /// Sends the PROXY protocol at the begin of each connection, before TLS, with the address of the request's
    /// [`Peer`](crate::Peer) as source and this end of the connection as destination; default: it is not sent.
    ///
    /// Such a connection serves requests of that peer only. A request without a peer, or with one on a Unix
    /// socket, gets a connection of its own that says LOCAL (version 1: UNKNOWN), which is closed after the
    /// response. So do probes and [redials](crate::Redial).
    ///
    /// # Errors
    ///
    /// When HTTP/2 is spoken with the backend, or may be chosen by it. With [`http2`](Self::http2) after this,
    /// each connection fails instead.
    pub fn send_proxy(self, version: ProxyProtocol) -> Result<Self, ConfigError> {
        let upstream = self.with(|inner| inner.send_proxy = Some(version));
        upstream.inner.check_send_proxy()?;
        Ok(upstream)
    }

    /// How many idle HTTP/1.1 connections are kept **per runtime thread**; default 512. With 0 each
    /// request has a connection of its own.
    #[must_use]
    pub fn max_idle(self, connections: usize) -> Self {
        self.with(|inner| inner.max_idle = connections)
    }

    /// How long a connection may be idle before it is closed; default 30 s. It should be shorter
    /// than the backend's own keep-alive timeout. One HTTP/2 connection per runtime thread stays open.
    #[must_use]
    pub fn idle_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.idle_timeout = limit)
    }

    /// Whether an idempotent request without a body (RFC 9110, section 9.2.2) may be repeated when
    /// its connection ended before any byte of a response; default `true`.
    ///
    /// After a kept connection it is repeated once on a new connection to the same backend: most likely
    /// the backend closed the old one while it was idle. If that fails, too, or the connection was new, the
    /// error is [`Unanswered`](crate::Unanswered), which carries the
    /// request. No request is sent more than three times in all, whichever backends it goes to.
    #[must_use]
    pub fn replay_idempotent(self, replay: bool) -> Self {
        self.with(|inner| inner.replay_idempotent = replay)
    }

    /// The name that stands for this proxy in the requests' `Via` field (RFC 9110, section 7.6.3);
    /// default `tower-sticky`. With `None` no `Via` is sent, although the RFC requires it; some servers do not
    /// compress responses to requests that have one.
    ///
    /// # Errors
    ///
    /// When the name is not a token.
    pub fn via(self, pseudonym: Option<&str>) -> Result<Self, ConfigError> {
        let via = pseudonym.map(Via::new).transpose()?;
        Ok(self.with(|inner| inner.added.via = via))
    }

    /// The name in the responses' `Via` field; default `None`: no `Via` is added.
    ///
    /// # Errors
    ///
    /// When the name is not a token.
    pub fn response_via(self, pseudonym: Option<&str>) -> Result<Self, ConfigError> {
        let via = pseudonym.map(Via::new).transpose()?;
        Ok(self.with(|inner| inner.added.response_via = via))
    }

    /// Whether requests get `X-Forwarded-Port`: the port of the client's host, or the scheme's; default
    /// `false`. That of a trusted peer is kept.
    #[must_use]
    pub fn x_forwarded_port(self, add: bool) -> Self {
        self.with(|inner| inner.added.forwarded.port = add)
    }

    /// Whether requests get `X-Real-IP`, the peer's address; default `false`. That of a trusted peer is
    /// kept.
    #[must_use]
    pub fn x_real_ip(self, add: bool) -> Self {
        self.with(|inner| inner.added.forwarded.real_ip = add)
    }

    /// Which of the fields that only trusted peers may set are passed on from all peers, for example
    /// `x-forwarded-prefix`; default none.
    ///
    /// # Errors
    ///
    /// When one is not such a field, or one that this proxy writes.
    pub fn pass_forwarded<'a>(
        self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        let mut forwarded = self.inner.added.forwarded.clone();
        forwarded.pass(names)?;
        Ok(self.with(|inner| inner.added.forwarded = forwarded))
    }

    /// How many bytes of a body are buffered per stream and direction when one side is slower than the other;
    /// default 64 KiB, at least 16 KiB. A body is read in quarters of that. After 64 KiB that were passed on without
    /// a pause, up to four times as much is read at once, which costs less, until there is a pause; where it comes, so
    /// much may wait. On Linux the system holds half as many unsent bytes besides
    /// (`TCP_NOTSENT_LOWAT`). The head of an HTTP/1.1 response must fit, or the response is an error. With HTTP/2 it is also
    /// the window of a stream (RFC 9113, section 6.9).
    #[must_use]
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        self.with(|inner| inner.buffers = Buffers::new(bytes))
    }
}
