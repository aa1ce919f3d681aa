//! [`Dns`]: the name to resolve, and how.

use std::{fmt, net::SocketAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{IntoName, Name},
};

use super::{
    follow::follow,
    resolve::{self, Resolver},
    schedule::RefreshSchedule,
};
use crate::{
    discovery::Discovery,
    error::{BoxError, ConfigError},
    id::BackendId,
    pool::Backends,
    util::{Rng, name_servers::builder},
};

/// A name to resolve for backends, and how often to resolve it.
///
/// # Backends
///
/// - [`host`](Self::host): each address of a name (A and AAAA records) is a backend. Its id is the address
///   with the port, `10.0.0.1:8080` or `[fd00::1]:8080`, so another address is another backend.
/// - [`srv`](Self::srv): each target of a service (SRV records, RFC 2782) is a backend. Its id is the
///   target's name with its port, in lower case and without the trailing dot, for example
///   `node-a.shop.internal:8080`, so its sessions stay when its address changes. Use it for targets with
///   stable names, such as the pods of a Kubernetes `StatefulSet`. With
///   [`address_ids`](Self::address_ids) each address of the targets is a backend, as with `host`.
///
/// Only the SRV records with the lowest priority are used. A record's weight becomes the weight of the
/// backend. A weight of 0 becomes 1, because RFC 2782 gives it "a very small chance", while in this crate a
/// backend with weight 0 takes no new sessions. The weight is set when the backend is added and when the
/// record's weight changes. If a target has several addresses, the one in use is kept as long as it is
/// listed; otherwise the lowest address of the A records is used, or of the AAAA records if there are no A
/// records.
///
/// # Refresh
///
/// The name is resolved again when the smallest TTL of the last answer has passed, limited by
/// [`refresh`](Self::refresh), with jitter of up to a tenth, so that gateways do not query at the same
/// time. After a failure it is resolved again after the shorter bound, which doubles with each failure up
/// to the longer one.
///
/// # Failures
///
/// The backends stay as they are after a timeout, after an error of the server and, unless
/// [`empty_when_gone`](Self::empty_when_gone) is set, when the name does not exist or has no records. If a
/// part of the look-up fails (the A or AAAA records, or the address of one target), the backends of that
/// part stay as they are.
///
/// # Example
///
/// ```no_run
/// # #[cfg(feature = "proxy")]
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_sticky::{Backends, discovery::{Dns, OnRemoved}, proxy::Upstream};
///
/// let backends = Backends::new();
/// let dns = Dns::srv("_http._tcp.shop.internal").refresh(Duration::from_secs(1), Duration::from_secs(30));
/// let discovery = backends.follow_dns(dns, |_id, address| Upstream::new(&format!("http://{address}")))?;
/// let handle = discovery.handle();
/// tokio::spawn(discovery.on_removed(OnRemoved::Drain(Duration::from_secs(600))));
/// // Do not accept requests before the backends are known.
/// handle.wait_until(|stats| stats.updates > 0).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a `Dns` does nothing until it is passed to `Backends::follow_dns`"]
pub struct Dns {
    question: Question,
    servers: Servers,
    min: Duration,
    max: Duration,
    timeout: Duration,
    empty_when_gone: bool,
    address_ids: bool,
    rng: Rng,
}

#[derive(Debug)]
pub(super) enum Question {
    Host(String, u16),
    Srv(String),
}

pub(super) enum Servers {
    System,
    Given(Vec<SocketAddr>),
    Resolver(Box<TokioResolver>),
}

impl Dns {
    /// The addresses of `name`, with `port`. A name without a trailing dot is also looked up in the
    /// system's search domains.
    pub fn host(name: impl Into<String>, port: u16) -> Self {
        Self::new(Question::Host(name.into(), port))
    }

    /// The targets of the service `name`, for example `_http._tcp.shop.internal`.
    pub fn srv(name: impl Into<String>) -> Self {
        Self::new(Question::Srv(name.into()))
    }

    fn new(question: Question) -> Self {
        Self {
            question,
            servers: Servers::System,
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            empty_when_gone: false,
            address_ids: false,
            rng: Rng::new(),
        }
    }

    /// The shortest and the longest pause between two look-ups, which limit the TTLs; default 1 s and
    /// 60 s.
    pub fn refresh(mut self, min: Duration, max: Duration) -> Self {
        (self.min, self.max) = (min, max);
        self
    }

