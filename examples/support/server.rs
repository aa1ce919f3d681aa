//! A server with a thread and a runtime of its own, so that it can really be killed.

#![allow(dead_code)] // Each program uses its part of it.

use std::{
    future::Future,
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

    /// A place to serve on, whose address can be told to others before.
    pub fn bind(addr: &str) -> TcpListener {
        let listener = TcpListener::bind(addr).expect("the port is free");
        listener.set_nonblocking(true).expect("sockets can be that");
        listener
    }

    /// Serves there.
    pub fn on<F, Fut>(listener: TcpListener, serve: F) -> Self
    where
        F: FnOnce(tokio::net::TcpListener) -> Fut + Send + 'static,
        Fut: Future,
    {
        let addr = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it listens");
                tokio::select! {
                    _ = serve(listener) => {}
                    _ = stopped => {}
                }
            });
            // The port is closed; with the runtime all connections go.
            drop(runtime);
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes the port and breaks all connections off. When this returns it is done.
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
