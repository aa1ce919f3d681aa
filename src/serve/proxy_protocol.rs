//! The PROXY protocol, in which a proxy in front tells the address of the client: versions 1 and 2 of
//! HAProxy's specification.

use std::{fmt, io, net::SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Which peers of a [`Listener`](super::Listener) send the PROXY protocol, versions
/// [1 and 2](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt). It comes before TLS.
///
/// It is never guessed: whether a connection begins with it depends on the address of the peer alone, or any
/// client could claim any address. A header that is missing, malformed, or longer than 107 bytes in version 1 and
/// 4 KiB in version 2 closes the connection; [`ServerHandle::proxy_protocol_errors`] counts these. The header
/// must be complete within [`Limits::header_timeout`].
///
/// The address in the header is then that of the [`Peer`](crate::Peer), and decides whether its `X-Forwarded-*`
/// are believed. With `LOCAL` and `UNKNOWN`, which proxies use for their own health checks, it is that of the
/// socket.
///
/// [`ServerHandle::proxy_protocol_errors`]: super::ServerHandle::proxy_protocol_errors
/// [`Limits::header_timeout`]: super::Limits::header_timeout
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// No peer sends it.
    #[default]
    Off,
    /// [Trusted proxies](super::Server::trusted_proxies) must send it, and no other peer may.
    Accept,
    /// Every peer must send it, and only [trusted proxies](super::Server::trusted_proxies) may connect.
    Require,
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Header,
    Nothing,
    /// The peer may not connect.
    Refuse,
}

impl ProxyProtocol {
    pub(super) fn expects(self, peer_trusted: bool) -> Expected {
        match (self, peer_trusted) {
            (Self::Off, _) | (Self::Accept, false) => Expected::Nothing,
            (Self::Accept | Self::Require, true) => Expected::Header,
            (Self::Require, false) => Expected::Refuse,
        }
    }
}

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a header of version 1 begins.
const PREFIX: &[u8] = b"PROXY ";
/// The longest header of version 1, according to the specification.
const MAX_V1: usize = 107;
/// The longest header of version 2 that is read. Its addresses take at most 216 bytes; the rest is for options.
const MAX_V2: usize = 4 << 10;
/// The fixed part of a header of version 2.
const HEAD_V2: usize = 16;

/// Why a header was refused.
#[derive(Debug)]
pub(super) enum BadHeader {
    /// The peer has sent nothing and closed the connection, as a health check does.
    Closed,
    Io(io::Error),
    TimedOut,
    /// The peer is not a trusted proxy.
    NotAllowed,
    NoHeader,
    TooLong,
    Malformed,
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed before it"),
            Self::NotAllowed => f.write_str("the peer is not a trusted proxy"),
            Self::TimedOut => f.write_str("it was not complete in time"),
            Self::Io(error) => write!(f, "it could not be read: {error}"),
            Self::NoHeader => f.write_str("the connection does not begin with it"),
            Self::TooLong => f.write_str("it is too long"),
            Self::Malformed => f.write_str("it is malformed"),
        }
    }
}

impl From<io::Error> for BadHeader {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads a header, and no byte of what follows it. `None` when it names no address.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, BadHeader> {
    let mut bytes = Vec::with_capacity(MAX_V1);
    fill(stream, &mut bytes, SIGNATURE.len()).await?;
    if bytes == SIGNATURE {
        fill(stream, &mut bytes, HEAD_V2).await?;
        let length = HEAD_V2 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if length > MAX_V2 {
            return Err(BadHeader::TooLong);
        }
        fill(stream, &mut bytes, length).await?;
    } else if bytes.starts_with(PREFIX) {
        read_line(stream, &mut bytes).await?;
    } else {
        return Err(BadHeader::NoHeader);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(&bytes, config) {
        Ok((header, length)) if length == bytes.len() => match header.proxied_address() {
            Some(address) if address.protocol != Protocol::Stream => Err(BadHeader::Malformed),
            address => Ok(address.map(|address| address.source)),
        },
        _ => Err(BadHeader::Malformed),
    }
}

/// Reads until there are `length` bytes.
async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    length: usize,
) -> Result<(), BadHeader> {
    let mut filled = bytes.len();
    bytes.resize(length, 0);
    while filled < length {
        match stream.read(&mut bytes[filled..]).await? {
            0 if filled == 0 => return Err(BadHeader::Closed),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// Reads to the end of the line: as many bytes at a time as are missing at least.
async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Result<(), BadHeader> {
    while !bytes.ends_with(b"\r\n") {
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        if bytes.len() + missing > MAX_V1 {
            return Err(BadHeader::TooLong);
        }
        let length = bytes.len() + missing;
        fill(stream, bytes, length).await?;
        if bytes.contains(&b'\n') && !bytes.ends_with(b"\r\n") {
            return Err(BadHeader::Malformed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parsed(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, BadHeader>, usize) {
        let result = read(&mut bytes).await;
        (result, bytes.len())
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    #[tokio::test]
    async fn addresses_are_read_and_nothing_behind_them() {
        let v1 = |line: &str| format!("{line}\r\nGET /").into_bytes();
        let with_tlv = [&V4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (header, source) in [
            (v1("PROXY TCP4 192.0.2.1 10.0.0.1 4660 80"), Some("192.0.2.1:4660")),
            (v1("PROXY TCP6 2001:db8::1 ::1 4660 80"), Some("[2001:db8::1]:4660")),
            (v1("PROXY UNKNOWN"), None),
            (v1("PROXY UNKNOWN ffff::1 ffff::2 1 2"), None),
            ([v2(0x21, 0x11, &V4), b"GET /".to_vec()].concat(), Some("192.0.2.1:4660")),
            ([v2(0x21, 0x11, &with_tlv), b"GET /".to_vec()].concat(), Some("192.0.2.1:4660")),
            ([v2(0x20, 0x11, &V4), b"GET /".to_vec()].concat(), None),
            ([v2(0x20, 0, &[]), b"GET /".to_vec()].concat(), None),
            ([v2(0x21, 0x31, &[1; 216]), b"GET /".to_vec()].concat(), None),
        ] {
            let (result, left) = parsed(&header).await;
            let source = source.map(|source| source.parse().unwrap());
            assert_eq!(result.unwrap(), source, "{}", header.escape_ascii());
            assert_eq!(left, 5, "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn malformed_headers_are_refused() {
        for header in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
            b"PROXY TCP4 a.b.c.d 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 99999\r\n".to_vec(),
            b"PROXY TCP9 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n".to_vec(),
            [b"PROXY UNKNOWN ", &[b'a'; 200][..]].concat(),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x12, &V4),
            v2(0x31, 0x11, &V4),
            v2(0x21, 0x11, &[0; 5000]),
            SIGNATURE.to_vec(),
            Vec::new(),
        ] {
            assert!(parsed(&header).await.0.is_err(), "{}", header.escape_ascii());
        }
    }
}
