//! An application that shows what it sees of a request, and a client that reads raw responses.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tower::{ServiceExt, service_fn, util::BoxCloneService};
use tower_sticky::{
    Peer,
    serve::{Listener, RequestBody, Server, ServerHandle},
};

pub(crate) type App = BoxCloneService<Request<RequestBody>, Response<String>, Infallible>;

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Responds with the peer of the request, and with its header fields.
pub(crate) fn app() -> App {
    service_fn(|request: Request<RequestBody>| async move {
        let peer = request.extensions().get::<Peer>().unwrap();
        let mut text = format!(
            "peer={} trusted={} https={} version={:?}\n",
            peer.addr(),
            peer.is_trusted(),
            peer.is_https(request.headers()),
            request.version(),
        );
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        Ok(Response::new(text))
    })
    .boxed_clone()
}

pub(crate) fn server(listener: Listener) -> Server<App> {
    Server::new(app()).listener(listener)
}

pub(crate) async fn any_port() -> Listener {
    Listener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) fn addr(server: &ServerHandle) -> SocketAddr {
    server.local_addrs()[0].tcp().unwrap()
}

pub(crate) async fn connect(server: &ServerHandle) -> TcpStream {
    TcpStream::connect(addr(server)).await.unwrap()
}

/// Sends `bytes`, and reads one response with its body.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: impl AsRef<[u8]>,
) -> String {
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream.flush().await.unwrap();
    response(stream).await
}

/// Reads one response with its body.
pub(crate) async fn response(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("a response").unwrap();
        assert!(read > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
}

/// Whether the server closes the connection without a response.
pub(crate) async fn is_closed(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("it closes");
    !read.is_ok_and(|read| read > 0)
}
