//! Streams of HTTP/2: the backend's limit, and GOAWAY under load.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tower_sticky::proxy::Upstream;

use crate::support::*;

/// Longer than anything takes.
const FOREVER: Duration = Duration::from_secs(60);

/// Counts what is open, as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A backend that allows so many streams, and answers `/held` only once it may. Also tells how many
/// connections are open.
async fn limited(streams: u32) -> (Backend, Arc<AtomicUsize>, watch::Sender<bool>) {
    let (released, release) = watch::channel(false);
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let backend = raw(move |_, socket| {
        count.fetch_add(1, SeqCst);
        let (counted, release) = (Counted(count.clone()), release.clone());
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let mut release = release.clone();
                async move {
                    if request.uri().path() == "/held" {
                        let _ = release.wait_for(|released| *released).await;
                    }
                    let body = match request.uri().path() {
                        "/unending" => {
                            let (sender, body) = channel();
                            sender.send(http_body::Frame::data("first".into())).unwrap();
                            std::mem::forget(sender);
                            Either::Left(body)
                        }
                        _ => Either::Right(Full::<Bytes>::from("ok")),
                    };
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(streams);
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
            drop(counted);
            Ok(())
        }
    })
    .await;
    (backend, open, released)
}

fn start(upstream: &Upstream, path: &'static str, requests: &mut JoinSet<u16>) {
    let upstream = upstream.clone();
    requests.spawn(async move {
        let response = send(&upstream, get(path)).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(text(response).await, "ok");
        status
    });
}

async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(FOREVER, wait).await.expect("it becomes true in time");
}

#[tokio::test]
async fn another_connection_is_opened_when_all_streams_are_in_use() {
    let (backend, _, released) = limited(2).await;
    let upstream = backend.upstream().http2(true);
    let mut requests = JoinSet::new();
    for _ in 0..5 {
        start(&upstream, "/held", &mut requests);
    }
    until(|| backend.accepted() == 3).await;
    assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 200, "there is one stream left");
    assert_eq!(backend.accepted(), 3);
    released.send(true).unwrap();
    assert_eq!(requests.join_all().await, [200; 5]);
    let mut requests = JoinSet::new();
    for _ in 0..6 {
        start(&upstream, "/held", &mut requests);
    }
    requests.join_all().await;
    assert_eq!(backend.accepted(), 3, "they are used again");
}

#[tokio::test]
async fn a_stream_is_in_use_until_its_response_has_ended() {
    let (backend, ..) = limited(1).await;
    let upstream = backend.upstream().http2(true);
    let unending = send(&upstream, get("/unending")).await.unwrap();
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    assert_eq!(backend.accepted(), 2);
    let mut body = unending.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    drop(body);
    for _ in 0..5 {
        let two = (send(&upstream, get("/")), send(&upstream, get("/")));
        let (first, second) = tokio::join!(two.0, two.1);
        assert_eq!(
            (text(first.unwrap()).await, text(second.unwrap()).await),
            ("ok".into(), "ok".into())
        );
    }
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn fewer_streams_can_be_used_than_the_backend_allows() {
    let (backend, _, released) = limited(100).await;
    let upstream = backend.upstream().http2(true).http2_max_streams(1);
    let mut requests = JoinSet::new();
    for _ in 0..3 {
        start(&upstream, "/held", &mut requests);
    }
    until(|| backend.accepted() == 3).await;
    released.send(true).unwrap();
    requests.join_all().await;
}

#[tokio::test]
async fn connections_that_are_not_needed_are_closed_when_idle() {
    let (backend, open, released) = limited(1).await;
    let upstream = backend.upstream().http2(true).idle_timeout(Duration::from_millis(40));
    let mut requests = JoinSet::new();
    for _ in 0..4 {
        start(&upstream, "/held", &mut requests);
    }
    until(|| open.load(SeqCst) == 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(open.load(SeqCst), 4, "connections in use stay");
    released.send(true).unwrap();
    requests.join_all().await;
    until(|| open.load(SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(open.load(SeqCst), 1, "one stays");
    assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 200);
    assert_eq!(backend.accepted(), 4);
}

/// Serves requests, and says GOAWAY on each connection after so many.
async fn renewing(requests: usize) -> (Backend, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let backend = raw(move |_, socket| {
        let count = count.clone();
        async move {
            let (left, mut over) = watch::channel(requests);
            let left = Arc::new(left);
            let service = service_fn(move |_| {
                count.fetch_add(1, SeqCst);
                left.send_modify(|left| *left = left.saturating_sub(1));
                async {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
                }
            });
            let server = http2::Builder::new(TokioExecutor::new());
            let mut connection = pin!(server.serve_connection(TokioIo::new(socket), service));
            let over = async { over.wait_for(|left| *left == 0).await.map(drop) };
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = over => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            Ok(())
        }
    })
    .await;
    (backend, served)
}

#[tokio::test]
async fn goaway_under_load_fails_no_request_and_repeats_none() {
    const CLIENTS: usize = 16;
    const EACH: usize = 50;
    let (backend, served) = renewing(20).await;
    let upstream = backend.upstream().http2(true).replay_idempotent(false);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let upstream = upstream.clone();
        clients.spawn(async move {
            for _ in 0..EACH {
                let post = Request::post("/").header("host", "a").body(Empty::<Bytes>::new());
                let response = send(&upstream, post.unwrap()).await.unwrap();
                assert_eq!(text(response).await, "ok");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(served.load(SeqCst), CLIENTS * EACH, "each request was served once");
    assert!(backend.accepted() > 10, "many connections have ended: {}", backend.accepted());
}