    /// The timeout of a look-up with all its queries; default 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(crate::util::clock::YEAR);
        self
    }

    /// Whether all backends are removed when the name does not exist (NXDOMAIN), has no such records, or
    /// has no service (the SRV target `.`). Default `false`: this counts as a failure, and the backends
    /// stay.
    pub fn empty_when_gone(mut self, yes: bool) -> Self {
        self.empty_when_gone = yes;
        self
    }

    /// Whether each address of a service's targets is a backend, with the address and port as its id, instead
    /// of each target with its name and port. Default `false`. Without effect for [`host`](Self::host), whose
    /// ids are always addresses.
    ///
    /// A target's name is often made from its address and ends with it, for example that of a Kubernetes pod
    /// without a host name. While the look-up of any target fails, no backend is removed.
    pub fn address_ids(mut self, yes: bool) -> Self {
        self.address_ids = yes;
        self
    }

    /// Queries these name servers over UDP, and over TCP when an answer is too long, instead of those of
    /// the system's configuration.
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = Servers::Given(servers.into_iter().collect());
        self
    }

    /// Uses this resolver. Its cache is not cleared, so a look-up before the cached TTLs have passed finds
    /// no changes.
    pub fn resolver(mut self, resolver: TokioResolver) -> Self {
        self.servers = Servers::Resolver(Box::new(resolver));
        self
    }

    /// Seeds the jitter of the look-ups, to make tests reproducible.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = Rng::seeded(seed);
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.min.is_zero() || self.min > self.max {
            return Err(ConfigError::new(format!(
                "the bounds of the refresh are {:?} and {:?}; the shorter one has to be above 0 and \
                 not above the longer one",
                self.min, self.max
            )));
        }
        if self.timeout.is_zero() {
            return Err(ConfigError::new(
                "the time for a look-up is 0; give it some time, for example 5 s",
            ));
        }
        Ok(())
    }
}

impl Question {
    fn name(&self) -> Result<Name, ConfigError> {
        let (Self::Host(name, _) | Self::Srv(name)) = self;
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(ConfigError::new(format!(
                "{name:?} is an address and not a name; insert a backend at a fixed address by hand"
            )));
        }
        if name.is_empty() {
            return Err(ConfigError::new("the name to look up is empty; name a host or a service"));
        }
        name.into_name().map_err(|error| {
            ConfigError::new(format!("{name:?} is not a domain name ({error}); correct it"))
        })
    }
}

impl Servers {
    fn resolver(self, timeout: Duration) -> Result<Resolver, ConfigError> {
        let mut builder = match self {
            Self::Resolver(resolver) => {
                return Ok(Resolver { resolver: *resolver, clear_cache: false });
            }
            Self::System => TokioResolver::builder_tokio().map_err(|error| {
                ConfigError::new(format!(
                    "the system's configuration of name servers cannot be used ({error}); name the \
                     servers with Dns::name_servers"
                ))
            })?,
            Self::Given(servers) => builder(servers)?,
        };
        let options = builder.options_mut();
        // Leaves time to retry after a lost packet.
        options.timeout = options.timeout.min(timeout / 4);
        match builder.build() {
            Ok(resolver) => Ok(Resolver { resolver, clear_cache: true }),
            Err(error) => Err(ConfigError::new(format!(
                "the resolver cannot be made ({error}); give one with Dns::resolver"
            ))),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Backends<S> {
    /// Adds the backends that [`Dns`] finds, and removes those that it no longer finds.
    ///
    /// `make` makes the service of a backend from its id and address. It is called when the backend is
    /// added and when its address changes. If it fails, the backend is skipped, or stays at its current
    /// address, until the next look-up.
    ///
    /// # Errors
    ///
    /// When the name is invalid, an option is out of range, or the system's configuration of name servers
    /// cannot be read.
    pub fn follow_dns<F, E>(&self, dns: Dns, mut make: F) -> Result<Discovery, ConfigError>
    where
        F: FnMut(&BackendId, SocketAddr) -> Result<S, E> + Send + 'static,
        E: Into<BoxError>,
    {
        dns.check()?;
        let name = dns.question.name()?;
        let port = match dns.question {
            Question::Host(_, port) => Some(port),
            Question::Srv(_) => None,
        };
        let resolver = dns.servers.resolver(dns.timeout)?;
        let (timeout, address_ids) = (dns.timeout, dns.address_ids);
        let query = resolve::Query { resolver, name, port, address_ids, timeout };
        let schedule = RefreshSchedule::new(dns.min, dns.max, dns.rng);
        let empty_when_gone = dns.empty_when_gone;
        let make = move |id: &BackendId, address| make(id, address).map_err(Into::into);
        Ok(Discovery::new(self, move |target| {
            follow(query, schedule, empty_when_gone, make, target)
        }))
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Dns");
        debug.field("question", &self.question);
        if let Servers::Given(servers) = &self.servers {
            debug.field("name_servers", servers);
        }
        debug.field("min", &self.min).field("max", &self.max).finish_non_exhaustive()
    }
}
