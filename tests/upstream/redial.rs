//! `Upstream` behind a layer: which failures make a backend suspect, redials, and retries.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::COOKIE};
use http_body_util::{Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Health, NoInner, Outcome, State, StickyLayer, StickyService, Verdict,
    affinity::Cookie, proxy::Upstream,
};

use crate::support::{self, Backend, full_listener, get, raw, read_head, settle, text};

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(crate) type Service = StickyService<Upstream, NoInner>;

fn service(backends: &Backends<Upstream>) -> Service {
    let quick = Duration::from_millis(10);
    StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .health(Health::new().redial(quick, quick))
        .outcome_extensions(true)
        .into_service()
}

pub(crate) fn pool<const N: usize>(
    upstreams: [(&str, Upstream); N],
) -> (Backends<Upstream>, Service) {
    let backends = Backends::from_iter(upstreams);
    let service = service(&backends);
    (backends, service)
}

/// Status, verdict and backend of a GET of the session at `backend`.
pub(crate) async fn ask(service: &Service, backend: &str) -> (u16, Verdict, Option<String>) {
    let mut request: Request<Empty<Bytes>> = get("/");
    request.headers_mut().insert(COOKIE, format!("sid={backend}").parse().unwrap());
    let response = service.clone().oneshot(request).await.unwrap();
    let outcome = Outcome::of(response.extensions()).unwrap().clone();
    let status = response.status().as_u16();
    if status == 200 {
        assert_eq!(text(response).await, "ok");
    }
    (status, outcome.verdict(), outcome.backend().map(ToString::to_string))
}

pub(crate) async fn becomes(backends: &Backends<Upstream>, id: &str, state: State) {
    let wait = async {
        while backends.get(id).unwrap().state != state {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(FOREVER, wait).await.unwrap_or_else(|_| panic!("{id} does not become {state}"));
}

fn is_ready(backends: &Backends<Upstream>) -> bool {
    backends.iter().all(|backend| backend.state == State::Ready)
}

/// Answers every request with 200.
pub(crate) async fn well() -> Backend {
    raw(|_, mut socket| async move {
        while read_head(&mut socket).await?.is_some() {
            socket.write_all(OK).await?;
        }
        Ok(())
    })
    .await
}

/// Serves HTTP/1.1 or HTTP/2 on one connection after the other; tells how many there have been.
fn serve(listener: TcpListener, http2: bool) -> Arc<AtomicUsize> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            tokio::spawn(serve_one(socket, http2));
        }
    });
    accepted
}

async fn serve_one(socket: TcpStream, http2: bool) {
    let answer =
        service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))) });
    support::serve(socket, http2, answer).await;
}

#[tokio::test]
async fn a_connection_is_opened_in_the_background_and_kept_for_the_next_request() {
    for http2 in [false, true] {
        // The port is ours, and refuses until somebody listens.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let b = well().await;
        let a = Upstream::new(&url).unwrap().http2(http2);
        let (backends, service) = pool([("a", a), ("b", b.upstream())]);
        let answer = ask(&service, "a").await;
        assert_eq!(answer, (200, Verdict::Moved, Some("b".into())));
        assert_eq!(backends.get("a").unwrap().state, State::Suspect);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(backends.get("a").unwrap().state, State::Suspect, "it refuses still");
        let accepted = serve(socket.listen(64).unwrap(), http2);
        becomes(&backends, "a", State::Ready).await;
        assert_eq!(accepted.load(SeqCst), 1, "one redial");
        assert_eq!(ask(&service, "a").await, (200, Verdict::Pinned, Some("a".into())));
        assert_eq!(accepted.load(SeqCst), 1, "its connection is used (HTTP/2: {http2})");
    }
}

#[tokio::test]
async fn a_backend_that_closes_in_order_is_not_suspect() {
    let closing: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let a = raw(move |_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(closing).await
    })
    .await;
    // Keeps its connections in words, and closes them.
    let b = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(OK).await
    })
    .await;
    let (backends, service) = pool([("a", a.upstream()), ("b", b.upstream())]);
    let mut events = backends.events();
    for _ in 0..20 {
        for backend in ["a", "b"] {
            assert_eq!(ask(&service, backend).await, (200, Verdict::Pinned, Some(backend.into())));
        }
        settle().await;
    }
    assert!(is_ready(&backends));
    assert!(timeout(Duration::ZERO, events.next()).await.is_err(), "nothing has changed");
}

