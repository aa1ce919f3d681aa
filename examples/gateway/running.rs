//! A gateway that serves: its signals, and how it ends.

use std::{fs, io, net::SocketAddr, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tower_sticky::{
    admin::Stage,
    serve::{Listener, ServerHandle},
};

use crate::{
    config::{self, ListenerSettings},
    front::Front,
    reload::Reloader,
    restart::Program,
    service_manager,
};

/// A gateway that serves.
pub(crate) struct Running {
    pub(crate) program: Program,
    pub(crate) front: Arc<Front>,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) admin_socket: Option<Listener>,
}

/// Why the gateway stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A signal has said so.
    Stopped,
    /// Another process accepts from the same sockets.
    Replaced,
}

/// The admin interface, if there is one, and what it says of the gateway.
pub(crate) struct AdminInterface {
    pub(crate) server: Option<ServerHandle>,
    pub(crate) stage: watch::Sender<Stage>,
}

impl Running {
    /// Serves until a signal says to stop, or another process has taken over, and stops. The admin interface is
    /// served until everything else has stopped.
    pub(crate) async fn until_stopped(
        self,
        mut signals: Signals,
        listeners: &[ListenerSettings],
        state: Option<&Path>,
        admin: AdminInterface,
    ) {
        let AdminInterface { server, stage } = admin;
        let end = self.until_ended(&mut signals, listeners).await;
        if end == End::Replaced {
            // The other process answers for both.
            server.iter().for_each(ServerHandle::stop_accepting);
        }
        stage.send_replace(Stage::Stopping);
        self.finish(end, state, &mut signals).await;
        stage.send_replace(Stage::Over);
        if let Some(server) = server {
            server.shutdown(Duration::from_secs(1)).await;
        }
    }

    /// Serves until a signal says to stop, or another process has taken over.
    async fn until_ended(&self, signals: &mut Signals, listeners: &[ListenerSettings]) -> End {
        loop {
            match signals.any().await {
                Asked::Stop => return End::Stopped,
                Asked::Reload => self.reload(listeners).await,
                Asked::Restart => match self.restart().await {
                    Ok(()) => return End::Replaced,
                    Err(error) => tracing::error!(%error, "not restarted; this process goes on"),
                },
            }
        }
    }

    /// Reads the file and the certificates again. What is wrong is logged.
    async fn reload(&self, listeners: &[ListenerSettings]) {
        let _ = self.reloader.reload().await;
        // It was renamed, perhaps.
        self.reloader.log_files().reopen();
        for tls in listeners.iter().filter_map(ListenerSettings::tls) {
            if let Err(error) = config::reload(tls) {
                tracing::error!(%error, "new certificates cannot be used; the old ones stay");
            }
        }
    }

    async fn restart(&self) -> Result<(), config::Error> {
        let sockets = async {
            let mut sockets = self.front.fds().await?;
            if let Some(admin) = &self.admin_socket {
                sockets.push(admin.as_fd().try_clone_to_owned()?);
            }
            io::Result::Ok(sockets)
        };
        let sockets = sockets.await.map_err(|error| config::Error::new(error.to_string()))?;
        let limit = self.reloader.stopping().upgrade_timeout;
        let pause = async |in_the_way: Vec<SocketAddr>| {
            self.front.stop_accepting();
            self.front.close_at(&in_the_way).await;
            self.reloader.state(true).await
        };
        let replaced = self.program.replace(sockets, limit, pause).await;
        self.reloader.log_files().flush().await;
        if replaced.is_err() {
            self.reloader.resume().await;
        }
        replaced
    }

    /// Waits for requests in flight, and leaves the state in a file. A second signal ends the wait.
    async fn finish(&self, end: End, state: Option<&Path>, signals: &mut Signals) {
        let stopping = self.reloader.stopping();
        let limit = match end {
            End::Stopped => stopping.shutdown_timeout,
            End::Replaced => stopping.upgrade_drain,
        };
        tracing::info!(open = self.front.open_connections(), ?end, "stopping");
        let finished = async {
            if end == End::Replaced {
                return self.front.hand_over(limit).await;
            }
            service_manager::tell_stopping();
            tokio::time::sleep(stopping.drain_delay).await;
            self.front.shut_down(limit).await
        };
        tokio::select! {
            finished = finished => {
                if !finished {
                    let open = self.front.open_connections();
                    tracing::warn!(open, "not all connections have ended in time");
                }
            }
            () = signals.stop() => {
                tracing::warn!(open = self.front.open_connections(), "stopping at once");
            }
        }
        self.reloader.log_files().flush().await;
        if let Some(path) = state.filter(|_| end == End::Stopped) {
            let saved = save(path, &self.reloader.state(false).await);
            if let Err(error) = saved {
                tracing::error!(%error, path = %path.display(), "the state cannot be saved");
            }
        }
    }
}

/// Replaces the file at once, so that it is never half written.
fn save(path: &Path, state: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, state)?;
    fs::rename(&new, path)
}

/// SIGTERM, SIGINT, SIGHUP and SIGUSR2.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
    Restart,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn any(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user2.recv() => Asked::Restart,
        }
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        while self.any().await != Asked::Stop {}
    }
}
