//! The proxies, and how each is set up.

use std::{fmt, path::Path, process::Command, str::FromStr};

use crate::{Failure, options::Programs, proxy_process};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Gateway,
    HaProxy,
    /// HAProxy that tells the backends what the gateway tells them about the client.
    HaProxyFields,
    Nginx,
    Envoy,
    Forwarder,
    Pingora,
}

/// The backends and the format of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Setup {
    /// Four backends, and a readable cookie.
    Plain,
    /// The same, and a sealed cookie, which only the gateway has.
    Sealed,
    /// 64 backends.
    Many,
    /// One that echoes after an upgrade.
    Echo,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] = [
        Self::Gateway,
        Self::HaProxy,
        Self::HaProxyFields,
        Self::Nginx,
        Self::Envoy,
        Self::Forwarder,
        Self::Pingora,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::HaProxy => "haproxy",
            Self::HaProxyFields => "haproxy-fields",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Forwarder => "forwarder",
            Self::Pingora => "pingora",
        }
    }

    pub(crate) fn is_installed(self, programs: &Programs) -> bool {
        match self {
            Self::Envoy => programs.envoy.is_some(),
            Self::Pingora => programs.pingora.is_some(),
            _ => true,
        }
    }

    /// Whether it serves TLS and HTTP/2 here. The small ones are floors of HTTP/1.1 in clear text.
    pub(crate) fn is_complete(self) -> bool {
        !matches!(self, Self::Forwarder | Self::Pingora)
    }

    /// What it calls itself.
    pub(crate) fn version(self, programs: &Programs) -> String {
        let says = |program: &Path, flag: &str| {
            let output = Command::new(program).arg(flag).output().ok()?;
            let all = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&all).into_owned();
            text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
        };
        let said = match self {
            Self::HaProxy => proxy_process::haproxy_version(),
            Self::HaProxyFields => {
                Some("the same, and the fields about the client that the gateway writes".to_owned())
            }
            Self::Nginx => says(Path::new("nginx"), "-v"),
            Self::Envoy => programs.envoy.as_ref().and_then(|envoy| says(envoy, "--version")),
            Self::Gateway => Some(concat!("tower-sticky ", env!("CARGO_PKG_VERSION")).to_owned()),
            Self::Forwarder => Some("bare, over the gateway's hyper, without affinity".to_owned()),
            Self::Pingora => Some("pingora-proxy, round robin, without affinity".to_owned()),
        };
        said.unwrap_or_else(|| "unknown".to_owned())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Peer {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        let found = Self::ALL.into_iter().find(|peer| peer.name() == name);
        found.ok_or_else(|| format!("there is no proxy {name:?}; see --help").into())
    }
}