#[tokio::test]
async fn goaway_is_no_failure() {
    // Each connection ends soon after its first request. Before one, hyper would close it without a GOAWAY.
    let backend = raw(|_, socket| async move {
        let requested = Arc::new(Notify::new());
        let asked = requested.clone();
        let answer = service_fn(move |_| {
            asked.notify_one();
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(TokioIo::new(socket), answer);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = async { requested.notified().await; sleep(Duration::from_millis(3)).await } => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
        Ok(())
    })
    .await;
    let other = well().await;
    let a = backend.upstream().http2(true);
    let (backends, service) = pool([("a", a), ("b", other.upstream())]);
    let mut events = backends.events();
    for _ in 0..50 {
        assert_eq!(ask(&service, "a").await, (200, Verdict::Pinned, Some("a".into())));
        sleep(Duration::from_millis(1)).await;
    }
    assert!(backend.accepted() > 1, "connections have ended meanwhile");
    assert!(timeout(Duration::ZERO, events.next()).await.is_err(), "nothing has changed");
}

/// Answers the first request of the first connection; to all others it listens, and hangs up. Counts
/// them.
async fn closes_after_one(requests: Arc<AtomicUsize>) -> Backend {
    raw(move |number, mut socket| {
        let requests = requests.clone();
        async move {
            if number == 0 {
                read_head(&mut socket).await?;
                socket.write_all(OK).await?;
            }
            if read_head(&mut socket).await?.is_some() {
                requests.fetch_add(1, SeqCst);
            }
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn its_own_backend_is_tried_again_and_then_one_other() {
    let requests: [Arc<AtomicUsize>; 3] = Default::default();
    let [a, b, c] = [
        closes_after_one(requests[0].clone()).await,
        closes_after_one(requests[1].clone()).await,
        closes_after_one(requests[2].clone()).await,
    ];
    let all = [("a", a.upstream()), ("b", b.upstream()), ("c", c.upstream())];
    let (_backends, service) = pool(all);
    for backend in ["a", "b", "c"] {
        assert_eq!(ask(&service, backend).await.0, 200, "each has a kept connection now");
    }
    assert_eq!(ask(&service, "a").await.0, 502);
    let requests = requests.map(|requests| requests.load(SeqCst));
    assert_eq!(requests[0], 2, "on the kept connection, and on a fresh one");
    assert_eq!(requests[1] + requests[2], 1, "three sendings in all: {requests:?}");
}

#[tokio::test]
async fn a_session_moves_with_the_response_when_its_backend_breaks_off_twice() {
    let requests = Arc::default();
    let (a, b) = (closes_after_one(Arc::clone(&requests)).await, well().await);
    let (backends, service) = pool([("a", a.upstream()), ("b", b.upstream())]);
    assert_eq!(ask(&service, "a").await.0, 200);
    assert_eq!(ask(&service, "a").await, (200, Verdict::Moved, Some("b".into())));
    assert_eq!(requests.load(SeqCst), 2);
    // It accepts connections, and a proxy would do so for the dead.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
}

#[tokio::test]
async fn not_every_request_waits_for_an_unanswered_connection_attempt() {
    let (listener, queued) = full_listener().await;
    let address = listener.local_addr().unwrap();
    let limit = Duration::from_millis(100);
    let b = well().await;
    let a = Upstream::new(&format!("http://{address}")).unwrap().connect_timeout(limit);
    let (backends, service) = pool([("a", a), ("b", b.upstream())]);
    assert_eq!(ask(&service, "a").await, (200, Verdict::Moved, Some("b".into())));
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&service, "a").await, (200, Verdict::Moved, Some("b".into())));
    }
    assert!(start.elapsed() < 50 * limit, "the redials hang, and delay no request");
    drop(queued);
    let accepted = serve(listener, false);
    becomes(&backends, "a", State::Ready).await;
    assert!(accepted.load(SeqCst) >= 1);
}
