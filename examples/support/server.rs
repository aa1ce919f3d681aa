//! A server with a thread and a runtime of its own, so that it can be killed.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

/// A server that runs until it is killed or dropped.
#[derive(Debug)]
pub struct Server {
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a free port.
    pub fn start<F, Fut>(serve: F) -> Self
    where
        F: FnOnce(tokio::net::TcpListener) -> Fut + Send + 'static,
        Fut: Future,
    {
        Self::on(Self::bind("127.0.0.1:0"), serve)
    }

    /// Listeners on free ports, with their URLs, so that servers can know each other before they start.
    pub fn bind_all(count: usize) -> io::Result<(Vec<TcpListener>, Vec<String>)> {
        let listeners: Vec<_> = (0..count).map(|_| Self::bind("127.0.0.1:0")).collect();
        let url = |listener: &TcpListener| Ok(format!("http://{}", listener.local_addr()?));
        let urls = listeners.iter().map(url).collect::<io::Result<_>>()?;
        Ok((listeners, urls))
    }

    /// A listener, whose address others can be told before it serves.
    pub fn bind(addr: &str) -> TcpListener {
        let listener = TcpListener::bind(addr).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        listener
    }

    /// Serves on `listener`.
    pub fn on<F, Fut>(listener: TcpListener, serve: F) -> Self
    where
        F: FnOnce(tokio::net::TcpListener) -> Fut + Send + 'static,
        Fut: Future,
    {
        let addr = listener.local_addr().expect("the listener is bound");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .expect("the listener can be registered");
                tokio::select! {
                    _ = serve(listener) => {}
                    _ = stopped => {}
                }
            });
            // The port is closed; the runtime closes the connections.
            drop(runtime);
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes the port and all connections, and waits until that is done.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("servers do not panic");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
