//! `ClientIp`: routes a request by a hash of the client's address.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use super::address::{ClientAddress, Forwarding};
use crate::{
    affinity::{
        BoundAffinity, Head, Origin, ReadContext, Reading,
        found::{FindingKind, Findings, Found},
        hashing::{HashOptions, Hashing, hash_setters},
        token_options::invalid,
        traits::sealed::Bind,
    },
    error::ConfigError,
    session::Peer,
};

/// Affinity by the client's address, as nginx's `ip_hash` and HAProxy's `balance source` do it: a
/// [`Key`](crate::affinity::Key) that every client has. A session moves when the client's address
/// changes, and all clients behind one address go to one backend. Prefer it as the last member of a
/// [`Chain`](crate::affinity::Chain).
///
/// The address is that of the connection's peer: of the [`Peer`] in the request's extensions, or,
/// with the features `axum` and `tonic`, of Axum's `ConnectInfo<SocketAddr>` and Tonic's
/// `TcpConnectInfo`, or the result of a function. If the peer is a trusted proxy, it is the right-most
/// untrusted address in `X-Forwarded-For` or `Forwarded`. These headers of an untrusted peer are ignored.
/// Ports are dropped, and IPv4-mapped addresses count as IPv4.
///
/// # Example
///
/// ```
/// use tower_sticky::affinity::ClientIp;
///
/// let by_address = ClientIp::new().trusted_proxies(["10.0.0.0/8", "fd00::/8"])?.ipv4_prefix(24);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct ClientIp {
    address: ClientAddress,
    prefixes: (u8, u8),
    peer: Arc<FindPeer>,
    hashing: HashOptions,
}

pub(super) type FindPeer = dyn Fn(&Head<'_>) -> Option<IpAddr> + Send + Sync;

/// The header in which trusted proxies give the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedBy {
    /// `X-Forwarded-For` when the request has one, else `Forwarded`: for proxies that write the
    /// former, or both.
    Either,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): for proxies that write it and forward `X-Forwarded-For` unchanged.
    Forwarded,
}

impl ClientIp {
    /// Trusts no proxy. All bits of an IPv4 address count, and the first 64 bits of an IPv6 address.
    pub fn new() -> Self {
        Self {
            address: ClientAddress::new(),
            prefixes: (32, 64),
            peer: Arc::new(peer_of),
            hashing: HashOptions::default(),
        }
    }

    /// The trusted proxies: addresses and CIDR blocks. A [`Peer`] that is
    /// [trusted](Peer::trusted) is one as well.
    ///
    /// # Errors
    ///
    /// When one of them is neither.
    pub fn trusted_proxies<T: AsRef<str>>(
        self,
        networks: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConfigError> {
        let mut parsed = Vec::new();
        for network in networks {
            let text = network.as_ref();
            let host = || text.parse::<IpAddr>().map(IpNet::from);
            parsed.push(text.parse::<IpNet>().or_else(|_| host()).map_err(|_| {
                ConfigError::new(format!(
                    "{text:?} is not a network; use an address or a CIDR block such as \
                     \"10.0.0.0/8\""
                ))
            })?);
        }
        Ok(self.trust(parsed))
    }

    /// As [`trusted_proxies`](Self::trusted_proxies), with networks that are parsed already.
    #[must_use]
    pub fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.address = self.address.trust(networks);
        self
    }

    /// The header that the trusted proxies write; default [`ForwardedBy::Either`]. A header that a proxy
    /// forwards unchanged can be forged by the client.
    #[must_use]
    pub fn forwarded_by(mut self, header: ForwardedBy) -> Self {
        self.address = self.address.forwarding(match header {
            ForwardedBy::Either => Forwarding::Auto,
            ForwardedBy::XForwardedFor => Forwarding::XForwardedFor,
            ForwardedBy::Forwarded => Forwarding::Forwarded,
        });
        self
    }

    /// How many bits of an IPv4 address count, 0 to 32; default 32.
    #[must_use]
    pub fn ipv4_prefix(mut self, bits: u8) -> Self {
        self.prefixes.0 = bits;
        self
    }

    /// How many bits of an IPv6 address count, 0 to 128; default 64, the prefix that a
    /// household or a host keeps while the other bits change.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.prefixes.1 = bits;
        self
    }

    /// A function that returns the address of the connection's peer.
    #[must_use]
    pub fn peer_from(
        mut self,
        peer: impl Fn(&Head<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Arc::new(peer);
        self
    }

    hash_setters! {
        /// A secret that the gateways share, so that clients cannot compute which backend an address goes to.
        secret,

        /// Bounds the load of a backend; see [`Key::balance_factor`](crate::affinity::Key::balance_factor).
        balance_factor,

        /// Looks backends up in a table; see [`Key::maglev`](crate::affinity::Key::maglev).
        maglev,
    }
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The address of the peer, from the extension that the server has set.
pub(super) fn peer_of(head: &Head<'_>) -> Option<IpAddr> {
    peer_addr(head.extensions).map(|addr| addr.ip())
}

/// The address of the connection's peer, as the extensions of a request tell it.
pub(crate) fn peer_addr(extensions: &Extensions) -> Option<SocketAddr> {
    if let Some(peer) = extensions.get::<Peer>() {
        return Some(peer.addr());
    }
    #[cfg(feature = "axum")]
    if let Some(info) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
        return Some(info.0);
    }
    #[cfg(feature = "tonic")]
    if let Some(info) = extensions.get::<tonic::transport::server::TcpConnectInfo>() {
        return info.remote_addr();
    }
    None
}

impl Bind for ClientIp {
    fn bind(&self, _: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let (ipv4, ipv6) = self.prefixes;
        if ipv4 > 32 || ipv6 > 128 {
            return Err(invalid(
                "the client's address",
                "a prefix is longer than the address; use at most 32 bits of IPv4 and 128 of IPv6",
            ));
        }
        Ok(Arc::new(Bound {
            address: self.address.clone().ipv4_prefix(ipv4).ipv6_prefix(ipv6),
            peer: self.peer.clone(),
            hashing: self.hashing.bind()?,
        }))
    }
}

pub(super) struct Bound {
    address: ClientAddress,
    peer: Arc<FindPeer>,
    hashing: Hashing,
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, _: &mut ReadContext<'_>) -> Reading {
        let key = (self.peer)(head).and_then(|peer| {
            let trusted = head.extensions.get::<Peer>().is_some_and(Peer::is_trusted);
            let client = self.address.find(peer, trusted, head.headers);
            // A peer on a Unix socket has no address.
            let is_known = !client.is_unspecified();
            is_known.then(|| self.hashing.hash(&self.address.masked(client)))
        });
        Reading { key, ..Reading::default() }
    }

    fn saves_nothing(&self, _: &HeaderMap) -> bool {
        true
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let reading = self.read(head, cx);
        if reading.key.is_some() {
            found.push(Found::new(FindingKind::ClientAddress, "the connection"));
        }
        reading
    }

    fn hashing(&self, _: Origin) -> Option<&Hashing> {
        Some(&self.hashing)
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIp").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_prefix_do_not_count() {
        let wide = ClientIp::new().ipv4_prefix(24).ipv6_prefix(48);
        assert_eq!(wide.prefixes, (24, 48));
        assert_eq!(ClientIp::new().prefixes, (32, 64));
    }
}
