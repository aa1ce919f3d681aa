//! A server with its own thread and runtime that resets its connections when it is stopped.

#[path = "../../../examples/support/server.rs"]
mod runtime;

use std::future::Future;

use tokio::net::{TcpListener, TcpStream};
use tower_sticky::proxy::Upstream;

/// A running server. It is stopped when it is dropped.
pub struct Server(runtime::Server);

impl Server {
    /// Serves each connection to a free port with `connection`.
    pub fn start<F, Fut>(connection: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(runtime::Server::start(move |listener| accept(listener, connection)))
    }

    pub fn upstream(&self) -> Upstream {
        Upstream::new(&self.0.url()).unwrap()
    }

    /// Closes the listener and all connections before it returns.
    pub fn stop(&mut self) {
        self.0.kill();
    }
}

async fn accept<F, Fut>(listener: TcpListener, connection: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        // A socket that is closed while data is under way is reset, as when a process is killed.
        socket.set_zero_linger().unwrap();
        tokio::spawn(connection(socket));
    }
}
