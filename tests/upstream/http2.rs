//! HTTP/2 backends: one connection, many requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{Barrier, Notify};
use tower_sticky::{NotSent, proxy::Upstream};

use crate::support::*;

#[tokio::test]
async fn concurrent_requests_share_one_connection() {
    const AT_ONCE: usize = 50;
    // None is answered before all are there.
    let all = Arc::new(Barrier::new(AT_ONCE));
    let backend = server(true, move |request: Request<Incoming>| {
        let all = all.clone();
        async move {
            all.wait().await;
            assert_eq!(request.version(), Version::HTTP_2);
            assert_eq!(request.uri().scheme_str(), Some("http"));
            let said = format!("{}{}", request.uri().authority().unwrap(), request.uri().path());
            Response::new(Full::<Bytes>::from(said))
        }
    })
    .await;
    let upstream = backend.upstream().http2(true);
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..AT_ONCE {
        let upstream = upstream.clone();
        requests.spawn(async move {
            let response = send(&upstream, get(&format!("/{n}"))).await.unwrap();
            assert_eq!(text(response).await, format!("shop/{n}"));
        });
    }
    while let Some(result) = requests.join_next().await {
        result.unwrap();
    }
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn a_failed_connection_attempt_fails_all_waiting_requests() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let upstream = Upstream::new(&url).unwrap().http2(true);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let upstream = upstream.clone();
        requests.spawn(async move {
            let request = Request::post("/").header("host", "a").body(stream(&["x"])).unwrap();
            let error = send(&upstream, request).await.unwrap_err();
            let (request, _) = error.downcast::<NotSent<Request<Channel>>>().unwrap().into_parts();
            assert!(!request.unwrap().body().polled);
        });
    }
    while let Some(result) = requests.join_next().await {
        result.unwrap();
    }
}

#[tokio::test]
async fn a_closed_connection_is_replaced() {
    let served = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(Notify::new());
    let (counter, notify) = (served.clone(), closed.clone());
    let backend = raw(move |_, socket| {
        let (counter, closed) = (counter.clone(), notify.clone());
        async move {
            let (stop, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let stop_it = stop.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                counter.fetch_add(1, Ordering::SeqCst);
                stop_it.notify_one();
                async {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("ok")))
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut connection =
                std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.notified() => {
                    // Says GOAWAY, finishes what is there, and closes.
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.as_mut().await;
                }
            }
            stopped.notify_one();
            closed.notify_one();
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream().http2(true);
    for n in 1..=4 {
        // The next request is sent at whatever stage of the shutdown the connection is in.
        let post =
            Request::post("/").header("host", "a").body(http_body_util::Empty::<Bytes>::new());
        assert_eq!(text(send(&upstream, post.unwrap()).await.unwrap()).await, "ok");
        assert_eq!(served.load(Ordering::SeqCst), n);
        if n % 2 == 0 {
            closed.notified().await;
            settle().await;
        }
    }
    assert!(backend.accepted() >= 2);
}

#[tokio::test]
async fn trailers_both_ways() {
    let backend = server(true, |request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        let (sender, answer) = channel();
        sender.send(Frame::data(body.to_bytes())).unwrap();
        sender.send(Frame::trailers(trailers)).unwrap();
        Response::new(answer)
    })
    .await;
    let upstream = backend.upstream().http2(true);
    let (sender, body) = channel();
    sender.send(Frame::data(Bytes::from_static(b"data"))).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let request =
        Request::post("/").header("host", "a").header("te", "trailers").body(body).unwrap();
    let answer = send(&upstream, request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "data");
}

#[tokio::test]
async fn cancelling_a_request_does_not_affect_the_others() {
    let backend = server(true, |request: Request<Incoming>| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Response::new(Full::<Bytes>::from("ok"))
    })
    .await;
    let upstream = backend.upstream().http2(true);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    let never =
        tokio::time::timeout(Duration::from_millis(20), send(&upstream, get("/never"))).await;
    assert!(never.is_err());
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    assert_eq!(backend.accepted(), 1);
}
