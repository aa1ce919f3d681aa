//! A bare forwarder over hyper, without affinity, limits and failover: the floor of what a proxy over hyper costs.
//!
//! ```text
//! forwarder LISTEN BACKEND…
//! ```
//!
//! One thread with a runtime of its own, as a worker of the gateway. Requests go to the backends in turn, over
//! connections that are kept. Heads and bodies are passed on as they are.

#![allow(missing_docs)]

use std::{
    cell::RefCell,
    env,
    error::Error,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1::SendRequest, server, service::service_fn};
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

type Failure = Box<dyn Error + Send + Sync>;

/// That of the gateway.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut addrs = env::args().skip(1).map(|addr| addr.parse::<SocketAddr>());
    let listener = TcpListener::bind(addrs.next().ok_or("LISTEN BACKEND…")??).await?;
    let backends = addrs.map(|addr| Ok(Backend { addr: addr?, idle: RefCell::default() }));
    let backends: Rc<[Backend]> = backends.collect::<Result<_, Failure>>()?;
    if backends.is_empty() {
        return Err("LISTEN BACKEND…".into());
    }
    let accept = async move {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let backends = backends.clone();
            drop(tokio::task::spawn_local(serve(stream, backends)));
        }
    };
    LocalSet::new().run_until(accept).await
}

async fn serve(stream: TcpStream, backends: Rc<[Backend]>) {
    let next = RefCell::new(0);
    let service = service_fn(|request| {
        let position = next.replace_with(|next| (*next + 1) % backends.len());
        let backends = backends.clone();
        async move { forward(backends, position, request).await }
    });
    // A client may leave in any state.
    let _ =
        server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A backend, and its connections that are not in use.
struct Backend {
    addr: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Backend {
    async fn connection(&self) -> Result<SendRequest<Incoming>, Failure> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            match kept {
                Some(sender) if sender.is_ready() => return Ok(sender),
                // It was closed.
                Some(_) => {}
                None => break,
            }
        }
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        drop(tokio::task::spawn_local(connection));
        Ok(sender)
    }
}

async fn forward(
    backends: Rc<[Backend]>,
    position: usize,
    request: Request<Incoming>,
) -> Result<Response<Forwarded>, Failure> {
    let mut sender = backends[position].connection().await?;
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Forwarded { body, connection: Some((sender, backends, position)) }))
}

/// The body of a response. At its end the connection may serve another request.
struct Forwarded {
    body: Incoming,
    connection: Option<(SendRequest<Incoming>, Rc<[Backend]>, usize)>,
}

impl Body for Forwarded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        if let Some((sender, backends, position)) = self.connection.take()
            && self.body.is_end_stream()
        {
            backends[position].idle.borrow_mut().push(sender);
        }
    }
}
