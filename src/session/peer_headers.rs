//! The forwarding headers of a client's connection, formatted once.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use http::HeaderValue;

/// The values of the forwarding headers, formatted once for all requests of a connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerHeaders {
    /// `None` for a peer without an address.
    pub(crate) address: Option<HeaderValue>,
    pub(crate) proto: HeaderValue,
    /// `for=…;proto=…`
    element: String,
    /// The first requested host, and the `Forwarded` element with it. Few connections request several
    /// hosts.
    with_host: OnceLock<(HeaderValue, HeaderValue)>,
}

impl PeerHeaders {
    pub(crate) fn new(addr: SocketAddr, https: bool) -> Self {
        // A dual-stack listener shows IPv4 clients as ::ffff:1.2.3.4.
        let ip = addr.ip().to_canonical();
        let proto = if https { "https" } else { "http" };
        let element = match ip {
            _ if ip.is_unspecified() => format!("for=unknown;proto={proto}"),
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        Self {
            address: (!ip.is_unspecified()).then(|| value(&ip.to_string())),
            proto: HeaderValue::from_static(proto),
            element,
            with_host: OnceLock::new(),
        }
    }

    pub(crate) fn forwarded(&self, host: &HeaderValue) -> HeaderValue {
        let (known, line) = self.with_host.get_or_init(|| (host.clone(), self.format(host)));
        if known == host { line.clone() } else { self.format(host) }
    }

    fn format(&self, host: &HeaderValue) -> HeaderValue {
        let Some(host) = host.to_str().ok().filter(|host| !host.contains(['"', '\\'])) else {
            return value(&self.element);
        };
        // A colon is not a token character, so a host with a port is quoted.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let element = &self.element;
        if !host.is_empty() && host.bytes().all(token) {
            value(&format!("{element};host={host}"))
        } else {
            value(&format!("{element};host=\"{host}\""))
        }
    }
}

/// Converts printable text, and uses `unknown` (RFC 7239, section 6.2) for anything else.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}
