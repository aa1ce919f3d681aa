//! Backends and bodies for the tests.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tower::{Service, ServiceExt};
use tower_sticky::{
    BoxError,
    proxy::{Upstream, UpstreamBody},
};

/// A backend's address and the connections that it has accepted.
pub(crate) struct Backend {
    pub(crate) url: String,
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream::new(&self.url).unwrap()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// A backend that speaks bytes: `connection` gets each socket and its number, from 0.
pub(crate) async fn raw<F, Fut>(connection: F) -> Backend
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = accepted.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(connection(number, socket));
        }
    });
    Backend { url, accepted }
}

/// A backend that answers each request on each connection with the same bytes.
pub(crate) async fn canned(answer: &'static str) -> Backend {
    raw(move |_, mut socket| async move {
        while read_head(&mut socket).await?.is_some() {
            socket.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    })
    .await
}

/// A backend that answers the first request of each connection with these bytes, and closes.
pub(crate) async fn once(answer: &'static str) -> Backend {
    raw(move |_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(answer.as_bytes()).await
    })
    .await
}

/// A backend that sends each request head that it gets to the receiver, and answers 204.
pub(crate) async fn recorder() -> (Backend, mpsc::UnboundedReceiver<String>) {
    let (heads, received) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let heads = heads.clone();
        async move {
            while let Some(head) = read_head(&mut socket).await? {
                let _ = heads.send(head);
                socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            }
            Ok(())
        }
    })
    .await;
    (backend, received)
}

/// A head up to its empty line, byte by byte so that nothing after it is taken; `None` at the end.
pub(crate) async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8(head).unwrap()))
}

/// Sends back what it reads in capitals, until the end.
pub(crate) async fn echo_in_capitals(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        let n = socket.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..n].to_ascii_uppercase()).await?;
    }
}

/// A hyper server of both protocols in front of `service`.
pub(crate) async fn front<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            let answer = service_fn(move |request| service.clone().oneshot(request));
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    });
    addr
}

/// A real server that answers with `handler`.
pub(crate) async fn server<F, Fut, B>(http2: bool, handler: F) -> Backend
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    raw(move |_, socket| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            serve(socket, http2, service).await;
            Ok(())
        }
    })
    .await
}

/// A listener whose backlog is full: it does not answer handshakes until the connections are dropped.
pub(crate) async fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(socket) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
        queued.push(socket.unwrap());
    }
    (listener, queued)
}

/// A backend that accepts connections, and says nothing on them.
pub(crate) async fn unanswering() -> Backend {
    raw(|_, socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
        Ok(())
    })
    .await
}

/// Serves HTTP/1.1 or HTTP/2 on a connection.
pub(crate) async fn serve<S, B>(socket: TcpStream, http2: bool, service: S)
where
    S: hyper::service::HttpService<
            Incoming,
            ResBody = B,
            Error = Infallible,
            Future: Send + 'static,
        >,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let io = TokioIo::new(socket);
    if http2 {
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http2.serve_connection(io, service).await;
    } else {
        let http1 = hyper::server::conn::http1::Builder::new();
        let _ = http1.serve_connection(io, service).with_upgrades().await;
    }
}

/// A body of a channel's frames: neither `Clone` nor `Sync`, with an unknown length.
pub(crate) struct Channel {
    frames: mpsc::UnboundedReceiver<Frame<Bytes>>,
    pub(crate) polled: bool,
    _not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

pub(crate) fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Channel) {
    let (sender, frames) = mpsc::unbounded_channel();
    (sender, Channel { frames, polled: false, _not_sync: std::marker::PhantomData })
}

/// A body of `chunks`, as a stream.
pub(crate) fn stream(chunks: &[&'static str]) -> Channel {
    let (sender, body) = channel();
    for chunk in chunks {
        sender.send(Frame::data(Bytes::from_static(chunk.as_bytes()))).unwrap();
    }
    body
}

impl Body for Channel {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.polled = true;
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

pub(crate) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "shop").body(Empty::new()).unwrap()
}

pub(crate) async fn send<B>(
    upstream: &Upstream,
    request: Request<B>,
) -> Result<Response<UpstreamBody>, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    upstream.clone().oneshot(request).await
}

pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Lets everything that is ready run, the sockets' events included.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
