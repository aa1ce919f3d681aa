//! Clients that disconnect at any stage of a request, over HTTP/1.1 and HTTP/2.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::random::Random;

/// The longest wait of a client before it disconnects.
const PATIENCE: Duration = Duration::from_millis(100);

/// Disconnects in one request after the other, and returns how many.
pub async fn abort_until(addr: SocketAddr, mut random: Random, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !over.load(Relaxed) {
        // Without descriptors no request is answered.
        let aborting = async {
            match random.among(0..2) {
                0 => over_http1(addr, &mut random).await,
                _ => over_http2(addr, &mut random).await,
            }
        };
        let _ = timeout(Duration::from_secs(2), aborting).await;
        count += 1;
        sleep(Duration::from_millis(2)).await;
    }
    count
}

async fn over_http1(addr: SocketAddr, random: &mut Random) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    if random.among(0..2) == 0 {
        // Its end is a reset.
        stream.set_zero_linger()?;
    }
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let announced = "Content-Length: 100000\r\n";
    let (text, reads) = match random.among(0..9) {
        0 => (String::new(), 0),
        1 => ("GET / HTTP/1.1\r\nHos".to_owned(), 0),
        2 => (head("POST /", announced), 0),
        3 => (head("POST /", announced) + &"x".repeat(50_000), 0),
        4 => (head("POST /", "Transfer-Encoding: chunked\r\n") + "zz\r\n", 1_000),
        5 => (head("POST /", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n", 0),
        6 => (head("GET /", "x-delay: 50\r\n"), 0),
        7 => (head("POST /", announced) + &"x".repeat(100_000), 0),
        _ => (head("GET /ticks", ""), 300),
    };
    stream.write_all(text.as_bytes()).await?;
    let mut got = vec![0; reads];
    let _ = timeout(PATIENCE, stream.read_exact(&mut got)).await;
    sleep(random.millis(0..20)).await;
    Ok(())
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body that fails or stalls after some data.
fn open(fails: bool) -> Body {
    let pieces = stream::unfold(0, move |sent| async move {
        match sent {
            0 => Some((Ok(Frame::data(Bytes::from_static(b"something"))), 1)),
            1 if fails => Some((Err(io::Error::other("the client gives up")), 2)),
            _ => std::future::pending().await,
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

async fn over_http2(addr: SocketAddr, random: &mut Random) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    if random.among(0..4) == 0 {
        stream
            .write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..random.among(1..25) as usize])
            .await?;
        return Ok(());
    }
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let builder = |path: &str| Request::post(format!("http://a{path}"));
    let request = match random.among(0..5) {
        0 => builder("/").body(open(false)),
        1 => builder("/").body(open(true)),
        2 => builder("/").header("x-delay", 50).body(empty()),
        // A wrong content length is an error of the stream.
        3 => builder("/").header("content-length", 100).body(open(false)),
        _ => builder("/ticks").body(empty()),
    };
    let answer = sender.send_request(request.map_err(io::Error::other)?);
    if let Ok(Ok(mut answer)) = timeout(random.millis(1..60), answer).await {
        let _ = timeout(PATIENCE, answer.body_mut().frame()).await;
    }
    if random.among(0..2) == 0 {
        // Closes the whole connection, not only the stream.
        connection.abort();
    }
    Ok(())
}
