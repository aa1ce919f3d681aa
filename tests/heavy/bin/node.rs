//! A node of an Axum application whose nodes are each other's peers: `heavy-node NAME PORT ID=URL…`.
//!
//! It says where it listens, and then `got N` for each request with a number that it executes itself. On
//! SIGTERM it finishes what it has begun, and stops; it stops at once when its standard input ends.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{io::Read, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use http::Request;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tower_sticky::{Backends, Key, KeyRing, StickyLayer, affinity::Cookie, proxy::Upstream};

/// All nodes have the same one.
const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().expect("a name");
    let port: u16 = args.next().expect("a port").parse().expect("a port");
    let peers = Backends::new();
    for peer in args {
        let (id, url) = peer.split_once('=').expect("ID=URL");
        peers.insert(id, Upstream::new(url).unwrap()).unwrap();
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut term = signal(SignalKind::terminate()).unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        // Whoever started it is gone.
        std::process::exit(1);
    });
    println!("listening on {}", listener.local_addr().unwrap());
    let keys = KeyRing::new([Key::from_base64(KEY).unwrap()]).unwrap();
    let sticky =
        StickyLayer::new(peers, Cookie::sealed("sid", keys)).retry_idempotent(true).local(&name);
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    let answer = async move |request: Request<Body>| answer(&name, request).await;
    let app = Router::new().fallback(answer).layer(sticky);
    let stop = async move {
        term.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await.unwrap();
}

async fn answer(name: &str, request: Request<Body>) -> Response {
    if let Some(number) = text(&request, "x-number") {
        println!("got {number}");
    }
    let delay = text(&request, "x-delay").map_or(0, |millis| millis.parse().unwrap());
    tokio::time::sleep(Duration::from_millis(delay)).await;
    // It breaks off when the client does.
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
    ([("x-server", name.to_owned())], body).into_response()
}

fn text<'a>(request: &'a Request<Body>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap())
}
