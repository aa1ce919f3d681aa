//! Values of the file that are one word out of a few.

use serde::Deserialize;
use tower_sticky::{Failover, Mode, affinity, metrics::access_log, proxy, serve, store};

/// Defines enums that are read from kebab-case words and become enums of the library.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident => $of:ty { $($word:ident),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum $name {
            $($word,)*
        }

        impl From<$name> for $of {
            fn from(word: $name) -> Self {
                match word {
                    $($name::$word => Self::$word,)*
                }
            }
        }
    )*};
}

words! {
    SameSite => affinity::SameSite { Lax, Strict, None, Unset }
    Secure => affinity::Secure { Auto, Always, Never }
    Conflict => affinity::Conflict { Replace, Preserve }
    OnStoreDown => store::OnDown { Open, Reject }
    Http2 => proxy::Http2 { Off, On, Auto }
    /// What happens to a session whose backend cannot serve it.
    Otherwise => Failover { Repin, Borrow, Reject }
    /// Which peers send the PROXY protocol.
    ProxyProtocol => serve::ProxyProtocol { Off, Accept, Require }
    /// The format of the access log.
    LogFormat => access_log::Format { Json, Common, Combined, Haproxy }
    /// What the operator wants of a backend.
    OperatorMode => Mode { Active, Draining, Disabled }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    #[default]
    Sealed,
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Lifetime {
    Session,
    Permanent,
}

/// What becomes of a session on a backup once a primary backend is up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Afterwards {
    Stay,
    Return,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Retry {
    Idempotent,
    Never,
}

/// The version of the PROXY protocol that backends are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SendProxy {
    Off,
    V1,
    V2,
}

/// Where the route of an id stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RoutePosition {
    #[default]
    Suffix,
    Prefix,
}

/// What the id of a discovered backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DiscoverId {
    Address,
    Target,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientAuth {
    Off,
    Optional,
    Require,
}

/// The oldest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[cfg(feature = "tls")]
impl From<ClientAuth> for serve::ClientAuth {
    fn from(word: ClientAuth) -> Self {
        match word {
            ClientAuth::Off => Self::Off,
            ClientAuth::Optional => Self::Optional,
            ClientAuth::Require => Self::Require,
        }
    }
}

#[cfg(feature = "tls")]
impl From<TlsVersion> for serve::TlsVersion {
    fn from(word: TlsVersion) -> Self {
        match word {
            TlsVersion::Tls12 => Self::Tls12,
            TlsVersion::Tls13 => Self::Tls13,
        }
    }
}
