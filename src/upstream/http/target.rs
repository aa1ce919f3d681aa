//! The URL of a backend, parsed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
#[cfg(unix)]
use std::{os::unix::ffi::OsStrExt, path::Path};

use http::{
    HeaderValue, Uri,
    uri::{InvalidUri, PathAndQuery},
};

use crate::error::ConfigError;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, the last of which is zero.
#[cfg(unix)]
const MAX_SOCKET_PATH: usize = 107;

/// What to connect to. An address needs no lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Addr(SocketAddr),
    Name(String, u16),
    #[cfg(unix)]
    Unix(Arc<Path>),
}

impl Endpoint {
    pub(super) fn is_name(&self) -> bool {
        matches!(self, Self::Name(..))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// The backend's own `Host`, for a request that has none.
    pub(super) host: HeaderValue,
    /// Whether the URL is one of `https`.
    pub(super) is_https: bool,
    /// What is put in front of each request's path.
    base: Option<Arc<str>>,
}

impl Target {
    /// Parses `http://host[:port][/]`, `https://host[:port][/]`, `unix:/path` and `unix:/path|/base`.
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        match url.strip_prefix("unix:") {
            Some(path) => Self::parse_unix(url, path),
            None => Self::parse_http(url),
        }
    }

    #[cfg(not(unix))]
    fn parse_unix(url: &str, _: &str) -> Result<Self, ConfigError> {
        Err(ConfigError::new(format!(
            "the backend URL {url:?} names a Unix socket, which this system does not have"
        )))
    }

    #[cfg(unix)]
    fn parse_unix(url: &str, path: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!(
                "the backend URL {url:?} {why}; expected unix:/PATH or unix:/PATH|/BASE, for example \
                 unix:/run/app.sock"
            ))
        };
        let (path, base) = match path.split_once('|') {
            Some((path, base)) => (path, Some(base)),
            None => (path, None),
        };
        let mut target = Self::unix(Path::new(path)).map_err(&wrong)?;
        if let Some(base) = base {
            let is_path = base.starts_with('/') && !base.contains(['?', '#']);
            if !is_path || base.parse::<PathAndQuery>().is_err() {
                return Err(wrong("has a base path that is not a path such as /base"));
            }
            let base = base.trim_end_matches('/');
            target.base = (!base.is_empty()).then(|| base.into());
        }
        Ok(target)
    }

    /// The socket at `path`, or what is wrong with the path.
    #[cfg(unix)]
    pub(super) fn unix(path: &Path) -> Result<Self, &'static str> {
        if !path.is_absolute() {
            return Err("has a relative path, which depends on the directory of the process");
        }
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err("has a path with a zero byte");
        }
        if bytes.len() > MAX_SOCKET_PATH {
            return Err("has a path of more than 107 bytes, which a Unix socket cannot have");
        }
        Ok(Self {
            endpoint: Endpoint::Unix(path.into()),
            host: HeaderValue::from_static("localhost"),
            is_https: false,
            base: None,
        })
    }

    fn parse_http(url: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!(
                "the backend URL {url:?} {why}; expected http://host:port, https://host:port or \
                 unix:/path, for example http://10.0.0.1:8080"
            ))
        };
        if url.contains(['#', '?']) {
            return Err(wrong("has a query or a fragment, which a backend cannot have"));
        }
        let uri: Uri = url.parse().map_err(|e| wrong(&format!("is not a URL ({e})")))?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(wrong("has a scheme other than http, https and unix")),
            None => return Err(wrong("has no scheme")),
        };
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
            None if is_https => 443,
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
        Ok(Self { endpoint, host, is_https, base: None })
    }

    /// Whether requests keep their path.
    #[inline]
    pub(super) fn keeps_path(&self) -> bool {
        self.base.is_none()
    }

    /// The path at the backend. It begins with a slash, as that of `http://shop?a=b` does not.
    pub(super) fn path(&self, path: PathAndQuery) -> Result<PathAndQuery, InvalidUri> {
        let has_slash = path.as_str().starts_with('/');
        let base = match &self.base {
            _ if path.path() == "*" => return Ok(path),
            None if has_slash => return Ok(path),
            None => "",
            Some(base) => base,
        };
        let slash = if has_slash { "" } else { "/" };
        PathAndQuery::try_from(format!("{base}{slash}{}", path.as_str()))
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
        let target = Target::parse("https://cart.internal").unwrap();
        assert_eq!(target.endpoint, Endpoint::Name("cart.internal".into(), 443));
        assert!(target.is_https);
        assert_eq!(target.path("?a=b".parse().unwrap()).unwrap(), "/?a=b");
    }

    #[cfg(unix)]
    #[test]
    fn unix_urls() {
        let target = Target::parse("unix:/run/app.sock|/shop/").unwrap();
        assert_eq!(target.endpoint.to_string(), "unix:/run/app.sock");
        assert_eq!(target.host, "localhost");
        let path = |path: &str| target.path(path.parse().unwrap()).unwrap().to_string();
        assert_eq!(path("/a?b=c"), "/shop/a?b=c");
        assert_eq!(path("/"), "/shop/");
        assert_eq!(path("?b=c"), "/shop/?b=c");
        assert_eq!(path("*"), "*");
        assert!(Target::parse("unix:/run/app.sock|/").unwrap().keeps_path());
        assert!(Target::parse(&format!("unix:/{}", "a".repeat(106))).is_ok());
    }

    #[test]
    fn bad_urls_say_why() {
        let long = format!("unix:/{}", "a".repeat(107));
        for (url, why) in [
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
            ("unix:run/app.sock", "relative"),
            ("unix:", "relative"),
            ("unix:/run/app.sock|base", "base path"),
            ("unix:/run/app.sock|/a?b", "base path"),
            ("unix:/run/a\0", "zero"),
            (&long, "107"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
