//! A small HTTP client with one connection per request and a cookie jar.

use std::{collections::BTreeMap, net::SocketAddr};

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Bytes,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::process::FOREVER;

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The backend that an echo came from.
    pub(crate) fn backend(&self) -> String {
        self.json()["name"].as_str().unwrap().to_owned()
    }
}

/// A client of one server, with the cookies that it was given.
#[derive(Debug)]
pub(crate) struct Client {
    addr: SocketAddr,
    pub(crate) jar: BTreeMap<String, String>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, jar: BTreeMap::new() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut all = headers.to_vec();
        let cookies: Vec<_> = self.jar.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let cookies = cookies.join("; ");
        if !cookies.is_empty() {
            all.push(("cookie", &cookies));
        }
        let answer = send(self.addr, method, path, &all, body).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.jar.insert(name.to_owned(), value.to_owned());
        }
        answer
    }
}

/// One request over HTTP/1.1.
pub(crate) async fn send(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", addr.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        drop(tokio::spawn(connection));
        let response = sender.send_request(request);
        // With it, a request whose connection ends meanwhile might never be answered (hyper, issue 4122).
        drop(sender);
        read(response.await.unwrap()).await
    };
    timeout(FOREVER, exchange).await.expect("an answer in time")
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
    send(addr, Method::GET, path, &[], "").await
}

/// An HTTP/2 connection with prior knowledge.
pub(crate) async fn http2(addr: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let handshake = http2::handshake(TokioExecutor::new(), io);
    let (sender, connection) = handshake.await.unwrap();
    drop(tokio::spawn(connection));
    sender
}

/// Whether an HTTP/2 request was not processed, because GOAWAY without an error came before it was sent, or its stream is
/// above the last one that was accepted (RFC 9113, section 6.8): it is to be sent on another connection.
pub(crate) fn was_not_processed<T>(error: &TrySendError<T>) -> bool {
    let source = std::error::Error::source(error.error());
    let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    let is_goaway = |error: &h2::Error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    error.message().is_some() || h2.is_some_and(is_goaway)
}

pub(crate) async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// Sends these bytes as they are, and reads until the server closes.
pub(crate) async fn raw(addr: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

/// Reads until the server closes.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let closed = timeout(FOREVER, stream.read_to_end(&mut bytes)).await;
    // A reset counts as an end.
    let _ = closed.expect("the server closes the connection in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one head, byte by byte, so that nothing behind it is lost.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let head = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a whole head"));
        }
        String::from_utf8(head).unwrap()
    };
    timeout(FOREVER, head).await.expect("a head in time")
}
