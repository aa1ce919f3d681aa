//! A server with its own thread and runtime, so that it can be stopped completely.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
};

use tokio::{net::TcpStream, sync::oneshot};
use tower_sticky::proxy::Upstream;

/// A running server. It is stopped when it is dropped.
pub struct Server {
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection to a free port with `connection`.
    pub fn start<F, Fut>(connection: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, connection) => {}
                    _ = stopped => {}
                }
            });
            // The listener is closed; dropping the runtime closes all connections.
            drop(runtime);
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    pub fn upstream(&self) -> Upstream {
        Upstream::new(&format!("http://{}", self.addr)).unwrap()
    }

    /// Closes the listener and all connections before it returns.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
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

async fn accept<F, Fut>(listener: TcpListener, connection: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        // A socket that is closed while data is under way is reset, as when a process is killed.
        socket.set_zero_linger().unwrap();
        tokio::spawn(connection(socket));
    }
}
