//! What to ask the domain name system for.

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

/// What to ask the domain name system for, and how often.
///
/// # What becomes a backend
///
/// - [`host`](Self::host): every address of a name (A and AAAA). The id is the address with the port,
///   `10.0.0.1:8080` or `[fd00::1]:8080`: a backend at a new address is a new backend.
/// - [`srv`](Self::srv): every target of a service (SRV, RFC 2782). The id is the target's name with
///   its port, in lower case and without the last dot, `node-a.shop.internal:8080`: when the
///   target's address changes, its sessions stay. Use it when the targets have stable names, as the
///   pods of a Kubernetes `StatefulSet` have.
///
/// Of SRV records only those of the lowest priority count. Their weight becomes the backend's, and a
/// weight of 0 becomes 1, the smallest share ("a very small chance", says RFC 2782; in this crate 0
/// would take no session at all). It is set when the backend joins and whenever the record's weight
/// changes, not in between. Of a target's addresses the one in use is kept while it is
/// listed, else the lowest A record is taken; AAAA records are asked for when there is no A record.
///
/// # When it asks
///
/// Whenever the smallest TTL of the last answer has passed, but within
/// [`refresh`](Self::refresh), and up to a tenth later, so that gateways do not ask in step. After a
/// failure it asks again after the shorter bound, then after twice as long each time up to the
/// longer one.
///
/// # What a failure does
///
/// Nothing: no answer in time, an error of the server and, unless
/// [`empty_when_gone`](Self::empty_when_gone) is set, a name that does not exist or has no records,
/// leave all backends as they are. When only a part of the answer could be had (one of the two kinds
/// of address, the address of one target), that part is left as it is.
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
/// let feed = backends.follow_dns(dns, |_id, address| Upstream::new(&format!("http://{address}")))?;
/// let handle = feed.handle();
/// tokio::spawn(feed.leave(OnRemoved::Drain(Duration::from_secs(600))));
/// // The backends are there before the first request is.
/// handle.wait_until(|stats| stats.updates > 0).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "it is only a description; give it to `Backends::follow_dns`"]
pub struct Dns {
    question: Question,
    servers: Servers,
    min: Duration,
    max: Duration,
    timeout: Duration,
    empty_when_gone: bool,
    chance: Rng,
}

#[derive(Debug)]
pub(super) enum Question {
    Host(String, u16),
    Srv(String),
}

pub(super) enum Servers {
    System,
    These(Vec<SocketAddr>),
    Resolver(Box<TokioResolver>),
}

impl Dns {
    /// The addresses of `name`, at `port`. A name that ends with a dot is complete; any other is also
    /// looked for in the system's search domains.
    pub fn host(name: impl Into<String>, port: u16) -> Self {
        Self::new(Question::Host(name.into(), port))
    }

    /// The targets of the service `name`, such as `_http._tcp.shop.internal`.
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
            chance: Rng::new(),
        }
    }

    /// The shortest and the longest time between two look-ups, whatever the TTLs are; default 1 s and
    /// 60 s.
    pub fn refresh(mut self, min: Duration, max: Duration) -> Self {
        (self.min, self.max) = (min, max);
        self
    }

    /// How long a look-up may take, with all its questions; default 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(crate::util::clock::YEAR);
        self
    }

    /// Whether all backends leave when the domain name system says that the name does not exist
    /// (NXDOMAIN), has no such records, or has no service (the SRV target `.`); default false: that is
    /// taken for a mistake, and everything stays.
    pub fn empty_when_gone(mut self, yes: bool) -> Self {
        self.empty_when_gone = yes;
        self
    }

    /// Asks these name servers over UDP, and over TCP when an answer is too long, instead of those
    /// that the system is configured with.
    pub fn name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = Servers::These(servers.into_iter().collect());
        self
    }

    /// Asks this resolver. Its cache answers for as long as the TTLs in it allow; a look-up before
    /// that finds nothing new.
    pub fn resolver(mut self, resolver: TokioResolver) -> Self {
        self.servers = Servers::Resolver(Box::new(resolver));
        self
    }

    /// Makes the chance that spreads the look-ups repeatable.
    pub fn seed(mut self, seed: u64) -> Self {
        self.chance = Rng::seeded(seed);
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
            Self::Resolver(resolver) => return Ok(Resolver { resolver: *resolver, own: false }),
            Self::System => TokioResolver::builder_tokio().map_err(|error| {
                ConfigError::new(format!(
                    "the system's configuration of name servers cannot be used ({error}); name the \
                     servers with Dns::name_servers"
                ))
            })?,
            Self::These(servers) => builder(servers)?,
        };
        let options = builder.options_mut();
        // One lost packet must not use up the time of the whole look-up.
        options.timeout = options.timeout.min(timeout / 4);
        match builder.build() {
            Ok(resolver) => Ok(Resolver { resolver, own: true }),
            Err(error) => Err(ConfigError::new(format!(
                "the resolver cannot be made ({error}); give one with Dns::resolver"
            ))),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Backends<S> {
    /// Follows the domain name system: what [`Dns`] finds joins, what it no longer finds leaves.
    ///
    /// `make` makes the service of a backend, from its id and its present address; it is asked when
    /// the backend joins and when its address changes. When it fails, the backend is left out, or
    /// stays at the address that it has, until the next look-up.
    ///
    /// # Errors
    ///
    /// When the name is not one, an option makes no sense, or the system's configuration of name
    /// servers cannot be read.
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
        let asker = resolve::Asker { resolver, name, port, timeout: dns.timeout };
        let rhythm = RefreshSchedule::new(dns.min, dns.max, dns.chance);
        let empty_when_gone = dns.empty_when_gone;
        let make = move |id: &BackendId, address| make(id, address).map_err(Into::into);
        Ok(Discovery::new(self, move |target| follow(asker, rhythm, empty_when_gone, make, target)))
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Dns");
        debug.field("question", &self.question);
        if let Servers::These(servers) = &self.servers {
            debug.field("name_servers", servers);
        }
        debug.field("min", &self.min).field("max", &self.max).finish_non_exhaustive()
    }
}
