//! The sections as they are written, each type with its own keys.

use serde::Deserialize;

use crate::config::{
    units::{Count, Time},
    words::{Conflict, Format, Lifetime, OnStoreDown, RoutePosition, SameSite, Secure},
};

/// One `[[affinity]]`. See [`read`](crate::config::read) for how `type` becomes the variant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "a table")]
pub(crate) enum Section {
    Cookie(Cookie),
    Header(Header),
    Key(Key),
    ClientIp(ClientIp),
    Envelope(Envelope),
    Learned(Learned),
    Route(Route),
}

impl Section {
    /// The word of its `type`.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Cookie(_) => "cookie",
            Self::Header(_) => "header",
            Self::Key(_) => "key",
            Self::ClientIp(_) => "client-ip",
            Self::Envelope(_) => "envelope",
            Self::Learned(_) => "learned",
            Self::Route(_) => "route",
        }
    }

    /// Whether a key of the request is hashed to a backend.
    pub(super) const fn is_hash(&self) -> bool {
        matches!(self, Self::Key(_) | Self::ClientIp(_))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Cookie {
    pub(super) name: Option<String>,
    pub(super) format: Format,
    pub(super) keys: Option<Vec<String>>,
    pub(super) lifetime: Option<Lifetime>,
    pub(super) idle_timeout: Option<Time>,
    pub(super) absolute_timeout: Option<Time>,
    pub(super) clock_skew: Option<Time>,
    pub(super) streams_keep_alive: Option<bool>,
    pub(super) expires: Option<bool>,
    pub(super) path: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) same_site: Option<SameSite>,
    pub(super) secure: Option<Secure>,
    pub(super) http_only: Option<bool>,
    pub(super) partitioned: Option<bool>,
    pub(super) forward: Option<bool>,
    pub(super) conflict: Option<Conflict>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Header {
    pub(super) name: Option<String>,
    pub(super) format: Format,
    pub(super) keys: Option<Vec<String>>,
    pub(super) idle_timeout: Option<Time>,
    pub(super) absolute_timeout: Option<Time>,
    pub(super) clock_skew: Option<Time>,
    pub(super) streams_keep_alive: Option<bool>,
    pub(super) forward: Option<bool>,
}

/// Exactly one of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Key {
    pub(super) header: Option<String>,
    pub(super) cookie: Option<String>,
    pub(super) query: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct ClientIp {
    pub(super) ipv4_prefix: Option<Count<0, 32>>,
    pub(super) ipv6_prefix: Option<Count<0, 128>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Envelope {
    pub(super) cookie: Option<String>,
    pub(super) header: Option<String>,
    pub(super) query: Option<String>,
    pub(super) keys: Option<Vec<String>>,
    pub(super) idle_timeout: Option<Time>,
    pub(super) absolute_timeout: Option<Time>,
    pub(super) clock_skew: Option<Time>,
    pub(super) streams_keep_alive: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Learned {
    pub(super) cookie: Option<String>,
    pub(super) header: Option<String>,
    pub(super) query: Option<String>,
    pub(super) location: Option<String>,
    pub(super) end_on_delete: Option<bool>,
    pub(super) keys: Option<Vec<String>>,
    pub(super) idle_timeout: Option<Time>,
    pub(super) absolute_timeout: Option<Time>,
    pub(super) capacity: Option<Count<1>>,
    pub(super) store: Option<String>,
    pub(super) store_timeout: Option<Time<1>>,
    pub(super) store_prefix: Option<String>,
    pub(super) on_store_down: Option<OnStoreDown>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Route {
    pub(super) cookie: Option<String>,
    pub(super) header: Option<String>,
    pub(super) query: Option<String>,
    pub(super) path: Option<String>,
    pub(super) path_parameter: Option<String>,
    pub(super) separator: Option<char>,
    pub(super) position: Option<RoutePosition>,
    pub(super) format: Option<Format>,
    pub(super) keys: Option<Vec<String>>,
}
