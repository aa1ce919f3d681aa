//! The address of a backend. Of the addresses that its name has, one is used at a time.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{resolve::Resolver, target::Endpoint};
use crate::{
    error::{BoxError, Shortage, ShortageError, TimedOut},
    util::{SocketOptions, lock},
};

/// After how many lookups without a request in between the periodic ones end.
const MAX_UNUSED: u32 = 12;

/// Called with the old and the new address when another one is used.
pub(super) type OnChange = Arc<dyn Fn(SocketAddr, SocketAddr) + Send + Sync>;

/// How a name is looked up.
#[derive(Clone)]
pub(super) struct Lookups {
    pub(super) resolver: Resolver,
    pub(super) every: Duration,
    pub(super) on_change: Option<OnChange>,
}

/// The addresses of one backend, and the one in use.
pub(super) struct Address {
    pub(super) endpoint: Endpoint,
    pub(super) lookups: Lookups,
    /// How long a peer may acknowledge nothing.
    pub(super) options: SocketOptions,
    known: Mutex<Known>,
    /// Grows with each change of the address in use: connections of an older one are not used again.
    pub(super) generation: AtomicU64,
    /// Whether the addresses are looked up periodically, so that they are up to date.
    fresh: AtomicBool,
    /// Whether a request has used the address since the last lookup.
    used: AtomicBool,
    /// Whether the periodic lookups run.
    refreshing: AtomicBool,
    /// Whether a lookup is in progress.
    looking: AtomicBool,
    /// Notifies of each lookup that has ended.
    ended: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) listed: Vec<SocketAddr>,
    /// The address in use, which has accepted a connection.
    pub(super) current: Option<SocketAddr>,
    /// The address that was in use before, until the next one is.
    pub(super) last: Option<SocketAddr>,
    /// Since when the address in use has refused every connection.
    pub(super) failing: Option<Instant>,
    /// Why the last lookup failed, if it did.
    failure: Option<Failure>,
    /// Whether a warning of several addresses was logged.
    warned: bool,
}

/// Why a lookup failed.
struct Failure {
    text: Arc<str>,
    /// What this machine had run out of, if that was the cause.
    shortage: Option<Shortage>,
}

impl Address {
    pub(super) fn new(endpoint: Endpoint, lookups: Lookups, options: SocketOptions) -> Self {
        let known = match endpoint {
            Endpoint::Addr(addr) => Known { listed: vec![addr], ..Known::default() },
            _ => Known::default(),
        };
        Self {
            fresh: AtomicBool::new(!endpoint.is_name()),
            endpoint,
            lookups,
            options,
            known: Mutex::new(known),
            generation: AtomicU64::new(0),
            used: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            ended: watch::Sender::new(()),
        }
    }

