//! The configuration: the file and the flags, checked, with every default filled in.

mod affinity;
mod duration;
pub(crate) mod file;
mod health;
mod http;
mod size;
mod upstream;

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::http::StatusCode;
use ipnet::IpNet;
use tower_sticky::{
    Busy, ConfigError, Failover, Health, HttpProbe, Rebalance, Strict, affinity::Chain,
    strategy::Strategy,
};

use self::file::{Afterwards, File, Otherwise, Retry, SessionHeaders};
pub(crate) use self::{duration::Humane, size::Size, upstream::Upstream};
use crate::{cli::Flags, demo, server::ServerLimits, strategy};

/// Where the gateway listens when nobody says otherwise.
const LISTEN: &str = "127.0.0.1:8080";
/// Where the demo's admin interface is when nobody says otherwise.
const DEMO_ADMIN: &str = "127.0.0.1:9090";

/// What is wrong with the configuration, in one message.
#[derive(Debug)]
pub(crate) struct Error(String);

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string())
    }
}

/// Everything that the gateway needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) pool: String,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: Option<Admin>,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) server_timing: bool,
    pub(crate) limits: Limits,
    pub(crate) server_limits: ServerLimits,
    pub(crate) upstream: Upstream,
    pub(crate) affinity: Chain,
    /// What works, and is hardly meant.
    pub(crate) warnings: Vec<String>,
    pub(crate) strict: Strict,
    /// Whether the cookie is sealed under a key that was made just now.
    pub(crate) passing_key: bool,
    /// The response header in which backends may say what becomes of a session.
    pub(crate) application_header: Option<String>,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) failover: Failover,
    pub(crate) busy: Busy,
    pub(crate) home_wait: Duration,
    pub(crate) max_attempts: usize,
    pub(crate) retry: bool,
    pub(crate) panic: bool,
    /// Whether sessions return from a backup.
    pub(crate) return_from_backup: bool,
    pub(crate) health: Health,
    pub(crate) probe: Option<HttpProbe>,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) session_headers: SessionHeaders,
    /// The zone that the gateway is in.
    pub(crate) zone: Option<file::Zone>,
    pub(crate) backends: Vec<file::Backend>,
    /// The three shops of the demo are the backends.
    pub(crate) demo: bool,
    /// Where they keep their carts, if not each in its own memory.
    pub(crate) demo_store: Option<demo::Store>,
    pub(crate) workers: usize,
    pub(crate) forward_only: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
    /// Whether another port will do when this one is taken.
    pub(crate) any_port: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) ready_timeout: Duration,
    pub(crate) max_waiters: usize,
    pub(crate) response_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) expect_wait: Duration,
}

impl Settings {
    /// Reads the file, if one is named, and lets the flags override it.
    pub(crate) fn load(flags: Flags) -> Result<Self, Error> {
        let has_file = flags.config.is_some();
        let file = match &flags.config {
            Some(path) => {
                let name = path.display();
                let text = fs::read_to_string(path).map_err(|error| {
                    Error::new(format!("the configuration file {name} cannot be read: {error}"))
                })?;
                toml::from_str(&text)
                    .map_err(|error| Error::new(format!("{name}: {}", error.to_string().trim())))?
            }
            None => File::default(),
        };
        Self::new(file, flags, has_file)
    }

    fn new(file: File, flags: Flags, has_file: bool) -> Result<Self, Error> {
        if file.session_headers.replicas > 0 && !file.session_headers.enabled {
            return Err(Error::new(
                "session_headers.replicas is set, and nobody is told of them; set \
                 session_headers.enabled = true",
            ));
        }

        let demo = !has_file && flags.backends.is_empty();
        if let (false, Some(_)) = (demo, &flags.demo_store) {
            return Err(Error::new(
                "--demo-store is for the shops of the demo, and with --config or --backend there are \
                 none; leave it out",
            ));
        }
        let mut session_headers = file.session_headers;
        let mut application_header = file.application.header;
        if flags.demo_store.is_some() {
            // By these the shops know what a session is worth that they have at hand.
            session_headers.enabled = true;
            application_header = Some(demo::ACTION.to_owned());
        }
        let backends = if flags.backends.is_empty() { file.backend } else { flags.backends };
        let admin = admin(flags.admin.or(file.admin).as_deref(), file.admin_token, demo)?;
        if backends.is_empty() && !demo && admin.is_none() {
            return Err(Error::new(
                "there is no backend, and no admin interface to add one; add a [[backend]] with id \
                 and url, or --backend ID=URL",
            ));
        }
        for backend in &backends {
            positive("backend.resolve_every", backend.resolve_every, 5000)?;
        }
        let pool = file.pool.unwrap_or_else(|| "default".to_owned());
        if pool.is_empty() {
            return Err(Error::new(
                "pool is empty; give the set of backends a name such as \"default\", or leave it out",
            ));
        }
        let trusted_proxies: Vec<_> =
            file.trusted_proxies.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
        let around = affinity::Surroundings {
            cookie_name: flags.cookie,
            trusted_proxies: &trusted_proxies,
            balance_factor: file.strategy.balance_factor,
        };
        let warnings = affinity::warnings(file.affinity.as_deref());
        let (affinity, passing_key) = affinity::chain(file.affinity, &around)?;
        let limits = limits(&file.limits)?;
        let (health, probe) = health::health(&file.health)?;
        let failover = &file.failover;
        let busy = Busy::wait(or(failover.busy_wait, Duration::from_millis(200)))
            .then(failover.busy.unwrap_or(Otherwise::Borrow).into());
        Ok(Self {
            pool,
            listen: address("listen", flags.listen.or(file.listen).as_deref(), LISTEN)?,
            admin,
            shutdown_timeout: or(file.shutdown_timeout, Duration::from_secs(30)),
            trusted_proxies,
            // The demo's page shows it.
            server_timing: file.server_timing || demo,
            limits,
            server_limits: http::server_limits(&file.limits)?,
            upstream: upstream::upstream(&file.upstream)?,
            affinity,
            warnings,
            strict: file.strict.map_or(Ok(Strict::from(false)), strict)?,
            passing_key,
            application_header,
            strategy: strategy::named(flags.strategy.or(file.strategy.kind).as_deref())?,
            failover: failover.unavailable.unwrap_or(Otherwise::Repin).into(),
            busy,
            home_wait: or(failover.home_wait, Duration::ZERO),
            max_attempts: max_attempts(failover)?,
            retry: failover.retry.unwrap_or(Retry::Idempotent) == Retry::Idempotent,
            panic: failover.panic,
            return_from_backup: failover.backup == Some(Afterwards::Return),
            health,
            probe,
            session_headers,
            rebalance: file.rebalance.as_ref().map(health::rebalance).transpose()?,
            zone: file.zone,
            backends,
            demo,
            demo_store: flags.demo_store,
            workers: flags
                .workers
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            forward_only: flags.forward_only,
        })
    }
}

