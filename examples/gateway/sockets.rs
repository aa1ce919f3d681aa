//! The sockets that clients connect to: those that this process opens, and those that it inherits.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use listenfd::ListenFd;
use tokio::{
    net::{TcpListener, UnixListener},
    time::{Instant, sleep},
};
use tower_sticky::serve::Listener;

use crate::config::{Error, ListenerSettings};

/// How long an address may still be in use whose socket this process has just closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);
const CLOSE_CHECK: Duration = Duration::from_millis(2);

/// The listening sockets of this process.
#[derive(Debug)]
pub(crate) struct Sockets {
    open: Vec<Open>,
    inherited: Vec<Option<Listener>>,
}

/// A socket that is open.
#[derive(Debug)]
struct Open {
    /// As the configuration has it.
    address: String,
    socket: Listener,
}

/// The sockets of other settings, which are not in force yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    open: Vec<Open>,
    /// With the options of their connections.
    pub(crate) listeners: Vec<Listener>,
}

/// A socket that has to be closed before another one can be opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// The key of the listener whose address is new.
    key: String,
    /// The address whose socket is in the way.
    former: String,
}

impl Overlap {
    /// What the list of changes says of it.
    pub(crate) fn describe(&self) -> String {
        format!("{} ({} was closed first)", self.key, self.former)
    }
}

/// Inherited sockets that have to be closed before others can be opened, here and in the process before this one.
#[derive(Debug, Default)]
pub(crate) struct InTheWay {
    sockets: Vec<Listener>,
    /// The addresses of the listeners that wait for that, as the configuration has them.
    waiting: Vec<String>,
}

impl InTheWay {
    /// The addresses of the sockets.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().tcp())
    }
}

impl Sockets {
    /// Takes the sockets that a parent process has passed (`LISTEN_FDS`).
    pub(crate) fn inherited() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Vec::new();
        for index in 0..passed.len() {
            inherited.push(take(&mut passed, index)?);
        }
        Ok(Self { open: Vec::new(), inherited })
    }

    /// The open sockets that overlap with an address that is to be opened, and that the settings no longer name.
    pub(crate) async fn overlaps(
        &self,
        settings: &[ListenerSettings],
    ) -> Result<Vec<Overlap>, Error> {
        let mut overlaps = Vec::new();
        for listener in settings.iter().filter(|it| self.find(&it.address()).is_none()) {
            let addrs = listener.addrs().await?;
            for open in self.open.iter().filter(|open| !is_named(settings, &open.address)) {
                let Some(local) = open.socket.local_addr().tcp() else { continue };
                let is_same = addrs.iter().any(|addr| is_at(&open.socket, *addr));
                if !is_same && addrs.iter().any(|addr| overlap(*addr, local)) {
                    let (key, former) = (listener.key().to_owned(), open.address.clone());
                    overlaps.push(Overlap { key, former });
                }
            }
        }
        Ok(overlaps)
    }

    /// Takes out the inherited sockets that overlap with an address that is to be opened, and that no settings name.
    pub(crate) async fn take_in_the_way(
        &mut self,
        settings: &[ListenerSettings],
    ) -> Result<InTheWay, Error> {
        let mut listeners = Vec::new();
        for listener in settings {
            listeners.push((listener, listener.addrs().await?));
        }
        let mut in_the_way = InTheWay::default();
        for socket in &mut self.inherited {
            let Some(local) = socket.as_ref().and_then(|it| it.local_addr().tcp()) else {
                continue;
            };
            if listeners.iter().any(|(_, addrs)| addrs.iter().any(|addr| is_for(local, *addr))) {
                continue;
            }
            let overlaps = |addrs: &[SocketAddr]| addrs.iter().any(|addr| overlap(*addr, local));
            let waiting = listeners.iter().filter(|(_, addrs)| overlaps(addrs));
            let before = in_the_way.waiting.len();
            in_the_way.waiting.extend(waiting.map(|(listener, _)| listener.address()));
            if in_the_way.waiting.len() > before {
                in_the_way.sockets.extend(socket.take());
            }
        }
        Ok(in_the_way)
    }

    /// Opens the sockets that do not wait for others to be closed.
    pub(crate) async fn open_others(
        &mut self,
        settings: &[ListenerSettings],
        in_the_way: &InTheWay,
    ) -> Result<(), Error> {
        let others = settings.iter().filter(|it| !in_the_way.waiting.contains(&it.address()));
        let others: Vec<_> = others.cloned().collect();
        self.open = self.prepare(&others, false).await?.open;
        Ok(())
    }

    /// Opens the sockets that have waited. The process before this one has closed those in the way.
    pub(crate) async fn open_waiting(
        &mut self,
        settings: &[ListenerSettings],
        in_the_way: InTheWay,
    ) -> Result<(), Error> {
        let InTheWay { sockets, waiting } = in_the_way;
        if waiting.is_empty() {
            return Ok(());
        }
        drop(sockets);
        self.open = self.prepare(settings, true).await?.open;
        tracing::info!(?waiting, "sockets that overlap with these were closed first");
        Ok(())
    }

    /// Closes the sockets at these addresses, which another process opens otherwise.
    pub(crate) fn close_at(&mut self, addrs: &[SocketAddr]) {
        let is_closed =
            |open: &Open| open.socket.local_addr().tcp().is_some_and(|it| addrs.contains(&it));
        self.open.retain(|open| !is_closed(open));
    }

    /// Closes the sockets that are in the way.
    pub(crate) fn close_former(&mut self, overlaps: &[Overlap]) {
        self.open.retain(|open| overlaps.iter().all(|overlap| overlap.former != open.address));
    }

    /// A listener for each of the settings. Sockets that are open already stay, those that are not are opened. Waits for
    /// an address to be free if one `was_closed`.
    pub(crate) async fn prepare(
        &mut self,
        settings: &[ListenerSettings],
        was_closed: bool,
    ) -> Result<Prepared, Error> {
        let mut prepared = Prepared { open: Vec::new(), listeners: Vec::new() };
        let until = Instant::now() + if was_closed { CLOSES_WITHIN } else { Duration::ZERO };
        for listener in settings {
            let socket = match self.reuse(listener, settings).await? {
                Some(socket) => socket,
                None => open(listener, until).await?,
            };
            let clone = clone(&socket)?;
            prepared.listeners.push(listener.with_options(clone));
            prepared.open.push(Open { address: listener.address(), socket });
        }
        Ok(prepared)
    }

    /// These sockets are in force now. Others are closed, and so are those that were inherited in vain.
    pub(crate) fn commit(&mut self, prepared: Prepared, settings: &[ListenerSettings]) {
        self.inherited.clear();
        self.open = prepared.open;
        for listener in settings {
            listener.set_mode();
        }
    }

    /// The socket of a listener that is open or inherited.
    async fn reuse(
        &mut self,
        listener: &ListenerSettings,
        settings: &[ListenerSettings],
    ) -> Result<Option<Listener>, Error> {
        if let Some(open) = self.find(&listener.address()) {
            return clone(&open.socket).map(Some);
        }
        if let Some(inherited) = listener.choose(&mut self.inherited).await? {
            return Ok(Some(inherited));
        }
        if self.open.is_empty() {
            return Ok(None);
        }
        // The same address may be written otherwise.
        let addrs = listener.addrs().await?;
        let is_it = |open: &&Open| {
            !is_named(settings, &open.address)
                && addrs.iter().any(|addr| addr.port() != 0 && is_at(&open.socket, *addr))
        };
        self.open.iter().find(is_it).map(|open| clone(&open.socket)).transpose()
    }

    fn find(&self, address: &str) -> Option<&Open> {
        self.open.iter().find(|open| open.address == address)
    }

    /// A socket of the admin interface that was inherited.
    pub(crate) fn take_tcp(&mut self, addr: SocketAddr) -> Option<Listener> {
        let is_it = |listener: &Listener| is_at(listener, addr);
        self.inherited.iter_mut().find(|it| it.as_ref().is_some_and(is_it))?.take()
    }

    /// Copies of all sockets, for another process.
    pub(crate) fn fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.open.iter().map(|open| open.socket.as_fd().try_clone_to_owned()).collect()
    }

    /// Another process listens on them now.
    pub(crate) fn give_away(&mut self) {
        self.open.iter().for_each(|open| open.socket.keep_file());
        self.open.clear();
    }

    pub(crate) fn close(&mut self) {
        self.open.clear();
    }
}

