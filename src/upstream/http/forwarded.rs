//! Whom a request came from and over what: `Forwarded` (RFC 7239), `X-Forwarded-*` and `Via`
//! (RFC 9110, section 7.6.3).

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use crate::{
    error::ConfigError,
    session::{Peer, peer_headers::value},
};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether `name` is one of ours with underscores: many application servers fold both into one
/// variable, so a client could slip its own word past us.
pub(super) fn is_disguised(name: &str) -> bool {
    name.contains('_')
        && [FOR, PROTO, HOST].iter().any(|ours| {
            let ours = ours.as_str();
            name.len() == ours.len()
                && name.bytes().zip(ours.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
        })
}

/// Says whom the request came from: added to what a trusted peer said, instead of what any other
/// said. Without a peer nothing is known, so nothing is said.
pub(super) fn apply(
    headers: &mut HeaderMap,
    peer: Option<&Peer>,
    host: &HeaderValue,
    any_present: bool,
) {
    let Some(peer) = peer else {
        if any_present {
            for name in [FOR, PROTO, HOST, header::FORWARDED] {
                headers.remove(name);
            }
        }
        return;
    };
    let lines = peer.lines();
    let append = any_present && peer.is_trusted();
    for (name, ours) in [
        (FOR, lines.address.clone()),
        (PROTO, lines.proto.clone()),
        (HOST, host.clone()),
        (header::FORWARDED, lines.forwarded(host)),
    ] {
        let ours = if append { joined(headers, &name, ours) } else { ours };
        headers.insert(name, ours);
    }
}

/// One field with all elements: many backends read the first field only.
fn joined(headers: &HeaderMap, name: &HeaderName, ours: HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for said in headers.get_all(name) {
        if !said.as_bytes().trim_ascii().is_empty() {
            list.extend_from_slice(said.as_bytes());
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
        apply(&mut headers, peer, &HeaderValue::from_static("shop.example"), true);
        headers
    }

    const FORGED: [(&str, &str); 4] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=1.1.1.1"),
    ];

    #[test]
    fn an_untrusted_word_is_replaced() {
        let headers = applied(Some(&Peer::new("10.1.2.3:4".parse().unwrap())), &FORGED);
        assert_eq!(headers["x-forwarded-for"], "10.1.2.3");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.example");
        assert_eq!(headers["forwarded"], "for=10.1.2.3;proto=http;host=shop.example");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn a_trusted_word_is_added_to() {
        let peer = Peer::new("[2001:db8::1]:4".parse().unwrap()).trusted(true).https(true);
        let headers =
            applied(Some(&peer), &[&FORGED[..], &[("x-forwarded-for", "2.2.2.2")]].concat());
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 2001:db8::1");
        assert_eq!(headers["x-forwarded-proto"], "https, https");
        assert_eq!(
            headers["forwarded"],
            "for=1.1.1.1, for=\"[2001:db8::1]\";proto=https;host=shop.example"
        );
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn without_a_peer_nothing_is_said() {
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
    fn a_setter_after_the_first_request_is_heard() {
        let peer = Peer::new("10.1.2.3:4".parse().unwrap());
        assert_eq!(applied(Some(&peer), &[])["x-forwarded-proto"], "http");
        assert_eq!(applied(Some(&peer.https(true)), &[])["x-forwarded-proto"], "https");
    }

    #[test]
    fn disguises() {
        assert!(is_disguised("x_forwarded_for"));
        assert!(is_disguised("x-forwarded_proto"));
        assert!(!is_disguised("x-forwarded-for"));
        assert!(!is_disguised("x_other"));
    }

    #[test]
    fn via_is_a_token() {
        assert_eq!(Via::new("edge").unwrap().of(Version::HTTP_2), "2.0 edge");
        assert!(Via::new("a b").is_err());
        assert!(Via::new("").is_err());
    }
}
