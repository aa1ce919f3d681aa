//! HTTP/1.1 backends: keep-alive, bodies, and the pool of idle connections.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, sync::mpsc};

use crate::support::*;

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let backend = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let upstream = backend.upstream();
    for _ in 0..20 {
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
    }
    assert_eq!(backend.accepted(), 1);
}

/// A reader that knows the length does not ask for another frame.
#[tokio::test]
async fn a_connection_is_free_with_the_last_byte_of_a_response() {
    let backend = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let upstream = backend.upstream();
    for _ in 0..3 {
        let mut answer = send(&upstream, get("/")).await.unwrap();
        assert_eq!(answer.body().size_hint().exact(), Some(2));
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ok");
    }
    assert_eq!(backend.accepted(), 1);
    let stats = upstream.connection_stats();
    assert_eq!((stats.opened(), stats.reused()), (1, 2));
}

#[tokio::test]
async fn concurrent_requests_have_their_own_connections_and_the_last_used_is_reused() {
    let backend = server(false, |request: Request<_>| async move {
        Response::new(Full::<Bytes>::from(request.uri().path().to_owned()))
    })
    .await;
    let upstream = backend.upstream();
    let (a, b, c) = tokio::join!(
        send(&upstream, get("/a")),
        send(&upstream, get("/b")),
        send(&upstream, get("/c"))
    );
    assert_eq!(text(a.unwrap()).await, "/a");
    assert_eq!(text(b.unwrap()).await, "/b");
    assert_eq!(text(c.unwrap()).await, "/c");
    assert_eq!(backend.accepted(), 3);
    for _ in 0..9 {
        text(send(&upstream, get("/")).await.unwrap()).await;
    }
    assert_eq!(backend.accepted(), 3);
}

#[tokio::test]
async fn responses_without_a_body_return_the_connection_at_once() {
    for (method, answer, status) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 200),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"a\"\r\n\r\n", 304),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
        (
            Method::GET,
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            204,
        ),
    ] {
        let backend = canned(answer).await;
        let upstream = backend.upstream();
        let mut kept = Vec::new();
        for _ in 0..3 {
            let mut request = get("/");
            *request.method_mut() = method.clone();
            let response = send(&upstream, request).await.unwrap();
            assert_eq!(response.status(), status);
            assert!(response.body().is_end_stream());
            kept.push(response);
        }
        assert_eq!(backend.accepted(), 1, "{method} {answer}");
        let has_length = answer.contains("content-length");
        assert_eq!(kept[0].headers().contains_key("content-length"), has_length);
    }
}

#[tokio::test]
async fn chunked_responses_and_their_trailers() {
    let backend = canned(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n",
    )
    .await;
    let upstream = backend.upstream();
    for _ in 0..3 {
        let response = send(&upstream, get("/")).await.unwrap();
        assert_eq!(response.headers()["trailer"], "x-sum");
        assert!(!response.headers().contains_key("transfer-encoding"));
        assert_eq!(response.body().size_hint().exact(), None);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "5");
        assert_eq!(body.to_bytes(), "abcde");
    }
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn requests_have_bodies_and_trailers_too() {
    let (bodies, mut received) = mpsc::unbounded_channel();
    let backend = server(false, move |request: Request<hyper::body::Incoming>| {
        let bodies = bodies.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap();
            let trailers = body.trailers().cloned();
            bodies.send((parts.headers, body.to_bytes(), trailers)).unwrap();
            Response::new(Empty::<Bytes>::new())
        }
    })
    .await;
    let upstream = backend.upstream();

    let (sender, body) = channel();
    for chunk in ["one ", "two"] {
        sender.send(Frame::data(Bytes::from_static(chunk.as_bytes()))).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    let request = Request::post("/").header("host", "a").header("trailer", "x-sum").body(body);
    send(&upstream, request.unwrap()).await.unwrap();
    let (headers, body, trailers) = received.recv().await.unwrap();
    assert_eq!(headers["transfer-encoding"], "chunked");
    assert_eq!(body, "one two");
    assert_eq!(trailers.unwrap()["x-sum"], "7");

    let request = Request::put("/").header("host", "a").body(Full::<Bytes>::from("whole")).unwrap();
    send(&upstream, request).await.unwrap();
    let (headers, body, _) = received.recv().await.unwrap();
    assert_eq!(headers["content-length"], "5");
    assert_eq!(body, "whole");

    let request = Request::get("/").header("host", "a").body(stream(&["a ", "body"])).unwrap();
    send(&upstream, request).await.unwrap();
    let (_, body, _) = received.recv().await.unwrap();
    assert_eq!(body, "a body", "a GET with a body of unknown length keeps it");
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn an_http_1_0_backend() {
    let backend = raw(|_, mut socket| async move {
        let head = read_head(&mut socket).await?.unwrap();
        assert!(head.starts_with("GET / HTTP/1.1\r\n"));
        socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await
    })
    .await;
    let upstream = backend.upstream();
    for n in 1..=2 {
        let response = send(&upstream, get("/")).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_11);
        assert_eq!(text(response).await, "until the end");
        assert_eq!(backend.accepted(), n);
    }
}

#[tokio::test]
async fn connection_close_closes() {
    let backend =
        canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    let upstream = backend.upstream();
    for n in 1..=2 {
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
        assert_eq!(backend.accepted(), n);
    }
}

