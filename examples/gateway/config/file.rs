//! The file as it is written. What is left out has the default of the part that it is about.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    affinity,
    connection::{Connection, with_connection_keys},
    limits, listener,
    probe::Status,
    units::{Count, Time, count},
    words::{Afterwards, DiscoverId, Http2, LogFormat, OperatorMode, Otherwise, Retry, SendProxy},
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct File {
    pub(crate) pool: Option<String>,
    pub(crate) listen: Option<String>,
    pub(crate) listener: Vec<listener::Section>,
    pub(crate) admin: Option<String>,
    pub(crate) admin_token: Option<String>,
    pub(crate) admin_hosts: Vec<String>,
    pub(crate) metrics_open: bool,
    pub(crate) shutdown_timeout: Option<Time>,
    pub(crate) drain_delay: Option<Time>,
    pub(crate) upgrade_timeout: Option<Time<1>>,
    pub(crate) upgrade_drain: Option<Time>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) server_timing: bool,
    pub(crate) zone: Option<Zone>,
    pub(crate) limits: limits::Section,
    pub(crate) upstream: Upstream,
    pub(crate) affinity: Option<Vec<affinity::Section>>,
    pub(crate) strict: Option<Strict>,
    pub(crate) strategy: Strategy,
    pub(crate) failover: Failover,
    pub(crate) health: Health,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) application: Application,
    pub(crate) session_headers: SessionHeaders,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) backend: Vec<Backend>,
    pub(crate) discover: Vec<Discover>,
}

with_connection_keys! {
    /// `[upstream]`: how backends are reached.
    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default, expecting = "a table")]
    pub(crate) struct Upstream {
        pub(crate) resolve_every: Option<Time<1>>,
        pub(crate) nameservers: Vec<String>,
        pub(crate) via: Option<bool>,
        pub(crate) response_via: bool,
        pub(crate) x_forwarded_port: bool,
        pub(crate) x_real_ip: bool,
        pub(crate) pass_forwarded: Vec<String>,
    }
}

/// `[application]`: what backends may say of their sessions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Application {
    pub(crate) header: Option<String>,
}

/// `[session_headers]`: what backends are told of their sessions.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct SessionHeaders {
    pub(crate) enabled: bool,
    #[serde(deserialize_with = "count")]
    pub(crate) replicas: usize,
}

/// `[access_log]`: a line for each request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct AccessLog {
    pub(crate) format: Option<LogFormat>,
    pub(crate) file: Option<String>,
    pub(crate) queue: Option<Count<1, 1_000_000>>,
    pub(crate) sample: Option<f64>,
}

/// `[strict]`: which sessions are refused, and how.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Strict {
    pub(crate) status: Option<Count<400, 499>>,
    pub(crate) expired: bool,
    pub(crate) unavailable_status: Option<Count<400, 599>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Strategy {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) balance_factor: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Failover {
    pub(crate) unavailable: Option<Otherwise>,
    pub(crate) busy: Option<Otherwise>,
    pub(crate) busy_wait: Option<Time>,
    pub(crate) home_wait: Option<Time>,
    pub(crate) max_attempts: Option<Count<1>>,
    pub(crate) retry: Option<Retry>,
    pub(crate) panic: bool,
    pub(crate) backup: Option<Afterwards>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Health {
    pub(crate) readiness_interval: Option<Time<1>>,
    pub(crate) redial: Option<Time<1>>,
    pub(crate) redial_max: Option<Time<1>>,
    pub(crate) probe: Option<Probe>,
    pub(crate) probes_in_flight: Option<Count<1>>,
    pub(crate) outlier: Outlier,
    pub(crate) slow_start: Option<Time>,
}

/// `[health.probe]`: an HTTP probe of a path, or a gRPC probe of a service.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Probe {
    pub(crate) path: Option<String>,
    pub(crate) grpc: Option<String>,
    pub(crate) interval: Option<Time<1>>,
    pub(crate) timeout: Option<Time<1>>,
    pub(crate) rise: Option<Count<1>>,
    pub(crate) fall: Option<Count<1>>,
    pub(crate) method: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) status: Option<Vec<Status>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Outlier {
    pub(crate) connect_failures: Option<Count>,
    pub(crate) consecutive_5xx: Option<Count>,
    pub(crate) ejection: Option<Time>,
    pub(crate) max_ejected: Option<f64>,
}

/// `[rebalance]`: sessions that move when the load is uneven.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Rebalance {
    pub(crate) tolerance: Option<f64>,
    pub(crate) idle_for: Option<Time>,
    pub(crate) max_per_second: Option<Count<1>>,
}

/// The zone of a backend, or of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Zone(pub(crate) String);

impl TryFrom<String> for Zone {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match name.is_empty() {
            true => Err("the zone is \"\"; expected a name such as \"eu-1\", or leave it out"),
            false => Ok(Self(name)),
        }
    }
}

with_connection_keys! {
    #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "a table")]
    pub(crate) struct Backend {
        pub(crate) id: String,
        pub(crate) url: String,
        #[serde(default = "one", deserialize_with = "count")]
        pub(crate) weight: u32,
        #[serde(default, deserialize_with = "count")]
        pub(crate) max_connections: usize,
        #[serde(default)]
        pub(crate) backup: bool,
        pub(crate) zone: Option<Zone>,
        pub(crate) mode: Option<OperatorMode>,
        /// Where it stands in the configuration, such as `backend[0]`, for errors about its keys.
        #[serde(skip)]
        pub(crate) at: String,
        // The others override those of `[upstream]`.
        pub(crate) resolve_every: Option<Time<1>>,
    }
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
            mode: None,
            resolve_every: None,
            http2: None,
            ca: None,
            client_cert: None,
            client_key: None,
            server_name: None,
            verify: None,
            handshake_timeout: None,
            send_proxy: None,
            max_idle: None,
            idle_timeout: None,
            at: String::new(),
        }
    }

    /// How connections to it are made.
    pub(crate) fn connection(&self) -> Connection {
        self.into()
    }
}

/// `[[discover]]`: backends from DNS records.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Discover {
    pub(crate) dns: String,
    pub(crate) id: Option<DiscoverId>,
    #[serde(default)]
    pub(crate) tls: bool,
}

const fn one() -> u32 {
    1
}
