//! The PROXY protocol to a backend.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::stream::Stream;
use crate::error::{BoxError, TimedOut};

/// A version of the [PROXY protocol], by which a backend learns the address of the client.
///
/// [PROXY protocol]: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text, such as `PROXY TCP4 192.0.2.1 192.0.2.9 51000 8080`.
    V1,
    /// A binary header.
    V2,
}

/// Which requests a connection may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    Any,
    /// Those of the client with this address, which the backend was told.
    Client(SocketAddr),
    /// None after the first.
    Never,
}

impl Reuse {
    /// Tells most clients apart, at the cost of a comparison of numbers.
    #[inline]
    pub(super) fn tag(self) -> u64 {
        match self {
            Self::Client(SocketAddr::V4(addr)) => {
                u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port())
            }
            Self::Client(SocketAddr::V6(addr)) => {
                let bits = addr.ip().to_bits();
                (bits >> 64) as u64 ^ (bits as u64).rotate_left(16) ^ u64::from(addr.port())
            }
            Self::Any | Self::Never => 0,
        }
    }
}

impl ProxyProtocol {
    /// Writes the header of a new connection. Without a client the connection is this proxy's own: LOCAL in version
    /// 2, UNKNOWN in version 1.
    pub(super) async fn send(
        self,
        stream: &mut Stream,
        client: Option<SocketAddr>,
        deadline: Instant,
    ) -> Result<(), BoxError> {
        let header = self.header(client.map(|client| (client, stream.local_addr())))?;
        match timeout_at(deadline, stream.write_all(&header)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(TimedOut::CONNECT.into()),
        }
    }

    /// The header for a client and the address that it has connected to, if that is known.
    fn header(self, ends: Option<(SocketAddr, Option<SocketAddr>)>) -> Result<Vec<u8>, BoxError> {
        let header = match ends {
            Some((client, to)) => ProxyHeader::with_address(addresses(client, to)),
            None => ProxyHeader::with_local(),
        };
        let mut bytes = Vec::new();
        match self {
            Self::V1 => header.encode_v1(&mut bytes)?,
            Self::V2 => header.encode_v2(&mut bytes)?,
        }
        Ok(bytes)
    }
}

/// The addresses in one family, as the header requires: that of IPv4 if both are, IPv6 otherwise.
fn addresses(source: SocketAddr, destination: Option<SocketAddr>) -> ProxiedAddress {
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let source = canonical(source);
    let destination = destination.map_or_else(|| unspecified(source), canonical);
    if source.is_ipv4() == destination.is_ipv4() {
        return ProxiedAddress::stream(source, destination);
    }
    ProxiedAddress::stream(mapped(source), mapped(destination))
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), addr.port())),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(client: &str, to: Option<&str>) -> String {
        let to = to.map(|to| to.parse().unwrap());
        let header = ProxyProtocol::V1.header(Some((client.parse().unwrap(), to))).unwrap();
        String::from_utf8(header).unwrap()
    }

    #[test]
    fn both_addresses_are_of_one_family() {
        let v4 = "PROXY TCP4 192.0.2.1 192.0.2.9 51000 80\r\n";
        assert_eq!(line("192.0.2.1:51000", Some("192.0.2.9:80")), v4);
        assert_eq!(line("[::ffff:192.0.2.1]:51000", Some("[::ffff:192.0.2.9]:80")), v4);
        assert_eq!(
            line("192.0.2.1:51000", Some("[fd00::9]:80")),
            "PROXY TCP6 ::ffff:192.0.2.1 fd00::9 51000 80\r\n"
        );
        assert_eq!(
            line("[fd00::1]:51000", Some("192.0.2.9:80")),
            "PROXY TCP6 fd00::1 ::ffff:192.0.2.9 51000 80\r\n"
        );
        assert_eq!(line("192.0.2.1:51000", None), "PROXY TCP4 192.0.2.1 0.0.0.0 51000 0\r\n");
        assert_eq!(line("[fd00::1]:51000", None), "PROXY TCP6 fd00::1 :: 51000 0\r\n");
    }

    #[test]
    fn a_connection_without_a_client_says_so() {
        assert_eq!(ProxyProtocol::V1.header(None).unwrap(), b"PROXY UNKNOWN\r\n");
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(ProxyProtocol::V2.header(None).unwrap(), local);
    }

    #[test]
    fn version_2_is_binary() {
        let ends = ("192.0.2.1:258".parse().unwrap(), Some("192.0.2.9:80".parse().unwrap()));
        let header = ProxyProtocol::V2.header(Some(ends)).unwrap();
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        expected.extend([192, 0, 2, 1, 192, 0, 2, 9, 1, 2, 0, 80]);
        assert_eq!(header, expected);
    }

    /// Of networks, hosts and ports that are alike.
    #[test]
    fn tags_tell_clients_apart() {
        let clients = [
            "192.0.2.1:1",
            "192.0.2.1:2",
            "192.0.2.2:1",
            "[fd00::1]:1",
            "[fd00::1]:2",
            "[fd00::2]:1",
            "[fd01::1]:1",
            "[fd00:0:0:ffff::1]:1",
            "[fd00:0:0:ffff::1]:2",
            "[fd00:0:0:ffff:1::1]:1",
            "[fd00:0:0:ffff:2::1]:1",
        ];
        let mut tags: Vec<_> =
            clients.iter().map(|client| Reuse::Client(client.parse().unwrap()).tag()).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), clients.len());
        assert_eq!(Reuse::Any.tag(), Reuse::Never.tag());
    }
}