#[tokio::test]
async fn a_large_body_waits_for_its_reader() {
    const CHUNK: usize = 64 * 1024;
    let (progress, mut written) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let progress = progress.clone();
        async move {
            read_head(&mut socket).await?;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 512 * CHUNK);
            socket.write_all(head.as_bytes()).await?;
            for n in 0..512_u32 {
                socket.write_all(&vec![n as u8; CHUNK]).await?;
                let _ = progress.send(n);
            }
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream();
    let response = send(&upstream, get("/")).await.unwrap();
    // Nobody reads: what fits into the sockets is written, and no more.
    let mut last = 0;
    while let Ok(Some(n)) = tokio::time::timeout(Duration::from_millis(50), written.recv()).await {
        last = n;
    }
    assert!(last < 511, "32 MiB must not fit anywhere on the way");
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, 512 * CHUNK);
}

#[tokio::test]
async fn a_large_request_body_arrives_whole() {
    let backend = server(false, |request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::<Bytes>::from(body.len().to_string()))
    })
    .await;
    let upstream = backend.upstream();
    let body = Full::new(Bytes::from(vec![7; 8 << 20]));
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    assert_eq!(text(send(&upstream, request).await.unwrap()).await, (8 << 20).to_string());
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let backend = server(false, |request: Request<hyper::body::Incoming>| async move {
        Response::new(request.into_body())
    })
    .await;
    let upstream = backend.upstream();
    let (sender, body) = channel();
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let mut answer = send(&upstream, request).await.unwrap().into_body();
    for word in ["ping", "pong"] {
        sender.send(Frame::data(Bytes::from_static(word.as_bytes()))).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(sender);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn an_early_response_does_not_stop_the_request() {
    const LENGTH: usize = 16 << 20;
    let (done, mut uploaded) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let done = done.clone();
        async move {
            read_head(&mut socket).await?;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            let mut body = vec![0; LENGTH];
            socket.read_exact(&mut body).await?;
            let _ = done.send(());
            Ok(())
        }
    })
    .await;
    let body = Full::new(Bytes::from(vec![0; LENGTH]));
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let response = send(&backend.upstream(), request).await.unwrap();
    uploaded.recv().await.expect("the body is sent although the response is not read yet");
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn a_connection_with_an_early_response_is_used_again_when_the_request_has_ended() {
    const LENGTH: usize = 4 << 20;
    let (done, mut uploaded) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let done = done.clone();
        async move {
            while read_head(&mut socket).await?.is_some() {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                socket.read_exact(&mut vec![0; LENGTH]).await?;
                let _ = done.send(());
            }
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream();
    let post = || Request::post("/").header("host", "a").header("content-length", LENGTH);
    for _ in 0..3 {
        let request = post().body(Full::new(Bytes::from(vec![0; LENGTH]))).unwrap();
        assert_eq!(text(send(&upstream, request).await.unwrap()).await, "ok");
        uploaded.recv().await.unwrap();
        settle().await;
    }
    assert_eq!(backend.accepted(), 1, "each request is sent to its end before the next");

    let (sender, unfinished) = channel();
    let response = send(&upstream, post().body(unfinished).unwrap()).await.unwrap();
    assert_eq!(text(response).await, "ok");
    let request = post().body(Full::new(Bytes::from(vec![0; LENGTH]))).unwrap();
    assert_eq!(text(send(&upstream, request).await.unwrap()).await, "ok");
    assert_eq!(backend.accepted(), 2, "the other one is in the middle of a request");
    drop(sender);
}

#[tokio::test]
async fn a_dropped_request_or_body_closes_its_connection() {
    let (closed, mut seen) = mpsc::unbounded_channel();
    let backend = raw(move |number, mut socket| {
        let closed = closed.clone();
        async move {
            read_head(&mut socket).await?;
            if number == 1 {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await?;
            }
            // The first is never answered. Either way the next thing to see is the end.
            let rest = read_head(&mut socket).await?;
            let _ = closed.send((number, rest));
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream();
    let unanswered = send(&upstream, get("/"));
    let given_up = tokio::time::timeout(Duration::from_millis(30), unanswered).await;
    assert!(given_up.is_err());
    assert_eq!(seen.recv().await.unwrap(), (0, None));

    let mut body = send(&upstream, get("/")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    drop(body);
    assert_eq!(seen.recv().await.unwrap(), (1, None));
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_idle_timeout() {
    let (closed, mut seen) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let closed = closed.clone();
        async move {
            while read_head(&mut socket).await?.is_some() {
                socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            }
            let _ = closed.send(());
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream().idle_timeout(Duration::from_millis(40));
    send(&upstream, get("/")).await.unwrap();
    seen.recv().await.unwrap();
    send(&upstream, get("/")).await.unwrap();
    assert_eq!(backend.accepted(), 2);
    seen.recv().await.expect("the second is closed as well");
}

#[tokio::test]
async fn a_dropped_upstream_ends_its_tasks() {
    let backend = canned("HTTP/1.1 204 No Content\r\n\r\n").await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let upstream = backend.upstream().idle_timeout(Duration::from_secs(3_600));
    send(&upstream, get("/")).await.unwrap();
    assert!(tasks() > before, "its idle connection is looked after");
    drop(upstream);
    let ended = async {
        while tasks() > before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    ended.expect("the task that looks after idle connections ends with them");
}

#[tokio::test]
async fn no_more_idle_connections_than_configured() {
    let backend = canned("HTTP/1.1 204 No Content\r\n\r\n").await;
    let upstream = backend.upstream().max_idle(0);
    for _ in 0..3 {
        assert_eq!(send(&upstream, get("/")).await.unwrap().status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(backend.accepted(), 3);
}
