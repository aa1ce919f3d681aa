//! Everything that the gateway needs to know, from the file and the flags, with defaults filled in.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use ipnet::IpNet;
use tower_sticky::{
    Busy, Failover, Health, Rebalance, Strict, affinity::Chain, strategy::Strategy,
};

use super::{
    Error, Stores,
    access_log::{self, AccessLog},
    affinity, application, backends,
    discover::{self, Discover},
    document::Document,
    file::{self, File, SessionHeaders},
    health,
    limits::Limits,
    listener::{ListenerSettings, listeners},
    probe::Probe,
    read,
    units::Time,
    upstream::{self, Upstream},
    words::{Afterwards, Otherwise, Retry},
};
use crate::{cli::Flags, demo, strategy};

/// Where the demo's admin interface is by default.
const DEMO_ADMIN: &str = "127.0.0.1:9090";

/// Everything that the gateway needs to know.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent keys of the configuration file")]
pub(crate) struct Settings {
    /// The file as it is written, to compare it with a later one.
    pub(crate) document: Document,
    pub(crate) pool: String,
    pub(crate) listeners: Vec<ListenerSettings>,
    pub(crate) admin: Option<Admin>,
    pub(crate) stopping: Stopping,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) server_timing: bool,
    pub(crate) limits: Limits,
    pub(crate) upstream: Upstream,
    pub(crate) affinity: Chain,
    /// About what works but is probably not what was meant.
    pub(crate) warnings: Vec<String>,
    pub(crate) strict: Strict,
    /// Whether the cookie is sealed under a key that was generated for this process.
    pub(crate) passing_key: bool,
    /// The response header by which backends end, pin or move a session.
    pub(crate) application_header: Option<String>,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) policy: Policy,
    pub(crate) health: Health,
    pub(crate) probe: Option<Probe>,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) session_headers: SessionHeaders,
    pub(crate) access_log: Option<AccessLog>,
    /// The zone that the gateway is in.
    pub(crate) zone: Option<file::Zone>,
    pub(crate) backends: Vec<file::Backend>,
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "there are none then"))]
    pub(crate) discover: Vec<Discover>,
    /// Whether the three shops of the demo are the backends.
    pub(crate) demo: bool,
    /// Where the shops keep their carts, if not each in its own memory.
    pub(crate) demo_store: Option<demo::Store>,
    pub(crate) workers: usize,
    pub(crate) forward_only: bool,
}

/// What happens to a session whose backend cannot serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) failover: Failover,
    pub(crate) busy: Busy,
    pub(crate) home_wait: Duration,
    pub(crate) max_attempts: usize,
    pub(crate) retry: bool,
    pub(crate) panic: bool,
    /// Whether sessions return from a backup.
    pub(crate) return_from_backup: bool,
}

/// How the gateway stops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopping {
    /// For connections that are open.
    pub(crate) shutdown_timeout: Duration,
    /// From the 503 of `/healthz` to the end of accepting.
    pub(crate) drain_delay: Duration,
    /// For the process that replaces this one, until it accepts.
    pub(crate) upgrade_timeout: Duration,
    /// For connections that are open when another process accepts.
    pub(crate) upgrade_drain: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Admin {
    /// What names its address: a flag or a key of the file.
    pub(crate) key: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
    /// Further hosts by which it is reached: names in lower case and IP addresses.
    pub(crate) hosts: Vec<String>,
    /// Whether the metrics are read without the token.
    pub(crate) metrics_open: bool,
    /// Whether a free port is taken when this one is in use.
    pub(crate) any_port: bool,
}

