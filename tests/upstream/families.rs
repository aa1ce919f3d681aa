//! Names with addresses of both families.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tower_sticky::proxy::Upstream;

use crate::support::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Serves on a port of the IPv4 loopback address, which is free at the IPv6 one, too. None: this machine has no
/// IPv6. Returns a socket that is bound to the other address.
async fn both() -> Option<(u16, TcpSocket)> {
    for _ in 0..100 {
        let v6 = TcpSocket::new_v6().ok()?;
        v6.bind(SocketAddr::new(V6, 0)).ok()?;
        let port = v6.local_addr().unwrap().port();
        let Ok(v4) = TcpListener::bind(SocketAddr::new(V4, port)).await else { continue };
        tokio::spawn(async move {
            while let Ok((socket, _)) = v4.accept().await {
                tokio::spawn(serve(socket));
            }
        });
        return Some((port, v6));
    }
    panic!("no port is free at both addresses");
}

async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    while read_head(&mut socket).await?.is_some() {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    }
    Ok(())
}

fn upstream(port: u16) -> Upstream {
    let upstream = Upstream::new(&format!("http://app.test:{port}")).unwrap();
    let resolve = |_| async { Ok::<_, std::io::Error>(vec![V6, V4]) };
    upstream.resolver(resolve).connect_timeout(Duration::from_secs(60)).max_idle(0)
}

#[tokio::test]
async fn the_other_family_is_tried_soon_when_the_first_is_silent() {
    let Some((port, v6)) = both().await else { return };
    // A listener whose backlog is full does not answer.
    let listener = v6.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(socket) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        queued.push(socket.unwrap());
    }
    let upstream = upstream(port);
    let begun = Instant::now();
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    let first = begun.elapsed();
    assert!(first >= Duration::from_millis(250), "the first has a head start: {first:?}");
    assert!(first < Duration::from_secs(20), "long before the timeout: {first:?}");
    for _ in 0..3 {
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    }
    assert!(begun.elapsed() < first + Duration::from_millis(200), "the chosen address is kept");
}

#[tokio::test]
async fn the_other_family_is_tried_at_once_when_the_first_refuses() {
    let Some((port, _v6)) = both().await else { return };
    let begun = Instant::now();
    assert_eq!(text(send(&upstream(port), get("/")).await.unwrap()).await, "ok");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}
