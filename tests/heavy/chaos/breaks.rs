//! Responses that are cut off at any byte, in any framing, by an end or a reset of the connection: what
//! the backend has sent arrives, and the client can see that it is incomplete.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_sticky_heavy_tests::{in_time, process::Gateway};

use crate::{alone, check::Findings, length, random::Random};

const CLIENTS: usize = 6;

/// What fits into the gateway's buffers at once, so that a reset discards nothing.
const MOST: u64 = 16_000;

/// A new connection may have ten segments in flight (RFC 6928). A reset discards what
/// could not be sent, so bodies are shorter.
const PIECES: usize = 5;

/// What was sent of each body, by the number of its request, whether it was complete, and how.
type Sent = Arc<Mutex<HashMap<u64, (Vec<u8>, bool, Manner)>>>;

/// How the body of a response is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
    /// It ends with the connection.
    Close,
}

/// The framing, and whether the connection was reset.
type Manner = (Framing, bool);

/// Sends a part of a response, and closes the connection.
async fn answer(mut stream: TcpStream, mut random: Random, sent: Sent) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().find_map(|line| line.strip_prefix("x-number: "));
    let number: u64 = line.expect("a number").parse().unwrap();

    let framing = random.one_of(&[Framing::Length, Framing::Chunks, Framing::Close]);
    let size = random.among(1..MOST);
    let whole = random.among(0..5) == 0;
    let cut = if whole { size } else { random.among(0..size) };
    let body: Vec<u8> = (0..cut).map(|byte| (byte ^ number) as u8).collect();
    let ends_well = whole || framing == Framing::Close;
    let resets = framing != Framing::Close && random.among(0..2) == 0;
    sent.lock().unwrap().insert(number, (body.clone(), ends_well, (framing, resets)));

    let field = match framing {
        Framing::Length => format!("Content-Length: {size}\r\n"),
        Framing::Chunks => "Transfer-Encoding: chunked\r\n".to_owned(),
        Framing::Close => "Connection: close\r\n".to_owned(),
    };
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{field}\r\n").as_bytes()).await?;
    let mut rest = &body[..];
    for left in (0..PIECES).rev() {
        let length = random.among(0..rest.len() as u64 + 1) as usize;
        let (piece, after) = rest.split_at(if left == 0 { rest.len() } else { length });
        match framing {
            Framing::Chunks if piece.is_empty() => {}
            Framing::Chunks => {
                let length = format!("{:x}\r\n", piece.len());
                stream.write_all(&[length.as_bytes(), piece, b"\r\n"].concat()).await?;
            }
            Framing::Length | Framing::Close => stream.write_all(piece).await?,
        }
        rest = after;
        if random.among(0..3) == 0 {
            sleep(random.millis(0..3)).await;
        }
    }
    if framing == Framing::Chunks && whole {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    // With this framing a reset would be an error, and a close is the proper end.
    if resets {
        stream.set_zero_linger()?;
    }
    Ok(())
}

async fn serve(mut random: Random, sent: Sent) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(answer(stream, random.fork(), sent.clone()));
        }
    });
    addr
}

/// What arrived of a body, and whether it was complete; `None` when there was no response.
async fn ask(addr: SocketAddr, number: u64, speaks_http2: bool) -> Option<(Vec<u8>, bool)> {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let request = Request::get("http://a/").header("x-number", number);
    let request = request.header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let response = if speaks_http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let response = response.ok().filter(|response| response.status() == 200)?;
    let (mut body, mut got) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(data) => got.extend(data.unwrap_or_default()),
            Err(_) => return Some((got, false)),
        }
    }
    Some((got, true))
}

async fn run(mut random: Random) {
    let sent = Sent::default();
    let backend = serve(random.fork(), sent.clone()).await;
    let gateway = Gateway::start(&["--backend", &format!("a=http://{backend}")]).await;
    let (addr, end) = (gateway.addr, Instant::now() + length());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS as u64 {
        let mut random = random.fork();
        clients.spawn(async move {
            let mut all = Vec::new();
            while Instant::now() < end {
                let number = client + CLIENTS as u64 * all.len() as u64;
                let speaks_http2 = random.among(0..2) == 0;
                let answer = in_time("it ends", ask(addr, number, speaks_http2)).await;
                all.push((number, speaks_http2, answer));
                sleep(Duration::from_millis(1)).await;
            }
            all
        });
    }
    let (mut findings, mut broken) = (Findings::default(), 0);
    let answers = clients.join_all().await;
    let sent = sent.lock().unwrap();
    for (number, speaks_http2, answer) in answers.iter().flatten() {
        let expected = sent.get(number);
        broken += usize::from(expected.is_some_and(|(_, well, _)| !well));
        let same = answer.as_ref().zip(expected).is_some_and(|(a, b)| a.0 == b.0 && a.1 == b.1);
        if !same {
            let got = answer.as_ref().map(|a| (a.0.len(), a.1));
            let sent = expected.map(|a| (a.0.len(), a.1, a.2));
            findings.add(
                "Not all that was sent arrived, or its end was not seen.",
                &(number, speaks_http2, "got", got, "sent", sent),
            );
        }
    }
    println!("{} answers, {broken} of them broken", answers.iter().map(Vec::len).sum::<usize>());
    findings.assert_none();
}

#[test]
fn breaks() {
    alone("breaks", run);
}
