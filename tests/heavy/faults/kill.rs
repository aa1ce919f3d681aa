//! `kill -9` of a backend: while idle, in the middle of a request, and in the middle of a response.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tower_sticky_heavy_tests::{
    backend_process::Port,
    gateway::{Gateway, NUMBER},
    in_time, until,
};

use crate::{
    alone::{alone, median, timed},
    session::{HOLD, number},
    setup::{Setup, layer},
};

#[test]
fn killing_an_idle_backend_loses_no_request() {
    alone(async {
        let mut setup = Setup::new(&["a", "b", "c"]).await;
        let mut sessions = setup.one_session_each().await;
        let mut beside = sessions[0].beside(setup.gateway.addr);
        let mut third = sessions[0].beside(setup.gateway.addr);
        setup.processes[0].kill();
        setup.settle(&mut sessions[1]).await;
        // A body in one piece and one in many packets: refused, and sent completely to another backend.
        let answer = sessions[0].post(vec![7; 1_000_000]).await;
        assert_eq!((answer.status.as_u16(), &*answer.verdict), (200, "moved"));
        assert_eq!(answer.reason, "connect-failed");
        let home = answer.server;
        let answer = beside.get("/").await;
        assert_eq!(answer.why(), ("moved", &*home, "down"), "it is not tried again");
        let answer = third.post("a body").await;
        assert_eq!(answer.why(), ("moved", &*home, "down"), "all of a session agree");
        // A returned backend does not get its sessions back.
        setup.processes[0].restart().await;
        for session in [&mut sessions[0], &mut beside, &mut third] {
            assert_eq!(session.get("/").await.why(), ("pinned", &*home, ""));
        }
        setup.end().await;
    });
}

#[test]
fn a_request_of_a_killed_backend_is_retried_if_idempotent() {
    alone(async {
        for repeats in [true, false] {
            let setup = Setup::with(&["a", "b"], |layer| layer.retry_idempotent(repeats)).await;
            let mut setup = if repeats { setup } else { setup.without_repeats() };
            let mut sessions = setup.one_session_each().await;
            let requests = [
                (Method::GET, ""),
                (Method::POST, ""),
                (Method::POST, "a body"),
                // Idempotent, but a request with a body cannot be retried.
                (Method::PUT, "a body"),
            ];
            let mut held = Vec::new();
            for (method, body) in requests {
                let mut session = sessions[0].beside(setup.gateway.addr);
                let number = number(&method);
                let request = Request::builder()
                    .method(method)
                    .header(NUMBER, number)
                    .header(HOLD, "a")
                    .body(body.into())
                    .unwrap();
                let answer = async move { session.send_numbered(request, number).await.unwrap() };
                held.push(tokio::spawn(answer));
                until("a has it", || setup.log.of(number) == ["a"]).await;
            }
            setup.processes[0].kill();
            for (index, answer) in held.into_iter().enumerate() {
                let answer = answer.await.unwrap();
                if index == 0 && repeats {
                    // The log is written after the response.
                    until("b has it, too", || setup.log.of(answer.number).len() > 1).await;
                }
                let got = setup.log.of(answer.number);
                if index == 0 && repeats {
                    assert_eq!(answer.why(), ("moved", "b", "connect-failed"));
                    assert_eq!(got, ["a", "b"], "once here and once there");
                    assert!(answer.token.is_some(), "its session goes with it");
                } else {
                    assert_eq!(answer.status, 502, "it may have been executed");
                    assert_eq!(got, ["a"], "and is not repeated");
                    assert_eq!(answer.token, None, "no session is moved by that");
                }
            }
            let answer = sessions[0].post("next").await;
            assert_eq!((&*answer.verdict, &*answer.server), ("moved", "b"), "a client beside it");
            setup.end().await;
        }
    });
}

