//! `Peer`, the remote end of the client's connection, and whether its headers are trusted.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, StatusCode};

/// The client side of a connection, as a request extension. The server creates one for each connection
/// and puts a clone (a pointer) into each request.
///
/// [`Cookie`](crate::affinity::Cookie) uses it to find whether the client used https (attribute
/// `Secure`), and [`Upstream`](crate::proxy::Upstream) writes `Forwarded` and `X-Forwarded-*` from
/// it. Without it a request counts as plain http from an unknown peer, and its forwarding headers are
/// not trusted.
///
/// # Example
///
/// ```
/// use tower_sticky::Peer;
///
/// let peer = Peer::new("10.0.0.7:51000".parse()?).trusted(true);
/// let mut request = http::Request::new(());
/// request.headers_mut().insert("x-forwarded-proto", "https".parse()?);
/// assert!(peer.is_https(request.headers()), "a trusted proxy says that the client used https");
/// request.extensions_mut().insert(peer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

/// What interim answers are passed to.
type OnInterim = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

#[derive(Clone)]
struct Inner {
    addr: SocketAddr,
    https: bool,
    trusted: bool,
    on_interim: Option<OnInterim>,
    #[cfg(all(feature = "serve", feature = "tls"))]
    client_cert: Option<super::client_cert::ClientCert>,
    /// What [`Upstream`](crate::proxy::Upstream) sends to backends about it, formatted at the first
    /// request.
    #[cfg(feature = "proxy")]
    lines: std::sync::OnceLock<super::peer_headers::PeerHeaders>,
}

impl Peer {
    /// A peer at `addr`, over plain http, whose `Forwarded` and `X-Forwarded-*` are not believed.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            inner: Arc::new(Inner {
                addr,
                https: false,
                trusted: false,
                on_interim: None,
                #[cfg(all(feature = "serve", feature = "tls"))]
                client_cert: None,
                #[cfg(feature = "proxy")]
                lines: std::sync::OnceLock::new(),
            }),
        }
    }

    /// A peer on a Unix socket, which has no address: [`addr`](Self::addr) is `0.0.0.0:0`.
    ///
    /// As long as it is not [trusted](Self::trusted), its `Forwarded` and `X-Forwarded-*` are not believed. To
    /// `X-Forwarded-For` nothing is added for it, and `Forwarded` names it `unknown` (RFC 7239, section 6.2).
    pub fn unix() -> Self {
        Self::new((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Whether the connection itself is encrypted; default `false`.
    #[must_use]
    pub fn https(mut self, https: bool) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.https = https;
        #[cfg(feature = "proxy")]
        inner.lines.take();
        self
    }

    /// Whether the peer is a trusted proxy, whose `Forwarded` and `X-Forwarded-*` are used;
    /// default `false`.
    #[must_use]
    pub fn trusted(mut self, trusted: bool) -> Self {
        Arc::make_mut(&mut self.inner).trusted = trusted;
        self
    }

    /// Calls `tell` with the status and the fields of each interim answer (RFC 9110, section 15.2) of an
    /// HTTP/1.1 backend, such as 103 (RFC 8297), while the final answer is awaited; default: they are
    /// dropped. 100 and 101 are not among them. Fields that are of one hop are removed.
    ///
    /// hyper's server has no call that sends them, so that whoever owns the client's socket has to write
    /// them.
    #[must_use]
    pub fn on_interim(
        mut self,
        tell: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.inner).on_interim = Some(Arc::new(tell));
        self
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn tell_interim(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some(tell) = &self.inner.on_interim {
            tell(status, headers);
        }
    }

    /// Backends are told of the client's certificate.
    #[cfg(all(feature = "serve", feature = "tls"))]
    pub(crate) fn client_cert(mut self, cert: super::client_cert::ClientCert) -> Self {
        Arc::make_mut(&mut self.inner).client_cert = Some(cert);
        self
    }

    /// What backends are told of the client's certificate, if they are told.
    #[cfg(all(feature = "serve", feature = "tls"))]
    pub(crate) fn forwarded_client_cert(&self) -> Option<&super::client_cert::ClientCert> {
        self.inner.client_cert.as_ref()
    }

    /// The peer's address, unspecified when it has none.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Whether the peer's `Forwarded` and `X-Forwarded-*` are trusted.
    pub fn is_trusted(&self) -> bool {
        self.inner.trusted
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn lines(&self) -> &super::peer_headers::PeerHeaders {
        let inner = &*self.inner;
        inner.lines.get_or_init(|| super::peer_headers::PeerHeaders::new(inner.addr, inner.https))
    }

    /// Whether the client used https: the connection is encrypted, or the peer is trusted and says
    /// so in the last element of `X-Forwarded-Proto`, or of `Forwarded` (RFC 7239) without that.
    pub fn is_https(&self, headers: &HeaderMap) -> bool {
        self.inner.https || (self.inner.trusted && forwarded_https(headers))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("addr", &self.inner.addr)
            .field("https", &self.inner.https)
            .field("trusted", &self.inner.trusted)
            .finish()
    }
}

fn forwarded_https(headers: &HeaderMap) -> bool {
    if let Some(proto) = headers.get_all("x-forwarded-proto").iter().next_back() {
        let proto = proto.to_str().unwrap_or("");
        return last_element(proto).eq_ignore_ascii_case("https");
    }
    let forwarded = headers.get_all(http::header::FORWARDED).iter().next_back();
    let Some(Ok(forwarded)) = forwarded.map(http::HeaderValue::to_str) else {
        return false;
    };
    last_element(forwarded).split(';').any(|pair| {
        pair.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("proto")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("https")
        })
    })
}

fn last_element(list: &str) -> &str {
    list.rsplit(',').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(trusted: bool, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Peer::new(SocketAddr::from(([127, 0, 0, 1], 1))).trusted(trusted).is_https(&map)
    }

    #[test]
    fn only_the_last_element_of_a_trusted_peer_counts() {
        assert!(https(true, &[("x-forwarded-proto", "https")]));
        assert!(!https(false, &[("x-forwarded-proto", "https")]), "an untrusted peer is ignored");
        assert!(!https(true, &[("x-forwarded-proto", "https, http")]), "the last hop used http");
        assert!(!https(true, &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]));
        assert!(https(
            true,
            &[("forwarded", "for=1.2.3.4;proto=http, for=5.6.7.8; Proto=\"https\"")]
        ));
        assert!(!https(true, &[("forwarded", "for=1.2.3.4;proto=https, for=5.6.7.8")]));
        assert!(!https(true, &[]));
    }
}
