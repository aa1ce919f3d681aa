//! Probes over `Upstream`, against real servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{sleep, timeout},
};
use tower_sticky::{
    Backends, GrpcProbe, Health, HttpProbe, Probe, State, StickyLayer, affinity::Cookie,
    proxy::Upstream,
};

use crate::support::{Backend, canned, raw, read_head, server};

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_millis(60);

struct Watched {
    backends: Backends<Upstream>,
    _layer: StickyLayer<Upstream>,
}

/// Probes one backend often; a probe that must fail by time has little of it, others have plenty.
fn watch(upstream: Upstream, probe: impl Probe<Upstream>, limit: Duration) -> Watched {
    let backends = Backends::from_iter([("a", upstream)]);
    let health = Health::new().probe(probe).probe_interval(OFTEN).probe_timeout(limit);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health);
    assert!(layer.start::<Request<Empty<Bytes>>>());
    Watched { backends, _layer: layer }
}

impl Watched {
    async fn becomes(&self, state: State) {
        let wait = async {
            while self.backends.get("a").unwrap().state != state {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let status = || self.backends.get("a").unwrap();
        timeout(FOREVER, wait).await.unwrap_or_else(|_| panic!("not {state}: {:?}", status()));
    }

    async fn becomes_down(&self) -> String {
        self.becomes(State::Down).await;
        self.backends.get("a").unwrap().probe_failure.unwrap()
    }

    /// Several probes were made, and none of them failed.
    async fn stays_healthy(&self, probed: impl Fn() -> usize) {
        let wait = async {
            while probed() < 5 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(FOREVER, wait).await.expect("it is probed");
        let status = self.backends.get("a").unwrap();
        assert_eq!((status.state, status.probe_failure), (State::Ready, None));
    }
}

/// Whether the request is for this host, in whichever form the version of HTTP has it.
fn is_for(request: &Request<hyper::body::Incoming>, host: &str) -> bool {
    let field = request.headers().get("host").map(|value| value.as_bytes());
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    field.or(authority) == Some(host.as_bytes())
}

/// A shop that counts its requests, and is well or not by path.
async fn shop(http2: bool) -> (Backend, Arc<AtomicUsize>) {
    let probed = Arc::new(AtomicUsize::new(0));
    let counter = probed.clone();
    let backend = server(http2, move |request| {
        counter.fetch_add(1, SeqCst);
        async move {
            let (status, body) = match request.uri().path() {
                "/healthz" if request.method() == "HEAD" => (200, String::new()),
                "/healthz" if request.headers().contains_key("x-key") => (200, "known".to_owned()),
                "/healthz" => (200, "all is well".to_owned()),
                "/strict" if request.method() == "OPTIONS" && is_for(&request, "app.internal") => {
                    (204, String::new())
                }
                "/moved" => (301, String::new()),
                "/large" => (200, format!("early {} late", "x".repeat(1 << 20))),
                _ => (503, "all is lost".to_owned()),
            };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
    })
    .await;
    (backend, probed)
}

#[tokio::test]
async fn probes_of_a_healthy_backend_use_one_connection() {
    for http2 in [false, true] {
        for probe in [
            HttpProbe::get("/healthz").expect_status(200).expect_body("is well"),
            HttpProbe::get("/healthz").header("x-key", "1").expect_body("known"),
            HttpProbe::head("/healthz"),
            HttpProbe::get("/moved"),
            HttpProbe::get("/strict").method("OPTIONS").host("app.internal").expect_statuses([204]),
        ] {
            let (backend, probed) = shop(http2).await;
            let watched = watch(backend.upstream().http2(http2), probe, FOREVER);
            watched.stays_healthy(|| probed.load(SeqCst)).await;
            assert_eq!(backend.accepted(), 1, "the answers were read to their ends");
        }
    }
}

#[tokio::test]
async fn an_unhealthy_backend_is_down() {
    for http2 in [false, true] {
        for (probe, why) in [
            (HttpProbe::get("/"), "it answered 503 Service Unavailable, not 200 to 399"),
            (HttpProbe::get("/moved").expect_status(200), "301 Moved Permanently, not 200"),
            (HttpProbe::get("/healthz").expect_body("lost"), "without \"lost\""),
        ] {
            let (backend, _) = shop(http2).await;
            let said = watch(backend.upstream().http2(http2), probe, FOREVER).becomes_down().await;
            assert!(said.contains(why), "{said}");
        }
    }
}

#[tokio::test]
async fn only_the_beginning_of_a_large_answer_is_read() {
    let (backend, probed) = shop(false).await;
    let early = HttpProbe::get("/large").expect_body("early");
    watch(backend.upstream(), early, FOREVER).stays_healthy(|| probed.load(SeqCst)).await;
    let late = HttpProbe::get("/large").expect_body("late");
    let said = watch(backend.upstream(), late, FOREVER).becomes_down().await;
    assert!(said.contains("within 64 KiB"), "{said}");
}

#[tokio::test]
async fn a_refused_connection_and_the_backends_return_are_detected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstream = Upstream::new(&format!("http://{address}")).unwrap();
    let watched = watch(upstream, HttpProbe::get("/healthz"), FOREVER);
    let said = watched.becomes_down().await;
    assert!(said.to_lowercase().contains("refused"), "{said}");

    let listener = TcpListener::bind(address).await.unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            while let Ok(Some(_)) = read_head(&mut socket).await {
                let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    });
    watched.becomes(State::Ready).await;
    serving.abort();
}

#[tokio::test]
async fn a_hanging_backend_is_down() {
    for answer in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall"] {
        let backend = raw(move |_, mut socket| async move {
            read_head(&mut socket).await?;
            socket.write_all(answer.as_bytes()).await?;
            std::future::pending().await
        })
        .await;
        let said = watch(backend.upstream(), HttpProbe::get("/"), SOON).becomes_down().await;
        assert_eq!(said, "it did not answer within 60ms", "after {answer:?}");
    }
}

#[tokio::test]
async fn a_listener_that_accepts_nothing_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let said = watch(upstream, HttpProbe::get("/"), SOON).becomes_down().await;
    assert_eq!(said, "it did not answer within 60ms");
}

#[tokio::test]
async fn a_slow_backend_within_the_timeout_is_healthy() {
    let slow = || async {
        let probed = Arc::new(AtomicUsize::new(0));
        let counter = probed.clone();
        let backend = server(false, move |_| {
            counter.fetch_add(1, SeqCst);
            async {
                sleep(3 * SOON).await;
                Response::new(Full::new(Bytes::from("at last")))
            }
        })
        .await;
        (backend, probed)
    };
    let (backend, probed) = slow().await;
    watch(backend.upstream(), HttpProbe::get("/"), FOREVER)
        .stays_healthy(|| probed.load(SeqCst))
        .await;
    let (backend, _) = slow().await;
    watch(backend.upstream(), HttpProbe::get("/"), SOON).becomes_down().await;
}

#[tokio::test]
async fn an_invalid_response_fails_a_probe() {
    let backend = canned("what?\r\n\r\n").await;
    watch(backend.upstream(), HttpProbe::get("/"), FOREVER).becomes_down().await;
}

#[tokio::test]
async fn a_grpc_probe_of_another_protocol_says_so() {
    let (backend, _) = shop(true).await;
    let said =
        watch(backend.upstream().http2(true), GrpcProbe::new(), FOREVER).becomes_down().await;
    assert_eq!(said, "it answered 503 Service Unavailable: that is not gRPC");
}
