//! The bytes of an HTTP/1.1 backend through an upstream: an answer has no fields of the hop and a body as long as it
//! says, and nothing of it becomes the answer to the next request.

#![no_main]

use std::{
    cell::RefCell,
    future::Future,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    task::Poll,
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::yield_now,
};
use tower::ServiceExt as _;
use tower_sticky::{BoxError, proxy::Upstream};
use tower_sticky_fuzz::raw;

/// How often the runtime looks for events until a request counts as waiting for ever.
const PATIENCE: usize = 300;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    method: u8,
    has_body: bool,
    /// Where the answer is split in two.
    split: u8,
    closes: bool,
    answer: &'a [u8],
}

/// What the backend answers once.
#[derive(Debug)]
struct Script {
    parts: [Vec<u8>; 2],
    closes: bool,
}

struct Stage {
    runtime: Runtime,
    upstream: Upstream,
    script: Arc<Mutex<Option<Script>>>,
}

/// Answers the first request as the script says, and all others well.
async fn backend(mut stream: TcpStream, script: Arc<Mutex<Option<Script>>>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        while let Some((request, length)) = raw::request(&bytes).expect("a well-formed request") {
            bytes.drain(..length);
            let script = script.lock().expect("no panic before").take();
            let Some(Script { parts, closes }) = script else {
                assert_eq!(request.target, "/next");
                let answer = b"HTTP/1.1 200 OK\r\nx-next: 1\r\ncontent-length: 4\r\n\r\nnext";
                let _ = stream.write_all(answer).await;
                continue;
            };
            for part in parts {
                let _ = stream.write_all(&part).await;
                yield_now().await;
            }
            if closes {
                return;
            }
        }
    }
}

fn stage() -> Stage {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let script = Arc::<Mutex<Option<Script>>>::default();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(backend(stream, script.clone()));
            }
        });
        address
    });
    let upstream = Upstream::new(&format!("http://{address}")).expect("an address");
    // The script is for one sending.
    Stage { runtime, upstream: upstream.replay_idempotent(false), script }
}

type Answer = Result<(StatusCode, HeaderMap, Result<Bytes, BoxError>), BoxError>;

/// The answer; `None` when nothing comes any more.
async fn settle(answer: impl Future<Output = Answer>) -> Option<Answer> {
    let mut answer = std::pin::pin!(answer);
    for _ in 0..PATIENCE {
        let polled = std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = polled {
            return Some(answer);
        }
        yield_now().await;
    }
    None
}

async fn send(upstream: &Upstream, method: Method, target: &str, body: &'static str) -> Answer {
    let request = Request::builder().method(method).uri(target);
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes())))?;
    let (parts, body) = upstream.clone().oneshot(request).await?.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).map_err(BoxError::from);
    Ok((parts.status, parts.headers, body))
}

fn check(method: &Method, status: StatusCode, headers: &HeaderMap, body: &Result<Bytes, BoxError>) {
    for gone in ["connection", "keep-alive", "proxy-connection", "transfer-encoding"] {
        let kept = gone == "connection" && matches!(status.as_u16(), 101 | 426);
        assert!(kept || !headers.contains_key(gone), "{headers:?}");
    }
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1, "{headers:?}");
    let has_body = method != Method::HEAD && !matches!(status.as_u16(), 100..200 | 204 | 304);
    match (lengths.first(), body) {
        (Some(length), Ok(body)) if has_body => {
            assert_eq!(length.to_str().ok(), Some(&*body.len().to_string()), "{headers:?}");
        }
        (_, Ok(body)) => assert!(has_body || body.is_empty()),
        (_, Err(_)) => {}
    }
}

fuzz_target!(|input: Input<'_>| {
    thread_local!(static STAGE: RefCell<Stage> = RefCell::new(stage()));
    STAGE.with_borrow(|stage| {
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];
        let method = methods[usize::from(input.method) % methods.len()].clone();
        let (first, second) =
            input.answer.split_at(usize::from(input.split).min(input.answer.len()));
        let script = Script { parts: [first.to_vec(), second.to_vec()], closes: input.closes };
        *stage.script.lock().expect("no panic before") = Some(script);
        let body = if input.has_body { "body" } else { "" };
        stage.runtime.block_on(async {
            let answer = settle(send(&stage.upstream, method.clone(), "/first", body)).await;
            if let Some(Ok((status, headers, body))) = &answer {
                check(&method, *status, headers, body);
            }
            drop(answer);
            // A request that was not answered may still be on its way.
            stage.script.lock().expect("no panic before").take();
            for _ in 0..2 {
                let next = settle(send(&stage.upstream, Method::GET, "/next", "")).await;
                match next {
                    Some(Ok((status, headers, Ok(body)))) => {
                        assert_eq!((status, &body[..]), (StatusCode::OK, &b"next"[..]));
                        assert!(headers.contains_key("x-next"));
                    }
                    // The backend has closed a connection that was kept.
                    Some(Err(error)) => {
                        assert!(input.closes || !input.answer.is_empty(), "{error}")
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    });
});
