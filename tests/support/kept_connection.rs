//! An HTTP/1.1 connection of a client, which is driven by the task that uses it.
//!
//! hyper may never answer a request that is sent while another thread drops its connection, as a task does when the
//! server has closed it (<https://github.com/hyperium/hyper/issues/4122>).

#![allow(
    unreachable_pub,
    reason = "a module of the tests of the gateway, and of the library of the heavy tests"
)]

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{Connection, SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Body = Full<Bytes>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

pub struct KeptConnection {
    sender: SendRequest<Body>,
    /// `None` when it has ended.
    driver: Option<Connection<TokioIo<TcpStream>, Body>>,
    #[allow(dead_code, reason = "only for errors of the heavy tests")]
    pub local: SocketAddr,
}

impl KeptConnection {
    pub async fn open(addr: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(driver), local })
    }

    /// Takes the connection in `kept` if it takes a request. Notices that the server has closed it.
    pub async fn take_ready(kept: &mut Option<Self>) -> Option<Self> {
        let mut connection = kept.take()?;
        connection.drive(async {}).await;
        connection.sender.is_ready().then_some(connection)
    }

    /// Sends a request, and waits for the head of the response.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let response = self.sender.send_request(request);
        self.drive(response).await
    }

    /// Reads the body of a response.
    pub async fn read(&mut self, body: Incoming) -> hyper::Result<Bytes> {
        Ok(self.drive(body.collect()).await?.to_bytes())
    }

    /// Waits for the end of an exchange. Whether the connection stays open.
    pub async fn is_kept(&mut self) -> bool {
        poll_fn(|cx| {
            self.poll(cx);
            self.sender.poll_ready(cx)
        })
        .await
        .is_ok()
    }

    async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(_) = Pin::new(driver).poll(cx)
        {
            self.driver = None;
        }
    }
}
