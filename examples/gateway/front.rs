//! The server for clients, which is replaced when its settings change.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tower_sticky::{
    metrics::OwnMetric,
    serve::{ConnectionLimit, Listener, LocalAddr, ServerHandle, Workers},
};

use crate::{
    config::{Error, Settings},
    sockets::{Overlap, Sockets},
};

/// Starts a server with these listeners.
type Start = dyn Fn(Vec<Listener>, &Settings) -> io::Result<ServerHandle> + Send + Sync;

/// The servers over the sockets of this process: one accepts, and earlier ones serve the connections that they have.
pub(crate) struct Front {
    start: Box<Start>,
    sockets: tokio::sync::Mutex<Sockets>,
    servers: Mutex<Vec<Arc<ServerHandle>>>,
    /// Of the connections of all servers.
    limit: ConnectionLimit,
    /// The threads of all servers.
    workers: Workers,
}

/// Where a front accepts.
#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) addrs: Vec<LocalAddr>,
    /// The sockets that had to be closed before.
    pub(crate) closed: Vec<Overlap>,
}

impl Front {
    /// A front that does not accept yet.
    pub(crate) fn new(
        sockets: Sockets,
        (limit, workers): (ConnectionLimit, Workers),
        start: impl Fn(Vec<Listener>, &Settings) -> io::Result<ServerHandle> + Send + Sync + 'static,
    ) -> Self {
        let (sockets, servers) = (tokio::sync::Mutex::new(sockets), Mutex::default());
        Self { start: Box::new(start), sockets, servers, limit, workers }
    }

    /// Accepts with these settings. Connections that are open keep theirs. With an error nothing has changed: it
    /// accepts with the `former` settings.
    pub(crate) async fn accept(
        &self,
        settings: &Settings,
        former: Option<&Settings>,
    ) -> Result<Accepting, Error> {
        let mut sockets = self.sockets.lock().await;
        let closed = sockets.overlaps(&settings.listeners).await?;
        if closed.is_empty() {
            let addrs = self.replace(&mut sockets, settings, false).await?;
            return Ok(Accepting { addrs, closed });
        }
        self.stop_accepting();
        sockets.close_former(&closed);
        match self.replace(&mut sockets, settings, true).await {
            Ok(addrs) => Ok(Accepting { addrs, closed }),
            Err(error) => {
                if let Some(former) = former
                    && let Err(error) = self.replace(&mut sockets, former, true).await
                {
                    tracing::error!(%error, "cannot accept again");
                }
                Err(error)
            }
        }
    }

    /// Starts a server, and lets the former one only serve the connections that it has.
    async fn replace(
        &self,
        sockets: &mut Sockets,
        settings: &Settings,
        was_closed: bool,
    ) -> Result<Vec<LocalAddr>, Error> {
        let mut prepared = sockets.prepare(&settings.listeners, was_closed).await?;
        let started = (self.start)(std::mem::take(&mut prepared.listeners), settings);
        let server = Arc::new(started.map_err(|error| Error::new(error.to_string()))?);
        sockets.commit(prepared, &settings.listeners);
        let addrs = server.local_addrs().to_vec();
        let mut servers = self.servers();
        if let Some(former) = servers.last() {
            former.stop_accepting();
            let former = former.clone();
            drop(tokio::spawn(async move { former.retire().await }));
        }
        servers.retain(|server| server.open_connections() > 0);
        servers.push(server);
        Ok(addrs)
    }

    /// Changes how many connections may be open, in all servers together.
    pub(crate) fn set_limit(&self, connections: u32) {
        self.limit.set(connections);
    }

    /// Clients wait in the system's queue from now on.
    pub(crate) fn stop_accepting(&self) {
        for server in self.servers().iter() {
            server.stop_accepting();
        }
    }

    /// Closes the sockets at these addresses, from which nothing accepts any more.
    pub(crate) async fn close_at(&self, addrs: &[SocketAddr]) {
        self.sockets.lock().await.close_at(addrs);
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.servers().iter().map(|server| server.open_connections()).sum()
    }

    /// The tasks of this process. To be called on the thread that accepts.
    pub(crate) fn tasks(&self) -> OwnMetric {
        let main = Handle::current().metrics().num_alive_tasks();
        OwnMetric::gauge("sticky_gateway_tasks", "Tasks that are alive in the gateway.")
            .value(&[("thread", "main")], main as u64)
            .value(&[("thread", "workers")], self.workers.alive_tasks() as u64)
    }

    /// Waits until all connections have closed. Whether they have.
    pub(crate) async fn shut_down(&self, limit: Duration) -> bool {
        self.sockets.lock().await.close();
        self.finish(limit, false).await
    }

    /// The same, when another process accepts from the sockets.
    pub(crate) async fn hand_over(&self, limit: Duration) -> bool {
        self.sockets.lock().await.give_away();
        self.finish(limit, true).await
    }

    async fn finish(&self, limit: Duration, is_handed_over: bool) -> bool {
        let servers = self.servers().clone();
        let finished = servers.into_iter().map(|server| {
            tokio::spawn(async move {
                match is_handed_over {
                    true => server.hand_over(limit).await,
                    false => server.shutdown(limit).await,
                }
            })
        });
        let finished: Vec<_> = finished.collect();
        let mut all = true;
        for finished in finished {
            all &= finished.await.unwrap_or(false);
        }
        all
    }

    /// Copies of the sockets.
    pub(crate) async fn fds(&self) -> io::Result<Vec<std::os::fd::OwnedFd>> {
        self.sockets.lock().await.fds()
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Arc<ServerHandle>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
