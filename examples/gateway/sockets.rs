//! The sockets that clients connect to: those that this process opens, and those that it inherits.

use std::{io, os::fd::AsFd, os::fd::OwnedFd};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};
use tower_sticky::serve::Listener;

use crate::config::{Error, ListenerSettings};

/// The listening sockets of this process.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// With the addresses in the configuration.
    open: Vec<(String, Listener)>,
    inherited: Vec<Option<Listener>>,
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

    /// A listener for each of the settings. Sockets that are not open yet are opened.
    pub(crate) async fn listeners(
        &mut self,
        settings: &[ListenerSettings],
    ) -> Result<Vec<Listener>, Error> {
        let mut listeners = Vec::new();
        for listener in settings {
            let address = listener.address();
            if !self.open.iter().any(|(open, _)| *open == address) {
                let socket = match listener.choose(&mut self.inherited).await? {
                    Some(inherited) => inherited,
                    None => listener.open().await?,
                };
                self.open.push((address.clone(), socket));
            }
            let open = self.open.iter().find(|(open, _)| *open == address);
            let clone = open.map(|(_, socket)| socket.try_clone());
            let clone = clone.transpose().map_err(|error| Error::new(error.to_string()))?;
            listeners.extend(clone.map(|clone| listener.with_options(clone)));
        }
        Ok(listeners)
    }

    /// A socket of the admin interface that was inherited.
    pub(crate) fn take_tcp(&mut self, addr: std::net::SocketAddr) -> Option<Listener> {
        let is_it = |listener: &Listener| is_at(listener, addr);
        self.inherited.iter_mut().find(|it| it.as_ref().is_some_and(is_it))?.take()
    }

    /// Closes the sockets that the settings do not name, and those that were inherited in vain.
    pub(crate) fn retain(&mut self, settings: &[ListenerSettings]) {
        self.inherited.clear();
        self.open.retain(|(address, _)| settings.iter().any(|it| it.address() == *address));
    }

    /// Copies of all sockets, for another process.
    pub(crate) fn fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.open.iter().map(|(_, socket)| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// Another process listens on them now.
    pub(crate) fn give_away(&mut self) {
        self.open.iter().for_each(|(_, socket)| socket.keep_file());
        self.open.clear();
    }

    pub(crate) fn close(&mut self) {
        self.open.clear();
    }
}

/// Whether an inherited socket is the one for this address. Port 0 is any port.
pub(crate) fn is_at(listener: &Listener, addr: std::net::SocketAddr) -> bool {
    listener.local_addr().tcp().is_some_and(|local| {
        local.ip() == addr.ip() && (addr.port() == 0 || local.port() == addr.port())
    })
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
