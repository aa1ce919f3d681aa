//! The least HTTP/1.1 that is needed: small messages over kept connections.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Failure;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers everything at once.
pub(crate) async fn backend() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tokio::spawn(answer_all(stream)));
        }
    }));
    Ok(addr)
}

/// A kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    addr: SocketAddr,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, addr })
    }

    /// Sends a request with a cookie of one backend, and returns the answer. It must succeed.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<String, Failure> {
        let (addr, length) = (self.addr, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {addr}\r\ncookie: SRV=b7\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await?;
        let (mut answer, mut end) = (Vec::new(), None);
        while end.is_none_or(|end| answer.len() < end) {
            if self.stream.read_buf(&mut answer).await? == 0 {
                return Err("the connection was closed".into());
            }
            end = end.or_else(|| end_of(&answer));
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match answer.starts_with("HTTP/1.1 2") {
            true => Ok(answer),
            false => Err(answer.into()),
        }
    }
}

/// Where an answer ends, once its head is there, which announces the length of its body.
fn end_of(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    Some(head + 4 + length.and_then(|length| length.parse().ok()).unwrap_or(0))
}

/// Answers each request, which has no body.
pub(crate) async fn answer_all(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut read).await {
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}
