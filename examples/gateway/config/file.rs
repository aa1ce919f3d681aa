//! The file as it is written.

use super::{duration::Humane, size::Size};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) pool: Option<String>,
    pub(crate) listen: Option<String>,
    pub(crate) admin: Option<String>,
    pub(crate) admin_token: Option<String>,
    pub(crate) shutdown_timeout: Option<Humane>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) server_timing: bool,
    pub(crate) zone: Option<Zone>,
    pub(crate) limits: Limits,
    pub(crate) upstream: Upstream,
    pub(crate) affinity: Option<Vec<Affinity>>,
    pub(crate) strict: Option<Strict>,
    pub(crate) strategy: Strategy,
    pub(crate) failover: Failover,
    pub(crate) health: Health,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) application: Application,
    pub(crate) session_headers: SessionHeaders,
    pub(crate) backend: Vec<Backend>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) connections: Option<u32>,
    pub(crate) idle_timeout: Option<Humane>,
    pub(crate) header_timeout: Option<Humane>,
    pub(crate) header_bytes: Option<Size>,
    pub(crate) headers: Option<usize>,
    pub(crate) target_bytes: Option<Size>,
    pub(crate) body_bytes: Option<Size>,
    pub(crate) h2_streams: Option<u32>,
    pub(crate) h2_window: Option<Size>,
    pub(crate) h2_ping: Option<Humane>,
    pub(crate) h2_ping_timeout: Option<Humane>,
    pub(crate) write_timeout: Option<Humane>,
    pub(crate) tcp_user_timeout: Option<Humane>,
    pub(crate) expect_wait: Option<Humane>,
    pub(crate) linger: Option<Humane>,
    pub(crate) linger_bytes: Option<Size>,
    pub(crate) connect_timeout: Option<Humane>,
    pub(crate) ready_timeout: Option<Humane>,
    pub(crate) max_waiters: Option<usize>,
    pub(crate) response_timeout: Option<Humane>,
    pub(crate) body_timeout: Option<Humane>,
}

/// `[upstream]`: how backends are reached.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Upstream {
    pub(crate) resolve_every: Option<Humane>,
    pub(crate) nameservers: Vec<String>,
    pub(crate) via: Option<bool>,
    pub(crate) response_via: bool,
    pub(crate) x_forwarded_port: bool,
    pub(crate) x_real_ip: bool,
    pub(crate) pass_forwarded: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Affinity {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) format: Option<Format>,
    pub(crate) keys: Option<Vec<String>>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) idle_timeout: Option<Humane>,
    pub(crate) absolute_timeout: Option<Humane>,
    pub(crate) clock_skew: Option<Humane>,
    pub(crate) streams_keep_alive: Option<bool>,
    pub(crate) path: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: Option<SameSite>,
    pub(crate) secure: Option<Secure>,
    pub(crate) http_only: Option<bool>,
    pub(crate) partitioned: Option<bool>,
    pub(crate) forward: Option<bool>,
    pub(crate) conflict: Option<Conflict>,
    pub(crate) header: Option<String>,
    pub(crate) cookie: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) ipv4_prefix: Option<u8>,
    pub(crate) ipv6_prefix: Option<u8>,
    pub(crate) capacity: Option<usize>,
    pub(crate) store: Option<String>,
    pub(crate) store_timeout: Option<Humane>,
    pub(crate) store_prefix: Option<String>,
    pub(crate) on_store_down: Option<OnStoreDown>,
}

impl Affinity {
    /// The keys that the section has, besides its type.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let all = [
            ("name", self.name.is_some()),
            ("format", self.format.is_some()),
            ("keys", self.keys.is_some()),
            ("lifetime", self.lifetime.is_some()),
            ("idle_timeout", self.idle_timeout.is_some()),
            ("absolute_timeout", self.absolute_timeout.is_some()),
            ("clock_skew", self.clock_skew.is_some()),
            ("streams_keep_alive", self.streams_keep_alive.is_some()),
            ("path", self.path.is_some()),
            ("domain", self.domain.is_some()),
            ("same_site", self.same_site.is_some()),
            ("secure", self.secure.is_some()),
            ("http_only", self.http_only.is_some()),
            ("partitioned", self.partitioned.is_some()),
            ("forward", self.forward.is_some()),
            ("conflict", self.conflict.is_some()),
            ("header", self.header.is_some()),
            ("cookie", self.cookie.is_some()),
            ("query", self.query.is_some()),
            ("ipv4_prefix", self.ipv4_prefix.is_some()),
            ("ipv6_prefix", self.ipv6_prefix.is_some()),
            ("capacity", self.capacity.is_some()),
            ("store", self.store.is_some()),
            ("store_timeout", self.store_timeout.is_some()),
            ("store_prefix", self.store_prefix.is_some()),
            ("on_store_down", self.on_store_down.is_some()),
        ];
        all.into_iter().filter_map(|(key, given)| given.then_some(key)).collect()
    }
}

