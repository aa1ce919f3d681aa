//! Load without requests: echoes after an upgrade, and idle connections.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    Failure,
    load::{Loaded, percentiles},
    process::Running,
};

/// How many echo at once.
const ECHOING: usize = 16;
/// A masked text frame of 26 bytes (RFC 6455, section 5.2). Neither proxies nor the backend look into it.
const FRAME: [u8; 32] = [
    0x81, 0x9a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
    24, 25, 26, 27, 28, 29, 30,
];
/// How many idle connections are opened at once.
const OPENING: usize = 64;

/// Each of some connections sends a frame when the one before has come back.
pub(crate) async fn echo(
    addr: SocketAddr,
    cookie: &str,
    time: Duration,
) -> Result<Loaded, Failure> {
    let opened = (0..ECHOING).map(|_| upgraded(addr, cookie));
    let streams = try_join_all(opened).await?;
    let began = Instant::now();
    let clients = streams.into_iter().map(|stream| echo_until(stream, began + time));
    let times: Vec<_> = try_join_all(clients).await?.concat();
    let time = began.elapsed();
    let requests = times.len() as u64;
    let (p50, p99) = percentiles(times);
    Ok(Loaded { requests, time, p50, p99, ..Loaded::default() })
}

async fn upgraded(addr: SocketAddr, cookie: &str) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Cookie: {cookie}\r\n\r\n"
    );
    let head = exchange(&mut stream, &request).await?;
    match head.starts_with(b"HTTP/1.1 101") {
        true => Ok(stream),
        false => Err("the upgrade was refused".into()),
    }
}

/// Sends a request, and reads the head of its response.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<Vec<u8>, Failure> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

async fn echo_until(mut stream: TcpStream, end: Instant) -> Result<Vec<Duration>, Failure> {
    let (mut times, mut back) = (Vec::new(), [0; FRAME.len()]);
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(times);
        }
        stream.write_all(&FRAME).await?;
        stream.read_exact(&mut back).await?;
        times.push(began.elapsed());
    }
}

/// Opens connections with one request each, waits, and reads the memory of the proxy.
pub(crate) async fn idle(proxy: &Running, count: usize, time: Duration) -> Result<Loaded, Failure> {
    let began = Instant::now();
    let opened = stream::iter(0..count).map(|_| async {
        let mut stream = TcpStream::connect(proxy.addr()).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", proxy.cookie);
        exchange(&mut stream, &request).await?;
        Ok::<_, Failure>(stream)
    });
    let clients: Vec<_> = opened.buffer_unordered(OPENING).try_collect().await?;
    let opened = began.elapsed();
    // Until the buffers of idle connections are freed.
    sleep(time.max(Duration::from_secs(5))).await;
    let resident = Some(proxy.resident()?);
    Ok(Loaded { requests: clients.len() as u64, time: opened, resident, ..Loaded::default() })
}
