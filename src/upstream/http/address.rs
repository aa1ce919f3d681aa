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
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{resolve::Resolver, target::Endpoint};
use crate::{
    error::{BoxError, Shortage, ShortageError, TimedOut},
    util::{
        SocketOptions,
        clock::{after, later},
        lock,
    },
};

/// How long an address may refuse connections before a request tries the next one. A redial does so at
/// once.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

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
    endpoint: Endpoint,
    lookups: Lookups,
    /// How long a peer may acknowledge nothing.
    options: SocketOptions,
    known: Mutex<Known>,
    /// Grows with each change of the address in use: connections of an older one are not used again.
    generation: AtomicU64,
    /// Whether the addresses are looked up periodically, so that they are up to date.
    fresh: AtomicBool,
    /// Whether a request has used the address since the last lookup.
    used: AtomicBool,
    /// Whether the periodic lookups run.
    refreshing: AtomicBool,
    /// Whether a lookup is in progress, and how many have ended.
    looking: AtomicBool,
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    listed: Vec<SocketAddr>,
    /// The address in use, which has accepted a connection.
    current: Option<SocketAddr>,
    /// The address that was in use before, until the next one is.
    last: Option<SocketAddr>,
    /// Since when the address in use has refused every connection.
    failing: Option<Instant>,
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
            Endpoint::Name(..) => Known::default(),
        };
        Self {
            fresh: AtomicBool::new(matches!(endpoint, Endpoint::Addr(_))),
            endpoint,
            lookups,
            options,
            known: Mutex::new(known),
            generation: AtomicU64::new(0),
            used: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            ended: watch::Sender::new(0),
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

    /// Opens a connection within `limit`, and returns the generation that it belongs to. With `redials`, no
    /// request depends on the address in use, so the next one is tried when that one refuses.
    pub(super) async fn connect(
        self: &Arc<Self>,
        limit: Duration,
        redials: bool,
    ) -> Result<(TcpStream, u64), BoxError> {
        let (stream, generation) = self.connect_to_any(limit, redials).await?;
        self.options.apply(&stream)?;
        Ok((stream, generation))
    }

    async fn connect_to_any(
        self: &Arc<Self>,
        limit: Duration,
        redials: bool,
    ) -> Result<(TcpStream, u64), BoxError> {
        let deadline = later(limit);
        if self.usable().is_none() {
            self.look_up(deadline).await?;
        }
        let generation = self.generation();
        let (current, listed, failing) = {
            let known = self.known();
            (known.current, known.listed.clone(), known.failing)
        };
        let Some(current) = current else {
            return self.connect_to_first(&listed, None, deadline).await;
        };
        // The others need a share of the time when they may have to be tried.
        let half = later(deadline.saturating_duration_since(Instant::now()) / 2);
        let may_change =
            redials || failing.is_some_and(|since| after(since, GIVE_UP_AFTER) <= half);
        let due = if may_change && listed.len() > 1 { half } else { deadline };
        let error = match timeout_at(due, TcpStream::connect(current)).await {
            Ok(Ok(stream)) => {
                self.known().failing = None;
                return Ok((stream, generation));
            }
            Ok(Err(error)) => error_of(error, true),
            Err(_) => TimedOut::CONNECT.into(),
        };
        if Shortage::in_chain(error.as_ref()).is_none() && self.should_change(current, redials) {
            let others: Vec<_> = listed.into_iter().filter(|addr| *addr != current).collect();
            let connecting = self.connect_to_first(&others, Some(current), deadline);
            if let Ok(connected) = connecting.await {
                return Ok(connected);
            }
        }
        Err(error)
    }

    /// Connects to the first address that accepts. It is used from then on, in place of `current`.
    async fn connect_to_first(
        &self,
        addrs: &[SocketAddr],
        current: Option<SocketAddr>,
        deadline: Instant,
    ) -> Result<(TcpStream, u64), BoxError> {
        let mut last: BoxError = io::Error::from(io::ErrorKind::HostUnreachable).into();
        for (tried, addr) in addrs.iter().enumerate() {
            // Each of them gets an equal share of the time that is left.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = later(left / (addrs.len() - tried) as u32);
            last = match timeout_at(share, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => match self.set_current(*addr, current) {
                    Ok(generation) => return Ok((stream, generation)),
                    Err(other) => {
                        let generation = self.generation();
                        let stream = timeout_at(deadline, TcpStream::connect(other)).await;
                        return Ok((stream.map_err(|_| TimedOut::CONNECT)??, generation));
                    }
                },
                Ok(Err(error)) => error_of(error, false),
                Err(_) => TimedOut::CONNECT.into(),
            };
            if Shortage::in_chain(last.as_ref()).is_some() {
                break;
            }
        }
        Err(last)
    }

    /// Whether the next address is tried after `current` has refused a connection.
    fn should_change(&self, current: SocketAddr, redials: bool) -> bool {
        let mut known = self.known();
        if known.current != Some(current) || known.listed.len() < 2 {
            return false;
        }
        let failing = *known.failing.get_or_insert_with(Instant::now);
        redials || failing.elapsed() >= GIVE_UP_AFTER
    }

    /// Uses `addr`, which has accepted a connection, in place of `current`. Returns its generation, or the
    /// address that another request has chosen meanwhile.
    fn set_current(
        &self,
        addr: SocketAddr,
        current: Option<SocketAddr>,
    ) -> Result<u64, SocketAddr> {
        let mut known = self.known();
        match known.current {
            Some(chosen) if chosen == addr => return Ok(self.generation()),
            Some(chosen) if Some(chosen) != current => return Err(chosen),
            _ => {}
        }
        let before = known.current.or(known.last);
        (known.current, known.last, known.failing) = (Some(addr), None, None);
        let Some(before) = before.filter(|before| *before != addr) else {
            return Ok(self.generation());
        };
        let generation = self.generation.fetch_add(1, AcqRel) + 1;
        drop(known);
        tracing::info!(name = %self.endpoint, from = %before, to = %addr, "address changed");
        if let Some(on_change) = &self.lookups.on_change {
            on_change(before, addr);
        }
        Ok(generation)
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

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

/// A lookup in progress. It has ended when this is dropped.
struct Lookup(Arc<Address>);

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.looking.store(false, Release);
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}

/// The periodic lookups, which have ended when this is dropped. The next request then waits for a lookup.
struct Refreshing(Weak<Address>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        if let Some(address) = self.0.upgrade() {
            address.fresh.store(matches!(address.endpoint, Endpoint::Addr(_)), Release);
            address.refreshing.store(false, Release);
        }
    }
}

/// The error of a connection attempt. `accepted`: the address has accepted a connection before.
fn error_of(error: io::Error, accepted: bool) -> BoxError {
    if accepted && error.kind() == io::ErrorKind::AddrNotAvailable {
        return ShortageError { shortage: Shortage::Ports, source: error }.into();
    }
    error.into()
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