/// Whether an inherited socket is the one for this address. Port 0 is any port.
pub(crate) fn is_at(listener: &Listener, addr: SocketAddr) -> bool {
    listener.local_addr().tcp().is_some_and(|local| is_for(local, addr))
}

/// Whether a socket at `local` is the one for this address.
fn is_for(local: SocketAddr, addr: SocketAddr) -> bool {
    local.ip() == addr.ip() && (addr.port() == 0 || local.port() == addr.port())
}

/// Whether only one of both addresses can be listened on.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // A socket of all addresses of IPv6 has those of IPv4, too.
    let has = |all: SocketAddr, one: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    one.port() == other.port() && (one == other || has(one, other) || has(other, one))
}

fn is_named(settings: &[ListenerSettings], address: &str) -> bool {
    settings.iter().any(|listener| listener.address() == address)
}

async fn open(listener: &ListenerSettings, until: Instant) -> Result<Listener, Error> {
    loop {
        match listener.open().await {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(CLOSE_CHECK).await;
            }
            Err(error) => return Err(listener.cannot_listen(&error)),
        }
    }
}

fn clone(socket: &Listener) -> Result<Listener, Error> {
    socket.try_clone().map_err(|error| Error::new(error.to_string()))
}

fn take(passed: &mut ListenFd, index: usize) -> io::Result<Option<Listener>> {
    if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        return Listener::from_tcp(TcpListener::from_std(listener)?).map(Some);
    }
    if let Ok(Some(listener)) = passed.take_unix_listener(index) {
        listener.set_nonblocking(true)?;
        return Listener::from_unix(UnixListener::from_std(listener)?).map(Some);
    }
    tracing::warn!(index, "a passed file descriptor is not a socket that listens; it is not used");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_is_every_address() {
        for (one, other, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
        ] {
            let [one, other] = [one, other].map(|addr| addr.parse().unwrap());
            assert_eq!(overlap(one, other), expected, "{one} and {other}");
        }
    }
}