fn admin(addr: Option<&str>, token: Option<String>, demo: bool) -> Result<Option<Admin>, Error> {
    if token.as_deref() == Some("") {
        return Err(Error::new(
            "admin_token is empty; set it to a secret, for example from `openssl rand -hex 32`",
        ));
    }
    let any_port = addr.is_none() && demo;
    let text = match addr {
        None if !demo => return Ok(None),
        text => text,
    };
    let addr = address("admin", text, DEMO_ADMIN)?;
    if !addr.ip().to_canonical().is_loopback() && token.is_none() {
        return Err(Error::new(format!(
            "the admin interface at {addr} could be reached from other machines by anyone; set \
             admin_token in the file, or use a loopback address such as 127.0.0.1:9090"
        )));
    }
    Ok(Some(Admin { addr, token, any_port }))
}

/// Which sessions are refused, and how.
fn strict(file: file::Strict) -> Result<Strict, Error> {
    let status = |key: &str, status: u16| {
        StatusCode::from_u16(status).map_err(|_| {
            Error::new(format!(
                "strict.{key} = {status} is not an HTTP status; use one such as 404"
            ))
        })
    };
    let mut strict = Strict::new().expired(file.expired);
    if let Some(given) = file.status {
        strict = strict.status(status("status", given)?)?;
    }
    if let Some(given) = file.unavailable_status {
        strict = strict.unavailable_status(status("unavailable_status", given)?)?;
    }
    Ok(strict)
}

/// How many suspects are tried for one request.
fn max_attempts(failover: &file::Failover) -> Result<usize, Error> {
    match failover.max_attempts.unwrap_or(16) {
        0 => Err(Error::new(
            "failover.max_attempts is 0, so that no suspect backend would ever be tried; use at least 1",
        )),
        attempts => Ok(attempts),
    }
}

fn address(key: &str, text: Option<&str>, default: &str) -> Result<SocketAddr, Error> {
    let text = text.unwrap_or(default);
    text.parse().map_err(|_| {
        Error::new(format!(
            "{key} = {text:?} is not an address; expected IP:PORT, for example {default} or [::]:80"
        ))
    })
}

fn network(text: &str) -> Result<IpNet, Error> {
    let host = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| host()).map_err(|_| {
        Error::new(format!(
            "trusted_proxies has {text:?}, which is not a network; expected an address or a CIDR \
             block such as \"10.0.0.0/8\" or \"fd00::/8\""
        ))
    })
}

fn limits(limits: &file::Limits) -> Result<Limits, Error> {
    let connections = limits.connections.unwrap_or(10_000);
    if connections == 0 {
        return Err(Error::new(
            "limits.connections is 0, so that nobody could connect; use at least 1",
        ));
    }
    Ok(Limits {
        connections,
        connect_timeout: positive("limits.connect_timeout", limits.connect_timeout, 1000)?,
        ready_timeout: or(limits.ready_timeout, Duration::from_secs(1)),
        max_waiters: limits.max_waiters.unwrap_or(1024),
        response_timeout: positive("limits.response_timeout", limits.response_timeout, 60_000)?,
        body_timeout: positive("limits.body_timeout", limits.body_timeout, 30_000)?,
        expect_wait: or(limits.expect_wait, Duration::from_secs(1)),
    })
}

fn or(given: Option<Humane>, default: Duration) -> Duration {
    given.map_or(default, |Humane(duration)| duration)
}

fn positive(key: &str, given: Option<Humane>, default_ms: u64) -> Result<Duration, Error> {
    let duration = or(given, Duration::from_millis(default_ms));
    if duration.is_zero() {
        return Err(Error::new(format!(
            "{key} is 0, so that nothing could ever be in time; use at least \"1ms\""
        )));
    }
    Ok(duration)
}