impl Settings {
    /// Reads the file, if one is named, and lets the flags override it.
    /// Learned ids in memory are kept in `stores`.
    pub(crate) fn load(flags: Flags, stores: &Stores) -> Result<Self, Error> {
        let Some(path) = &flags.config else {
            return Self::new(File::default(), Document::default(), flags, stores);
        };
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(format!("the configuration file {name} cannot be read: {error}"))
        })?;
        let file = read::file(&name, &text)?;
        Self::new(file, Document::parse(&text), flags, stores)
    }

    fn new(
        mut file: File,
        document: Document,
        flags: Flags,
        stores: &Stores,
    ) -> Result<Self, Error> {
        application::check_session_headers(file.session_headers)?;
        let (demo, stopping) = (demo(&mut file, &flags)?, Stopping::of(&file));
        let admin_addr = either(("--admin", flags.admin), ("admin", file.admin));
        let admin = admin(admin_addr, file.admin_token, &file.admin_hosts, demo)?
            .map(|admin| Admin { metrics_open: file.metrics_open, ..admin });
        let upstream = upstream::upstream(&file.upstream)?;
        let (backends, discover) = members(flags.backends, file.backend, &file.discover)?;
        if backends.is_empty() && discover.is_empty() && !demo && admin.is_none() {
            return Err(no_backend());
        }
        let trusted_proxies = networks(&file.trusted_proxies)?;
        let listen = (flags.listen.as_deref(), file.listen.as_deref());
        let listeners = listeners(listen, file.listener, !trusted_proxies.is_empty())?;
        let (strategy_key, strategy) =
            either(("--strategy", flags.strategy), ("strategy.type", file.strategy.kind));
        let mut warnings = affinity::warnings(file.affinity.as_deref(), strategy.as_deref());
        let hashing = (flags.cookie, file.strategy.balance_factor);
        let (affinity, passing_key) = chain(file.affinity, hashing, &trusted_proxies, stores)?;
        let (health, probe) = health::health(&file.health)?;
        let http2 = upstream.may_use_http2(&backends, backends.is_empty() || !discover.is_empty());
        warnings.extend(probe.as_ref().and_then(|probe| probe.warning(http2)));
        Ok(Self {
            document,
            pool: pool(file.pool)?,
            listeners,
            admin,
            stopping,
            trusted_proxies,
            // The demo's page shows it.
            server_timing: file.server_timing || demo,
            limits: Limits::from(file.limits).checked()?,
            upstream,
            affinity,
            warnings,
            strict: file.strict.map_or(Ok(Strict::from(false)), strict)?,
            passing_key,
            application_header: file.application.header,
            strategy: strategy::named(strategy_key, strategy.as_deref())?,
            policy: policy(&file.failover),
            health,
            probe,
            session_headers: file.session_headers,
            access_log: file.access_log.as_ref().map(access_log::access_log).transpose()?,
            rebalance: file.rebalance.as_ref().map(health::rebalance).transpose()?,
            zone: file.zone,
            backends,
            discover,
            demo,
            demo_store: flags.demo_store,
            workers: flags.workers.unwrap_or_else(cores),
            forward_only: flags.forward_only,
        })
    }
}

impl Stopping {
    fn of(file: &File) -> Self {
        Self {
            shutdown_timeout: or(file.shutdown_timeout, Duration::from_secs(30)),
            drain_delay: or(file.drain_delay, Duration::ZERO),
            upgrade_timeout: or(file.upgrade_timeout, Duration::from_secs(30)),
            upgrade_drain: or(file.upgrade_drain, Duration::from_secs(3600)),
        }
    }
}

/// The affinities, and whether they are sealed under a key that was generated for this process.
fn chain(
    sections: Option<Vec<affinity::Section>>,
    (cookie_name, balance_factor): (Option<String>, Option<f64>),
    trusted_proxies: &[IpNet],
    stores: &Stores,
) -> Result<(Chain, bool), Error> {
    let context = affinity::Context { cookie_name, trusted_proxies, balance_factor, stores };
    affinity::chain(sections, &context)
}

fn policy(failover: &file::Failover) -> Policy {
    Policy {
        failover: failover.unavailable.unwrap_or(Otherwise::Repin).into(),
        busy: Busy::wait(or(failover.busy_wait, Duration::from_millis(200)))
            .then(failover.busy.unwrap_or(Otherwise::Borrow).into()),
        home_wait: or(failover.home_wait, Duration::ZERO),
        max_attempts: failover.max_attempts.map_or(16, Into::into),
        retry: failover.retry != Some(Retry::Never),
        panic: failover.panic,
        return_from_backup: failover.backup == Some(Afterwards::Return),
    }
}

/// The backends of the command line, or else those of the file and where it says to find others.
fn members(
    flags: Vec<file::Backend>,
    file: Vec<file::Backend>,
    sections: &[file::Discover],
) -> Result<(Vec<file::Backend>, Vec<Discover>), Error> {
    let discover = discover::discover(sections)?;
    let discover = if flags.is_empty() { discover } else { Vec::new() };
    Ok((backends::either(flags, file)?, discover))
}

fn no_backend() -> Error {
    Error::new(
        "there is no backend, and no admin interface to add one; add a [[backend]] with id and url, a \
         [[discover]] with dns, or --backend ID=URL",
    )
}