    /// The generation of the connections that may be used for a new request; `None` when a lookup has to come
    /// first.
    #[inline]
    pub(super) fn usable(&self) -> Option<u64> {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        self.fresh.load(Acquire).then(|| self.generation())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Waits for a lookup to end. An error when no address is known.
    pub(super) async fn look_up(self: &Arc<Self>, deadline: Instant) -> Result<(), BoxError> {
        let mut ended = self.ended.subscribe();
        self.begin_lookup();
        let in_time = timeout_at(deadline, ended.changed()).await.is_ok();
        let known = self.known();
        if !known.listed.is_empty() {
            return Ok(());
        }
        match &known.failure {
            Some(Failure { text, shortage }) => {
                let error = io::Error::other(format!("{}: {text}", self.endpoint));
                Err(match *shortage {
                    Some(shortage) => ShortageError { shortage, source: error }.into(),
                    None => error.into(),
                })
            }
            None if in_time => Err(format!("{} has no address", self.endpoint).into()),
            None => Err(TimedOut::CONNECT.into()),
        }
    }

    /// Starts a lookup, unless one is in progress.
    fn begin_lookup(self: &Arc<Self>) {
        let Endpoint::Name(name, port) = &self.endpoint else { return };
        if self.looking.swap(true, AcqRel) {
            return;
        }
        let (name, port, lookup) = (name.clone(), *port, Lookup(self.clone()));
        drop(tokio::spawn(async move {
            let found = lookup.0.lookups.resolver.resolve(&name).await;
            lookup.0.apply(found, port);
            lookup.0.refresh_periodically();
        }));
    }

    /// Applies the result of a lookup.
    fn apply(&self, found: Result<Vec<IpAddr>, BoxError>, port: u16) {
        let mut listed = Vec::new();
        let failure = match found {
            Ok(found) => {
                for addr in found.into_iter().map(|ip| SocketAddr::new(ip, port)) {
                    if !listed.contains(&addr) {
                        listed.push(addr);
                    }
                }
                listed.is_empty().then(|| Failure { text: "no address".into(), shortage: None })
            }
            Err(error) => Some(Failure {
                text: error.to_string().into(),
                shortage: Shortage::in_chain(error.as_ref()),
            }),
        };
        let mut known = self.known();
        self.fresh.store(failure.is_none() || !known.listed.is_empty(), Release);
        if let Some(Failure { text, .. }) = &failure {
            // One warning: lookups are retried often.
            match &known.failure {
                None => tracing::warn!(name = %self.endpoint, error = %text, "lookup failed"),
                Some(_) => tracing::debug!(name = %self.endpoint, error = %text, "lookup failed"),
            }
        }
        let failed = failure.is_some();
        known.failure = failure;
        if failed {
            return;
        }
        self.warn_of_several(&mut known, &listed);
        if let Some(current) = known.current.filter(|current| !listed.contains(current)) {
            // Its connections are not used again. The first of the others that accepts is used.
            (known.current, known.last, known.failing) = (None, Some(current), None);
            self.generation.fetch_add(1, AcqRel);
        }
        known.listed = listed;
    }

    /// Several addresses of one family are most often several servers.
    fn warn_of_several(&self, known: &mut Known, listed: &[SocketAddr]) {
        let count = |v4: bool| listed.iter().filter(|addr| addr.is_ipv4() == v4).count();
        if !known.warned && count(true).max(count(false)) > 1 {
            known.warned = true;
            tracing::warn!(
                name = %self.endpoint,
                addresses = ?listed,
                "the name of a backend has several addresses, and one of them is used; to use them all, \
                 make each a backend of its own (Backends::follow_dns in the library)"
            );
        }
    }

    /// Looks the name up periodically, as long as requests use the address.
    fn refresh_periodically(self: &Arc<Self>) {
        if self.refreshing.swap(true, AcqRel) {
            return;
        }
        let (every, refreshing) = (self.lookups.every, Refreshing(Arc::downgrade(self)));
        drop(tokio::spawn(async move {
            let mut unused = 0;
            loop {
                sleep(every).await;
                let Some(address) = refreshing.0.upgrade() else { return };
                unused = if address.used.swap(false, Relaxed) { 0 } else { unused + 1 };
                if unused >= MAX_UNUSED {
                    return;
                }
                address.begin_lookup();
            }
        }));
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

/// A lookup in progress. It has ended when this is dropped.
struct Lookup(Arc<Address>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.looking.store(false, Release);
        self.0.ended.send_replace(());
    }
}

/// The periodic lookups, which have ended when this is dropped. The next request then waits for a lookup.
struct Refreshing(Weak<Address>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        if let Some(address) = self.0.upgrade() {
            address.fresh.store(!address.endpoint.is_name(), Release);
            address.refreshing.store(false, Release);
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known();
        f.debug_struct("Address")
            .field("endpoint", &self.endpoint)
            .field("listed", &known.listed)
            .field("current", &known.current)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::resolve::Resolve, *};

    fn address(resolve: impl Resolve) -> Arc<Address> {
        let every = Duration::from_secs(60);
        let lookups = Lookups { resolver: Resolver::new(resolve), every, on_change: None };
        let options = SocketOptions { user_timeout: every, unsent: 16 << 10 };
        Arc::new(Address::new(Endpoint::Name("app.test".into(), 80), lookups, options))
    }

    async fn silent(_: String) -> Result<Vec<IpAddr>, BoxError> {
        std::future::pending().await
    }

    async fn broken(_: String) -> Result<Vec<IpAddr>, BoxError> {
        panic!("the resolver of a test")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_takes_too_long_is_a_timeout() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let error = address(silent).look_up(deadline).await.unwrap_err();
        assert_eq!(error.downcast_ref::<TimedOut>(), Some(&TimedOut::CONNECT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_panics_ends_the_lookup() {
        let address = address(broken);
        let begun = Instant::now();
        for _ in 0..2 {
            let error = address.look_up(begun + Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(error.to_string(), "app.test:80 has no address");
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[test]
    fn several_addresses_of_one_family_are_warned_of() {
        let address = address(silent);
        let [a, b] = [1, 2].map(|n| SocketAddr::from(([10, 0, 0, n], 80)));
        let [c, d] = [1, 2].map(|n| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 80)));
        for (listed, expected) in [
            (&[a, b][..], true),
            (&[c, d], true),
            (&[a, c, d], true),
            (&[a, c], false),
            (&[a], false),
            (&[c], false),
            (&[], false),
        ] {
            let mut known = Known::default();
            address.warn_of_several(&mut known, listed);
            assert_eq!(known.warned, expected, "{listed:?}");
        }
    }
}
