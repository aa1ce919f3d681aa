//! The URL of a backend, parsed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderValue, Uri};

use crate::error::ConfigError;

/// The protocol of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What to connect to. An address needs no lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Addr(SocketAddr),
    Name(String, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// The backend's own `Host`, for a request that has none.
    pub(super) host: HeaderValue,
    pub(super) protocol: Protocol,
}

impl Target {
    /// Parses `http://host[:port][/]`.
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!(
                "the backend URL {url:?} {why}; expected http://host:port, for example http://10.0.0.1:8080"
            ))
        };
        if url.contains(['#', '?']) {
            return Err(wrong("has a query or a fragment, which a backend cannot have"));
        }
        let uri: Uri = url.parse().map_err(|e| wrong(&format!("is not a URL ({e})")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("uses https, which is not built yet")),
            Some(_) => return Err(wrong("has a scheme other than http")),
            None => return Err(wrong("has no scheme")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has user information, which is not passed on to a backend"));
        }
        if uri.path() != "/" {
            return Err(wrong("has a path; requests keep their own path, so give none"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None => 80,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(wrong("has a port that is not between 1 and 65535")),
                Ok(port) => port,
            },
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let endpoint = match bare.parse::<IpAddr>() {
            Ok(ip) => Endpoint::Addr(SocketAddr::new(ip, port)),
            Err(_) if bare.len() != host.len() => {
                return Err(wrong("has a malformed IPv6 address"));
            }
            Err(_) => Endpoint::Name(host.to_owned(), port),
        };
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| wrong("has a host that cannot stand in a header"))?;
        Ok(Self { endpoint, host, protocol: Protocol::Http1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls() {
        let target = Target::parse("http://10.0.0.1:8080").unwrap();
        assert_eq!(target.endpoint, Endpoint::Addr("10.0.0.1:8080".parse().unwrap()));
        assert_eq!(target.host, "10.0.0.1:8080");
        let target = Target::parse("http://[::1]:81/").unwrap();
        assert_eq!(target.endpoint, Endpoint::Addr("[::1]:81".parse().unwrap()));
        let target = Target::parse("http://cart.internal").unwrap();
        assert_eq!(target.endpoint, Endpoint::Name("cart.internal".into(), 80));
    }

    #[test]
    fn bad_urls_say_why() {
        for (url, why) in [
            ("https://a:1", "https"),
            ("ftp://a:1", "scheme"),
            ("a:1", "scheme"),
            ("/a", "scheme"),
            ("", "not a URL"),
            ("http://user:secret@a:1", "user information"),
            ("http://a:1/app", "path"),
            ("http://a:1/?x=1", "query"),
            ("http://a:1?x", "query"),
            ("http://a:1#x", "fragment"),
            ("http://a:0", "port"),
            ("http://a:", "port"),
            ("http://a:65536", "port"),
            ("http://:80", ""),
            ("http://[::g]:80", ""),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