/// `[application]`: what backends may say of their sessions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Application {
    pub(crate) header: Option<String>,
}

/// `[session_headers]`: what backends are told of their sessions.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SessionHeaders {
    pub(crate) enabled: bool,
    pub(crate) replicas: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    #[default]
    Sealed,
    Plain,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Lifetime {
    #[default]
    Session,
    Permanent,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SameSite {
    Lax,
    Strict,
    None,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Secure {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnStoreDown {
    #[default]
    Open,
    Reject,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Conflict {
    Replace,
    Preserve,
}

/// `[strict]`: what is left out has the library's default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Strict {
    pub(crate) status: Option<u16>,
    pub(crate) expired: bool,
    pub(crate) unavailable_status: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Strategy {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) balance_factor: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Failover {
    pub(crate) unavailable: Option<Otherwise>,
    pub(crate) busy: Option<Otherwise>,
    pub(crate) busy_wait: Option<Humane>,
    pub(crate) home_wait: Option<Humane>,
    pub(crate) max_attempts: Option<usize>,
    pub(crate) retry: Option<Retry>,
    pub(crate) panic: bool,
    pub(crate) backup: Option<Afterwards>,
}

/// What happens to a session whose backend cannot serve it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Otherwise {
    Repin,
    Borrow,
    Reject,
}

impl From<Otherwise> for tower_sticky::Failover {
    fn from(word: Otherwise) -> Self {
        match word {
            Otherwise::Repin => Self::Repin,
            Otherwise::Borrow => Self::Borrow,
            Otherwise::Reject => Self::Reject,
        }
    }
}

/// What becomes of a session that a backup has taken, once a primary backend is up again.
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Health {
    pub(crate) readiness_interval: Option<Humane>,
    pub(crate) redial: Option<Humane>,
    pub(crate) redial_max: Option<Humane>,
    pub(crate) probe: Option<Probe>,
    pub(crate) outlier: Outlier,
    pub(crate) slow_start: Option<Humane>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    pub(crate) path: String,
    pub(crate) interval: Option<Humane>,
    pub(crate) timeout: Option<Humane>,
    pub(crate) rise: Option<u32>,
    pub(crate) fall: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Outlier {
    pub(crate) connect_failures: Option<u32>,
    pub(crate) consecutive_5xx: Option<u32>,
    pub(crate) ejection: Option<Humane>,
    pub(crate) max_ejected: Option<f64>,
}

/// `[rebalance]`: what is left out has the library's default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rebalance {
    pub(crate) tolerance: Option<f64>,
    pub(crate) idle_for: Option<Humane>,
    pub(crate) max_per_second: Option<u32>,
}

/// Where a backend, or the gateway, is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Zone(pub(crate) String);

impl TryFrom<String> for Zone {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match name.is_empty() {
            true => Err("the zone is empty; expected a name such as \"eu-1\", or nothing at all"),
            false => Ok(Self(name)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backend {
    pub(crate) id: String,
    pub(crate) url: String,
    #[serde(default = "one")]
    pub(crate) weight: u32,
    #[serde(default)]
    pub(crate) max_connections: usize,
    #[serde(default)]
    pub(crate) backup: bool,
    pub(crate) zone: Option<Zone>,
    /// In place of that of `[upstream]`.
    pub(crate) resolve_every: Option<Humane>,
}

impl Backend {
    /// A primary backend of weight 1, without a limit, in no zone.
    pub(crate) fn new(id: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            url: url.into(),
            weight: one(),
            max_connections: 0,
            backup: false,
            zone: None,
            resolve_every: None,
        }
    }
}

const fn one() -> u32 {
    1
}