/// Whether this is the demo; it sets what the shops of the demo need.
fn demo(file: &mut File, flags: &Flags) -> Result<bool, Error> {
    let is_demo = flags.config.is_none() && flags.backends.is_empty();
    if flags.demo_store.is_some() {
        if !is_demo {
            return Err(Error::new(
                "--demo-store is for the shops of the demo, and with --config or --backend there are \
                 none; leave it out",
            ));
        }
        // By these the shops know whether a session that they have in memory is up to date.
        file.session_headers.enabled = true;
        file.application.header = Some(demo::ACTION.to_owned());
    } else if let Some(header) = &file.application.header {
        application::check_header(header)?;
    }
    Ok(is_demo)
}

/// The value of the flag or else of the key in the file, with the name of the one that it is from.
fn either<T>(
    flag: (&'static str, Option<T>),
    key: (&'static str, Option<T>),
) -> (&'static str, Option<T>) {
    if flag.1.is_some() { flag } else { key }
}

fn pool(name: Option<String>) -> Result<String, Error> {
    match name {
        Some(name) if name.is_empty() => Err(Error::new(
            "pool = \"\": empty; expected a name for the set of backends, such as \"default\", or \
             leave it out",
        )),
        name => Ok(name.unwrap_or_else(|| "default".to_owned())),
    }
}

fn admin(
    (key, addr): (&'static str, Option<String>),
    token: Option<String>,
    hosts: &[String],
    demo: bool,
) -> Result<Option<Admin>, Error> {
    if token.as_deref() == Some("") {
        return Err(Error::new(
            "admin_token is empty; set it to a secret, for example from `openssl rand -hex 32`",
        ));
    }
    let hosts = admin_hosts(hosts)?;
    let any_port = addr.is_none() && demo;
    if addr.is_none() && !demo {
        return Ok(None);
    }
    let addr = address(key, addr.as_deref(), DEMO_ADMIN)?;
    if !addr.ip().to_canonical().is_loopback() && token.is_none() {
        return Err(Error::new(format!(
            "{key} = \"{addr}\" could be reached from other machines by anyone; set admin_token in \
             the file, or use a loopback address such as 127.0.0.1:9090"
        )));
    }
    Ok(Some(Admin { key, addr, token, hosts, metrics_open: false, any_port }))
}

fn admin_hosts(hosts: &[String]) -> Result<Vec<String>, Error> {
    let is_name = |host: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !host.is_empty() && host.bytes().all(is_allowed)
    };
    let host = |(position, host): (usize, &String)| match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical().to_string()),
        Err(_) if is_name(host) => Ok(host.to_ascii_lowercase()),
        Err(_) => Err(Error::new(format!(
            "admin_hosts[{position}] = {host:?}: not a host; expected a name without a port, such as \
             \"gateway.internal\", or an IP address"
        ))),
    };
    hosts.iter().enumerate().map(host).collect()
}

/// Which sessions are refused, and how.
fn strict(file: file::Strict) -> Result<Strict, Error> {
    let status = |key: &str, given: u32| {
        let status = u16::try_from(given).ok().and_then(|given| StatusCode::from_u16(given).ok());
        status.ok_or_else(|| Error::new(format!("strict.{key} = {given}: not an HTTP status")))
    };
    let mut strict = Strict::new().expired(file.expired);
    if let Some(given) = file.status {
        strict = strict.status(status("status", given.into())?)?;
    }
    if let Some(given) = file.unavailable_status {
        let given = status("unavailable_status", given.into())?;
        strict = strict.unavailable_status(given)?;
    }
    Ok(strict)
}

fn address(key: &str, text: Option<&str>, default: &str) -> Result<SocketAddr, Error> {
    let text = text.unwrap_or(default);
    text.parse().map_err(|_| {
        Error::new(format!(
            "{key} = {text:?}: not an address; expected IP:PORT, for example {default} or [::]:80"
        ))
    })
}

fn networks(trusted_proxies: &[String]) -> Result<Vec<IpNet>, Error> {
    let network = |(position, text): (usize, &String)| {
        let host = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| host()).map_err(|_| {
            Error::new(format!(
                "trusted_proxies[{position}] = {text:?}: not a network; expected an address or a CIDR \
                 block such as \"10.0.0.0/8\" or \"fd00::/8\""
            ))
        })
    };
    trusted_proxies.iter().enumerate().map(network).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The duration in the file, or else the default.
pub(super) fn or<const MIN: u64>(given: Option<Time<MIN>>, default: Duration) -> Duration {
    given.map_or(default, Duration::from)
}
