//! The fields that tell a backend about the client: `Forwarded` (RFC 7239), `X-Forwarded-*`, and `Via` (RFC
//! 9110, section 7.6.3).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use crate::{
    error::ConfigError,
    session::{Peer, peer_headers::value},
};

const PREFIX: &str = "x-forwarded-";
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What a field name has to do with forwarding.
pub(super) enum Kind {
    /// Only a trusted proxy may set it: `Forwarded`, every `X-Forwarded-*`, and the names in which proxies
    /// pass on the client's address.
    Forwarded,
    /// One of those with underscores. Many application servers fold both into one variable, so that
    /// a client could set it nevertheless.
    Disguised,
    Other,
}

/// The list of those fields.
pub(super) fn kind(name: &str) -> Kind {
    // All that are listed begin with one of these.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f' | b't')) {
        Kind::Other
    } else if is_listed(name) {
        Kind::Forwarded
    } else if name.contains('_') && is_listed(&name.replace('_', "-")) {
        Kind::Disguised
    } else {
        Kind::Other
    }
}

fn is_listed(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => name.starts_with(PREFIX) || matches!(name, "x-real-ip" | "x-client-ip"),
        Some(b'f') => name == "forwarded",
        Some(b't') => name == "true-client-ip",
        _ => false,
    }
}

/// Which of the optional fields are written, and which fields of untrusted peers are passed on.
#[derive(Debug, Clone, Default)]
pub(super) struct ForwardedOptions {
    pub(super) port: bool,
    pub(super) real_ip: bool,
    passed: Arc<[HeaderName]>,
}

