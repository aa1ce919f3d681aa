//! The server for clients, which is replaced when its settings change.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tower_sticky::serve::{Listener, LocalAddr, ServerHandle};

use crate::{
    config::{Error, Settings},
    sockets::Sockets,
};

/// How often is looked whether the connections of a former server have ended.
const RETIRE_CHECK: Duration = Duration::from_secs(1);

/// Starts a server with these listeners.
type Start = dyn Fn(Vec<Listener>, &Settings) -> io::Result<ServerHandle> + Send + Sync;

/// The servers over the sockets of this process: one accepts, and earlier ones serve the connections that they have.
pub(crate) struct Front {
    start: Box<Start>,
    sockets: tokio::sync::Mutex<Sockets>,
    servers: Mutex<Vec<Arc<ServerHandle>>>,
}

impl Front {
    /// A front that does not accept yet.
    pub(crate) fn new(
        sockets: Sockets,
        start: impl Fn(Vec<Listener>, &Settings) -> io::Result<ServerHandle> + Send + Sync + 'static,
    ) -> Self {
        let (sockets, servers) = (tokio::sync::Mutex::new(sockets), Mutex::default());
        Self { start: Box::new(start), sockets, servers }
    }

    /// Accepts with these settings. Connections that are open keep theirs. With an error nothing has changed.
    pub(crate) async fn accept(&self, settings: &Settings) -> Result<Vec<LocalAddr>, Error> {
        let mut sockets = self.sockets.lock().await;
        let listeners = sockets.listeners(&settings.listeners).await?;
        let started = (self.start)(listeners, settings);
        let server = Arc::new(started.map_err(|error| Error::new(error.to_string()))?);
        sockets.retain(&settings.listeners);
        let addrs = server.local_addrs().to_vec();
        let mut servers = self.servers();
        if let Some(former) = servers.last() {
            former.stop_accepting();
            drop(tokio::spawn(retire(former.clone())));
        }
        servers.retain(|server| server.open_connections() > 0);
        servers.push(server);
        Ok(addrs)
    }

    /// Clients wait in the system's queue from now on.
    pub(crate) fn stop_accepting(&self) {
        for server in self.servers().iter() {
            server.stop_accepting();
        }
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.servers().iter().map(|server| server.open_connections()).sum()
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

/// Ends the threads of a server that accepts no more, once its connections have ended.
async fn retire(server: Arc<ServerHandle>) {
    while server.open_connections() > 0 {
        tokio::time::sleep(RETIRE_CHECK).await;
    }
    server.shutdown(Duration::ZERO).await;
}
