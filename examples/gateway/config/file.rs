//! The file as it is written. Keys whose feature is not built yet are read here too, so that they
//! can be refused by name instead of being called unknown.

use serde::Deserialize;
use toml::Value;

use super::duration::Humane;

/// A key that is refused whatever it says.
pub(crate) type NotBuilt = Option<Value>;

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
    pub(crate) limits: Limits,
    pub(crate) affinity: Option<Vec<Affinity>>,
    pub(crate) strategy: Strategy,
    pub(crate) failover: Failover,
    pub(crate) health: Health,
    pub(crate) rebalance: NotBuilt,
    pub(crate) application: NotBuilt,
    pub(crate) session_headers: NotBuilt,
    pub(crate) backend: Vec<Backend>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) connections: Option<u32>,
    pub(crate) header_timeout: Option<Humane>,
    pub(crate) connect_timeout: Option<Humane>,
    pub(crate) ready_timeout: Option<Humane>,
    pub(crate) max_waiters: Option<usize>,
    pub(crate) response_timeout: Option<Humane>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Affinity {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) format: Format,
    pub(crate) keys: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) lifetime: Lifetime,
    pub(crate) idle_timeout: Option<Humane>,
    pub(crate) absolute_timeout: Option<Humane>,
    pub(crate) path: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: Option<SameSite>,
    pub(crate) secure: Option<Secure>,
    pub(crate) http_only: Option<bool>,
    pub(crate) partitioned: Option<bool>,
    pub(crate) forward: Option<bool>,
    pub(crate) conflict: Option<Conflict>,
    // These belong to the other types.
    pub(crate) header: NotBuilt,
    pub(crate) cookie: NotBuilt,
    pub(crate) query: NotBuilt,
    pub(crate) ipv4_prefix: NotBuilt,
    pub(crate) ipv6_prefix: NotBuilt,
    pub(crate) capacity: NotBuilt,
    pub(crate) store: NotBuilt,
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

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Conflict {
    Replace,
    Preserve,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Strategy {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) balance_factor: NotBuilt,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Failover {
    pub(crate) unavailable: Option<Otherwise>,
    pub(crate) busy: Option<Otherwise>,
    pub(crate) busy_wait: Option<Humane>,
    pub(crate) retry: Option<Retry>,
    pub(crate) panic: bool,
}

/// What happens to a session whose backend cannot serve it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Otherwise {
    Repin,
    Borrow,
    Reject,
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
    pub(crate) probe: NotBuilt,
    pub(crate) outlier: Outlier,
    pub(crate) slow_start: Option<Humane>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Outlier {
    pub(crate) connect_failures: Option<u32>,
    pub(crate) consecutive_5xx: Option<u32>,
    pub(crate) ejection: Option<Humane>,
    pub(crate) max_ejected: Option<f64>,
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
}

const fn one() -> u32 {
    1
}
