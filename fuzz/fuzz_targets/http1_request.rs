//! The bytes of an HTTP/1.1 client through the server, the layer and an upstream: the backend gets well-formed requests
//! only, each of which the layer has seen, with the body that it had.

#![no_main]

use std::{
    cell::LazyCell,
    convert::Infallible,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::yield_now,
};
use tower::{ServiceExt as _, service_fn};
use tower_sticky::{
    Backends, NoInner, StickyBody, StickyLayer, StickyService,
    affinity::Cookie,
    proxy::{Upstream, UpstreamBody},
    serve::{Limits, Listener, RequestBody, Server},
};
use tower_sticky_fuzz::{
    cookie_model,
    raw::{self, RawRequest},
};

/// How often the runtime looks for events until nothing comes any more.
const PATIENCE: usize = 50;

/// A request as the layer sees it.
#[derive(Debug, Default)]
struct Seen {
    method: Method,
    target: String,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Log {
    seen: Vec<Arc<Mutex<Seen>>>,
    received: Vec<RawRequest>,
}

struct Stage {
    runtime: Runtime,
    front: SocketAddr,
    backends: Backends<Upstream>,
    log: Arc<Mutex<Log>>,
}

/// Answers each request on a connection of the backend.
async fn backend(mut stream: TcpStream, log: Arc<Mutex<Log>>) {
    let (mut bytes, mut continued) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        loop {
            let parsed = raw::request(&bytes);
            let parsed = parsed.unwrap_or_else(|why| panic!("{why}: {}", bytes.escape_ascii()));
            let Some((request, length)) = parsed else { break };
            bytes.drain(..length);
            continued = false;
            let body = if request.method == "HEAD" { "" } else { "ok" };
            log.lock().expect("no panic before").received.push(request);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        let expects =
            bytes.to_ascii_lowercase().windows(10).any(|window| window == b"\r\nexpect: ");
        if expects && !continued {
            continued = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok();
        }
    }
}

type Answer = Response<StickyBody<UpstreamBody>>;

/// What the layer is given and answers.
fn record(
    request: Request<RequestBody>,
    service: StickyService<Upstream, NoInner>,
    log: &Mutex<Log>,
) -> BoxFuture<'static, Result<Answer, Infallible>> {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let seen =
        Seen { method: request.method().clone(), target: target.to_owned(), body: Vec::new() };
    let seen = Arc::new(Mutex::new(seen));
    log.lock().expect("no panic before").seen.push(seen.clone());
    let request = request.map(|body| {
        let body = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                seen.lock().expect("no panic before").body.extend_from_slice(data);
            }
            frame
        });
        body.boxed_unsync()
    });
    Box::pin(service.oneshot(request))
}

fn stage() -> Stage {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let log = Arc::<Mutex<Log>>::default();
    let (front, backends) = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let to_backend = log.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(backend(stream, to_backend.clone()));
            }
        });
        let backends = Backends::new();
        let upstream = Upstream::new(&format!("http://{address}")).expect("an address");
        let upstream = upstream.expect_wait(Duration::from_millis(5));
        backends.insert("a", upstream).expect("the first one");
        let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).session_headers(true);
        let (service, log) = (layer.into_service(), log.clone());
        let service = service_fn(move |request| record(request, service.clone(), &log));
        let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
        let front = listener.local_addr().tcp().expect("an address");
        let limits = Limits::new().header_timeout(Duration::from_secs(5));
        let server = Server::new(service).listener(listener).limits(limits);
        drop(server.start().expect("it starts"));
        (front, backends)
    });
    Stage { runtime, front, backends, log }
}

/// Sends the bytes, and reads until nothing comes any more. The server ends a request whose client has closed.
async fn send(stage: &Stage, input: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(stage.front).await?;
    stream.set_zero_linger()?;
    stream.write_all(input).await?;
    let (mut answers, mut patience) = (Vec::new(), PATIENCE);
    while patience > 0 {
        match stream.try_read_buf(&mut answers) {
            Ok(0) => break,
            Ok(_) => patience = PATIENCE,
            Err(error) if error.kind() == ErrorKind::WouldBlock => patience -= 1,
            Err(error) => return Err(error),
        }
        yield_now().await;
    }
    Ok(())
}

fn check(log: &Log) {
    let mut seen = log.seen.iter().map(|seen| seen.lock().expect("no panic before"));
    for request in &log.received {
        let same = seen.find(|seen| {
            // A path may be empty in an absolute target only: that of a backend gets its slash.
            let slash =
                if seen.target.is_empty() || seen.target.starts_with('?') { "/" } else { "" };
            let target = format!("{slash}{}", seen.target);
            seen.method.as_str() == request.method && target == request.target
        });
        let same = same.unwrap_or_else(|| panic!("the layer has not seen {request:?}"));
        assert_eq!(same.body, request.body, "{request:?}");
        let names = |name| request.values(name).collect::<Vec<_>>();
        assert_eq!(names("x-sticky-backend"), [b"a"], "{request:?}");
        for gone in ["keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"] {
            assert!(names(gone).is_empty(), "{request:?}");
        }
        let cookies: Vec<_> = request.values("cookie").map(Bytes::copy_from_slice).collect();
        assert!(cookie_model::values(&cookies, "sid").is_empty(), "{request:?}");
    }
}

/// Sends the bytes, and checks what the backend got. Returns the number of requests.
fn run(stage: &Stage, input: &[u8]) -> usize {
    *stage.log.lock().expect("no panic before") = Log::default();
    // A reset is an answer, too.
    let _ = stage.runtime.block_on(async {
        let sent = send(stage, input).await;
        while stage.backends.snapshot().backends.iter().any(|backend| backend.in_flight > 0) {
            yield_now().await;
        }
        sent
    });
    let log = stage.log.lock().expect("no panic before");
    check(&log);
    log.received.len()
}

fuzz_target!(|input: &[u8]| {
    thread_local!(static STAGE: LazyCell<Stage> = LazyCell::new(|| {
        let stage = stage();
        let two = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\nPUT /b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(run(&stage, two), 2, "the backend gets what is sent");
        stage
    }));
    STAGE.with(|stage| run(stage, input));
});
