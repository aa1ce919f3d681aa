//! `ServerHandle`, a server that runs.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;

use super::{listener::LocalAddr, shared::Shared};

/// A server that runs. It goes on when its handle is dropped.
#[derive(Debug)]
pub struct ServerHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) local_addrs: Vec<LocalAddr>,
}

impl ServerHandle {
    /// The addresses of the listeners, in the order in which they were added.
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.local_addrs
    }

    /// How many connections are open, upgraded ones included.
    pub fn open_connections(&self) -> usize {
        let shared = &*self.shared;
        shared.open.count().saturating_sub(shared.awaits_connection.load(Relaxed).into())
    }

    /// How many connections were closed because of the PROXY protocol: its header was missing or malformed, or the
    /// peer may not connect.
    pub fn proxy_protocol_errors(&self) -> u64 {
        self.shared.proxy_protocol_errors.load(Relaxed)
    }

    /// How many TLS handshakes have failed, timed-out ones included.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn handshake_errors(&self) -> u64 {
        self.shared.handshake_errors.load(Relaxed)
    }

    /// Stops accepting. Connections that are open go on: their next requests are served, too.
    ///
    /// The sockets are closed, unless they have been [cloned](super::Listener::try_clone): then another server may
    /// accept from them.
    pub fn stop_accepting(&self) {
        self.shared.closed.set();
    }

    /// Stops accepting, and waits until the connections that are open have closed by themselves: their next requests
    /// are served, too. Then the threads of the server end, unless they are
    /// [shared](super::Server::shared_workers).
    pub async fn retire(&self) {
        self.stop_accepting();
        let shared = &*self.shared;
        shared.accepting_ended.wait().await;
        shared.open.ended().await;
        shared.finished.set();
    }

    /// As [`shutdown`](Self::shutdown), when another process or server accepts from the same sockets: HTTP/1.1
    /// connections without a request are kept until the client uses them, for at most the idle timeout, and get
    /// `Connection: close` with that response. So no client meets a closed connection.
    pub async fn hand_over(&self, limit: Duration) -> bool {
        self.shared.keeps_idle.store(true, Relaxed);
        self.shutdown(limit).await
    }

    /// Stops accepting, and waits until all connections have closed, for at most `limit`. Returns whether they
    /// have.
    ///
    /// Requests in flight are answered. HTTP/1.1 connections get `Connection: close` with their next response,
    /// and those without a request are kept for another 200 ms, as a request may be on its way; HTTP/2
    /// connections get GOAWAY. Connections that are open when `limit` has passed are cut if they are on
    /// [threads of the server](super::Server::workers); otherwise they go on until their runtime ends, or the last
    /// server on shared threads has finished.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        let shared = &*self.shared;
        shared.closed.set();
        shared.stop.set();
        // A permit is returned when its connection is closed, upgraded ones included.
        // A connection that is being accepted still counts.
        shared.accepting_ended.wait().await;
        let closed = timeout(limit, shared.open.ended()).await.is_ok();
        shared.finished.set();
        closed
    }
}