impl ForwardedOptions {
    /// Passes these fields on from all peers.
    pub(super) fn pass<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ConfigError> {
        let names = names.into_iter().map(|name| {
            let wrong = |why| ConfigError::new(format!("the forwarded field {name:?} {why}"));
            let parsed: HeaderName = name.parse().map_err(|_| wrong("is not a field name"))?;
            if [FOR, PROTO, HOST, header::FORWARDED].contains(&parsed) {
                return Err(wrong("is written by the proxy, so that it cannot be passed on"));
            }
            match kind(parsed.as_str()) {
                Kind::Forwarded => Ok(parsed),
                Kind::Disguised | Kind::Other => {
                    Err(wrong("is not one that is removed; expected an X-Forwarded-* or the like"))
                }
            }
        });
        self.passed = names.collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Sets the fields. Those of a trusted peer are kept, and its lists are appended to; those of any other peer
/// are replaced. Without a peer they are removed.
pub(super) fn apply(
    headers: &mut HeaderMap,
    peer: Option<&Peer>,
    host: &HeaderValue,
    options: &ForwardedOptions,
    any_present: bool,
) {
    let keeps = any_present && peer.is_some_and(Peer::is_trusted);
    if any_present && !keeps {
        remove(headers, &options.passed);
    }
    let Some(peer) = peer else { return };
    // It was removed with the fields of the client, although it is ours.
    #[cfg(all(feature = "serve", feature = "tls"))]
    if let Some(cert) = peer.forwarded_client_cert() {
        cert.apply(headers);
    }
    let lines = peer.lines();
    let address = lines.address.clone().map(|address| (FOR, address));
    let forwarded = (header::FORWARDED, lines.forwarded(host));
    for (name, ours) in address.into_iter().chain([forwarded]) {
        let ours = if keeps { joined(headers, &name, ours) } else { ours };
        headers.insert(name, ours);
    }
    let mut set = |name: HeaderName, ours: HeaderValue| {
        if !any_present || !headers.contains_key(&name) {
            headers.insert(name, ours);
        }
    };
    set(PROTO, lines.proto.clone());
    set(HOST, host.clone());
    if options.port {
        set(PORT, port(host, &lines.proto));
    }
    if options.real_ip
        && let Some(address) = &lines.address
    {
        set(REAL_IP, address.clone());
    }
}

/// Removes the fields that only a trusted peer may set.
#[cold]
fn remove(headers: &mut HeaderMap, passed: &[HeaderName]) {
    let is_removed = |name: &&HeaderName| {
        matches!(kind(name.as_str()), Kind::Forwarded) && !passed.contains(name)
    };
    let names: Vec<_> = headers.keys().filter(is_removed).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The port that the client has asked for: that of its host, or the scheme's.
fn port(host: &HeaderValue, proto: &HeaderValue) -> HeaderValue {
    let host = host.to_str().unwrap_or_default();
    match host.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            value(port)
        }
        _ if proto == "https" => HeaderValue::from_static("443"),
        _ => HeaderValue::from_static("80"),
    }
}

/// One field with all elements: many backends read only the first field.
fn joined(headers: &HeaderMap, name: &HeaderName, ours: HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        if !value.as_bytes().trim_ascii().is_empty() {
            list.extend_from_slice(value.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    if list.is_empty() {
        return ours;
    }
    list.extend_from_slice(ours.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).unwrap_or(ours)
}

/// `Via` for each protocol version that a request may have come with.
#[derive(Debug, Clone)]
pub(super) struct Via {
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    pub(super) fn new(pseudonym: &str) -> Result<Self, ConfigError> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if pseudonym.is_empty() || !pseudonym.bytes().all(token) {
            return Err(ConfigError::new(format!(
                "the Via pseudonym {pseudonym:?} is not a token (RFC 9110); use letters, digits, '-', '.' and '_'"
            )));
        }
        Ok(Self::formatted(pseudonym))
    }

    /// `pseudonym` must be a token.
    pub(super) fn formatted(pseudonym: &str) -> Self {
        Self {
            http_10: value(&format!("1.0 {pseudonym}")),
            http_11: value(&format!("1.1 {pseudonym}")),
            http_2: value(&format!("2.0 {pseudonym}")),
        }
    }

    pub(super) fn of(&self, version: Version) -> HeaderValue {
        match version {
            Version::HTTP_09 | Version::HTTP_10 => self.http_10.clone(),
            Version::HTTP_2 => self.http_2.clone(),
            _ => self.http_11.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::peer_headers::PeerHeaders;

    fn applied(peer: Option<&Peer>, given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let host = HeaderValue::from_static("shop.example");
        apply(&mut headers, peer, &host, &ForwardedOptions::default(), true);
        headers
    }

    const FORGED: [(&str, &str); 8] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-prefix", "/evil"),
        ("x-real-ip", "1.1.1.1"),
        ("x-client-ip", "1.1.1.1"),
        ("true-client-ip", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
    ];

    #[test]
    fn fields_of_an_untrusted_peer_are_replaced() {
        let headers = applied(Some(&Peer::new("10.1.2.3:4".parse().unwrap())), &FORGED);
        assert_eq!(headers["x-forwarded-for"], "10.1.2.3");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.example");
        assert_eq!(headers["forwarded"], "for=10.1.2.3;proto=http;host=shop.example");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn lists_of_a_trusted_peer_are_appended_to() {
        let peer = Peer::new("[2001:db8::1]:4".parse().unwrap()).trusted(true).https(true);
        let headers =
            applied(Some(&peer), &[&FORGED[..], &[("x-forwarded-for", "2.2.2.2")]].concat());
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 2001:db8::1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "evil");
        assert_eq!(headers["x-forwarded-prefix"], "/evil");
        assert_eq!(headers["x-real-ip"], "1.1.1.1");
        assert_eq!(
            headers["forwarded"],
            "for=1.1.1.1, for=\"[2001:db8::1]\";proto=https;host=shop.example"
        );
        assert_eq!(headers.len(), 8);
    }

    #[test]
    fn a_peer_without_an_address_adds_none() {
        let trusted = Peer::unix().trusted(true);
        let headers = applied(Some(&trusted), &FORGED);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1", "the list stays as it is");
        assert_eq!(headers["forwarded"], "for=1.1.1.1, for=unknown;proto=http;host=shop.example");
        for peer in [trusted, Peer::unix()] {
            let headers = applied(Some(&peer), &[]);
            assert!(!headers.contains_key("x-forwarded-for"));
            assert_eq!(headers["forwarded"], "for=unknown;proto=http;host=shop.example");
        }
        assert!(!applied(Some(&Peer::unix()), &FORGED).contains_key("x-forwarded-for"));
    }

    #[test]
    fn optional_fields() {
        let mut options = ForwardedOptions { port: true, real_ip: true, ..Default::default() };
        options.pass(["X-Forwarded-Prefix"]).unwrap();
        let peer = Peer::new("10.1.2.3:4".parse().unwrap());
        for (host, https, port) in [
            ("a", false, "80"),
            ("a", true, "443"),
            ("a:81", true, "81"),
            ("a:", true, "443"),
            ("a:8x", false, "80"),
            ("[::1]", false, "80"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-port", HeaderValue::from_static("666"));
            headers.insert("x-forwarded-prefix", HeaderValue::from_static("/a"));
            let peer = peer.clone().https(https);
            apply(&mut headers, Some(&peer), &host.parse().unwrap(), &options, true);
            assert_eq!(headers["x-forwarded-port"], port, "{host}");
            assert_eq!(headers["x-real-ip"], "10.1.2.3");
            assert_eq!(headers["x-forwarded-prefix"], "/a", "passed by name");
        }
        for name in ["x-forwarded-for", "forwarded", "x-other", "a b"] {
            assert!(options.pass([name]).is_err(), "{name}");
        }
    }

    #[test]
    fn without_a_peer_all_fields_are_removed() {
        assert!(applied(None, &FORGED).is_empty());
    }

    #[test]
    fn mapped_addresses_and_hosts_with_ports() {
        let lines = PeerHeaders::new("[::ffff:1.2.3.4]:5".parse().unwrap(), false);
        let host = HeaderValue::from_static("a:8080");
        for _ in 0..2 {
            assert_eq!(lines.forwarded(&host), "for=1.2.3.4;proto=http;host=\"a:8080\"");
        }
        assert_eq!(
            lines.forwarded(&HeaderValue::from_static("a\"b")),
            "for=1.2.3.4;proto=http",
            "a host that could break out of the quotes is left out"
        );
    }

    #[test]
    fn a_setter_after_the_first_request_takes_effect() {
        let peer = Peer::new("10.1.2.3:4".parse().unwrap());
        assert_eq!(applied(Some(&peer), &[])["x-forwarded-proto"], "http");
        assert_eq!(applied(Some(&peer.https(true)), &[])["x-forwarded-proto"], "https");
    }

    #[test]
    fn disguises() {
        for name in ["x_forwarded_for", "x-forwarded_ssl", "x_real_ip", "true_client-ip"] {
            assert!(matches!(kind(name), Kind::Disguised), "{name}");
        }
        for name in ["x-forwarded-for", "x-forwarded-tls-client-cert", "x-client-ip"] {
            assert!(matches!(kind(name), Kind::Forwarded), "{name}");
        }
        for name in ["x_other", "x-forwarded", "x-request-id", "te"] {
            assert!(matches!(kind(name), Kind::Other), "{name}");
        }
    }

    #[test]
    fn via_is_a_token() {
        assert_eq!(Via::new("edge").unwrap().of(Version::HTTP_2), "2.0 edge");
        assert!(Via::new("a b").is_err());
        assert!(Via::new("").is_err());
    }
}