#[test]
fn a_request_body_in_flight_is_not_retried() {
    alone(async {
        let mut setup = Setup::new(&["a", "b"]).await;
        let sessions = setup.one_session_each().await;
        let (sender, receiver) = mpsc::channel(1);
        let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
            let piece: Bytes = receiver.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
        });
        let number = number(&Method::POST);
        let request = Request::post("/")
            .header(header::HOST, "shop")
            .header(header::COOKIE, format!("sid={}", sessions[0].token.as_ref().unwrap()))
            .header(NUMBER, number)
            .body(StreamBody::new(pieces.boxed()))
            .unwrap();
        let stream = TcpStream::connect(setup.gateway.addr).await.unwrap();
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = tokio::spawn(async move { client.send_request(request).await });
        sender.send("one piece".into()).await.unwrap();
        until("a has its head", || setup.log.of(number) == ["a"]).await;
        setup.processes[0].kill();
        let answer = in_time("an answer comes", answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 502);
        drop((answer, sender));
        assert_eq!(setup.log.of(number), ["a"]);
        setup.end().await;
    });
}

/// Reads what an HTTP/1.1 client receives, and kills the backend after the first bytes.
async fn broken_answer(path: &str) -> (String, usize) {
    let mut setup = Setup::new(&["a", "b"]).await;
    let mut stream = TcpStream::connect(setup.gateway.addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 1_024];
    // A part of the body has arrived.
    let mut read = 0;
    while !bytes[..read].windows(5).any(|some| some == b"\r\n\r\nx" || some == b"tick\n") {
        read += in_time("something comes", stream.read(&mut bytes[read..])).await.unwrap();
    }
    bytes.truncate(read);
    assert_eq!(setup.backends.get("a").unwrap().in_flight, 1);
    setup.processes[0].kill();
    // A reset counts as an end.
    let _ = in_time("the gateway hangs up", stream.read_to_end(&mut bytes)).await;
    drop(stream);
    setup.end().await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(body.len() < 1_000_000, "it is not whole");
    assert!(!body.ends_with("0\r\n\r\n"), "it has no clean end");
    (head.to_owned(), body.len())
}

#[test]
fn the_client_sees_an_incomplete_response() {
    alone(async {
        let (head, _) = broken_answer("/ticks").await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let (head, body) = broken_answer("/download").await;
        assert!(head.contains("content-length: 1000000"), "{head}");
        assert!(body > 0);
    });
}

#[test]
fn the_client_sees_that_its_answer_is_not_whole_over_http2() {
    alone(async {
        let mut setup = Setup::new(&["a", "b"]).await;
        let gateway = Gateway::start_http2(layer(&setup.backends).into_service()).await;
        let stream = TcpStream::connect(gateway.addr).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut client, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut bodies = Vec::new();
        for path in ["/ticks", "/other", "/download", "/other"] {
            let uri = format!("http://shop{path}");
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            let mut body = client.send_request(request).await.unwrap().into_body();
            if path != "/other" {
                body.frame().await.unwrap().unwrap();
                bodies.push(body);
            }
        }
        setup.processes[0].kill();
        for mut body in bodies {
            let end = async {
                loop {
                    match body.frame().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return error,
                        None => panic!("it has a clean end"),
                    }
                }
            };
            let error = in_time("the stream ends", end).await;
            assert!(!error.is_canceled(), "{error}");
        }
        let request = Request::get("http://shop/").body(Empty::<Bytes>::new()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "the connection is well");
        drop((answer, client));
        connection.await.unwrap().unwrap();
        drop(gateway);
        setup.end().await;
    });
}

/// Not an assertion, since it depends on the machine: the figures are printed.
#[test]
fn a_refused_connection_is_a_small_delay() {
    alone(async {
        let setup = Setup::new(&["a", "b"]).await;
        let sessions = setup.one_session_each().await;
        let dead = Port::reserve();
        let (mut healthy, mut moved) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let mut session = sessions[0].beside(setup.gateway.addr);
            session.get("/").await;
            let (answer, took) = timed(session.get("/")).await;
            assert_eq!(answer.why(), ("pinned", "a", ""));
            healthy.push(took);
            let alive = setup.backends.replace("a", dead.upstream()).unwrap();
            let (answer, took) = timed(session.get("/")).await;
            assert_eq!(answer.why(), ("moved", "b", "connect-failed"));
            moved.push(took);
            setup.backends.replace("a", alive).unwrap();
        }
        let (worst, healthy, moved) =
            (moved.iter().max().copied().unwrap(), median(healthy), median(moved));
        println!(
            "a pinned request: {healthy:?}; with its backend dead: {moved:?}, at worst {worst:?}"
        );
        assert!(moved < Duration::from_secs(1), "no timeout is waited for");
        setup.end().await;
    });
}
