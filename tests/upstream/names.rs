//! Backends whose URL has a name: which of its addresses is used, and which connections are kept.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header::COOKIE};
use http_body_util::Full;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Cause, Event, Health, Key, KeyRing, NoInner, Outcome, Redial, State, StickyLayer,
    StickyService, Verdict, affinity::Cookie, proxy::Upstream,
};

use crate::support::{get, read_head, send, text};

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(20);

/// What a name has, as a test says it.
#[derive(Clone)]
struct Zone {
    addresses: Arc<Mutex<Result<Vec<IpAddr>, &'static str>>>,
    lookups: Arc<AtomicUsize>,
}

impl Zone {
    fn new(addresses: &[&Server]) -> Self {
        let zone =
            Self { addresses: Arc::new(Mutex::new(Ok(Vec::new()))), lookups: Arc::default() };
        zone.set(addresses);
        zone
    }

    fn set(&self, servers: &[&Server]) {
        *self.addresses.lock().unwrap() = Ok(servers.iter().map(|it| it.addr.ip()).collect());
    }

    fn fail(&self) {
        *self.addresses.lock().unwrap() = Err("no such name");
    }

    /// The upstream of the name, at the port of `server`.
    fn upstream(&self, server: &Server) -> Upstream {
        let zone = self.clone();
        Upstream::new(&format!("http://cart.test:{}", server.addr.port()))
            .unwrap()
            .resolve_every(EVERY)
            .resolver(move |name: String| {
                assert_eq!(name, "cart.test");
                zone.lookups.fetch_add(1, SeqCst);
                let addresses = zone.addresses.lock().unwrap().clone();
                async move { addresses }
            })
    }

    /// Waits for lookups that have begun from now on.
    async fn looked_up(&self) {
        let from = self.lookups.load(SeqCst);
        let looked_up = async {
            while self.lookups.load(SeqCst) < from + 3 {
                sleep(EVERY).await;
            }
        };
        timeout(FOREVER, looked_up).await.expect("names are looked up regularly");
    }
}

/// A server that answers with its address.
struct Server {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(listener: TcpListener, http2: bool) -> Self {
        let (addr, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = accepted.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                connections.spawn(async move {
                    let body = addr.ip().to_string();
                    if http2 {
                        let serve = service_fn(move |_| {
                            let answer = Response::new(Full::new(Bytes::from(body.clone())));
                            async move { Ok::<_, Infallible>(answer) }
                        });
                        let http2 = http2::Builder::new(TokioExecutor::new());
                        let _ = http2.serve_connection(TokioIo::new(socket), serve).await;
                        return;
                    }
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    while let Ok(Some(_)) = read_head(&mut socket).await {
                        if socket.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { addr, accepted, task }
    }

    /// Ends it with all of its connections. The address refuses connections then.
    async fn stop(self) -> TcpSocket {
        self.task.abort();
        let _ = self.task.await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.addr).unwrap();
        socket
    }
}

/// Two servers on one port of two addresses.
async fn pair() -> (Server, Server) {
    pair_of(false).await
}

async fn pair_of(http2: bool) -> (Server, Server) {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
            return (Server::start(first, http2), Server::start(second, http2));
        }
    }
    panic!("no port is free on both addresses");
}

#[tokio::test]
async fn one_address_at_a_time_is_used() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let upstream = zone.upstream(&a).max_idle(0);
    for turn in 0..6 {
        // Resolvers change the order of what they say.
        match turn % 2 {
            0 => zone.set(&[&a, &b]),
            _ => zone.set(&[&b, &a]),
        }
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
        zone.looked_up().await;
    }
    assert_eq!((a.accepted.load(SeqCst), b.accepted.load(SeqCst)), (6, 0));
}

#[tokio::test]
async fn the_first_address_that_accepts_is_used() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let upstream = zone.upstream(&a);
    let _refusing = a.stop().await;
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.2");
}

#[tokio::test]
async fn requests_follow_a_name_to_its_new_address() {
    for http2 in [false, true] {
        let (a, b) = pair_of(http2).await;
        let zone = Zone::new(&[&a]);
        let changes = Arc::new(Mutex::new(Vec::new()));
        let record = changes.clone();
        let upstream = zone.upstream(&a).http2(http2).on_address_change(move |from, to| {
            record.lock().unwrap().push((from, to));
        });
        for _ in 0..3 {
            assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
        }
        assert_eq!(a.accepted.load(SeqCst), 1, "the connection is kept");
        zone.set(&[&b]);
        zone.looked_up().await;
        for _ in 0..3 {
            assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.2");
        }
        assert_eq!(b.accepted.load(SeqCst), 1, "the connection is kept");
        assert_eq!(*changes.lock().unwrap(), [(a.addr, b.addr)]);
    }
}

/// The second line.
#[tokio::test]
async fn a_failing_lookup_keeps_the_last_address() {
    let (a, _b) = pair().await;
    let zone = Zone::new(&[&a]);
    let upstream = zone.upstream(&a).max_idle(0);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    zone.fail();
    zone.looked_up().await;
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    *zone.addresses.lock().unwrap() = Ok(Vec::new());
    zone.looked_up().await;
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1", "nor when empty");
}

#[tokio::test]
async fn a_name_without_any_address_is_an_error() {
    let (a, _b) = pair().await;
    let zone = Zone::new(&[]);
    zone.fail();
    let upstream = zone.upstream(&a);
    let error = send(&upstream, get("/")).await.unwrap_err().to_string();
    assert!(error.contains("cart.test") && error.contains("no such name"), "{error}");
    assert!(upstream.look_up().await.is_err());
    zone.set(&[&a]);
    upstream.look_up().await.unwrap();
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
}

#[tokio::test]
async fn a_lookup_without_a_descriptor_is_a_shortage() {
    let shortage = || std::io::Error::from_raw_os_error(24); // EMFILE
    let upstream = Upstream::new("http://cart.test").unwrap();
    let upstream = upstream.resolver(move |_| async move { Err::<Vec<IpAddr>, _>(shortage()) });
    let backends = Backends::from_iter([("cart", upstream)]);
    let service = service(&backends, Duration::from_millis(10));
    let response = service.oneshot(get("/")).await.unwrap();
    let outcome = Outcome::of(response.extensions()).unwrap();
    assert_eq!(outcome.reason(), Some(tower_sticky::Reason::Shortage));
    assert_eq!(backends.get("cart").unwrap().state, State::Ready);
}

#[tokio::test]
async fn lookups_stop_without_requests_and_start_again() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a]);
    let upstream = zone.upstream(&a);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    let ended = async {
        loop {
            let before = zone.lookups.load(SeqCst);
            sleep(EVERY * 20).await;
            if zone.lookups.load(SeqCst) == before {
                return;
            }
        }
    };
    timeout(FOREVER, ended).await.expect("they end");
    zone.set(&[&b]);
    let moved = text(send(&upstream, get("/")).await.unwrap()).await;
    assert_eq!(moved, "127.0.0.2", "it is looked up before a kept connection is used");
}

type Service = StickyService<Upstream, NoInner>;

fn service(backends: &Backends<Upstream>, redial: Duration) -> Service {
    let key = Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", KeyRing::new([key]).unwrap()))
        .health(Health::new().redial(redial, redial))
        .home_wait(FOREVER)
        .outcome_extensions(true)
        .into_service()
}

/// One request of a session: what it became, who answered, and its token from now on.
async fn visit(service: &Service, token: &mut Option<String>) -> (Verdict, String) {
    let mut request = get("/");
    if let Some(token) = token {
        request.headers_mut().insert(COOKIE, format!("sid={token}").parse().unwrap());
    }
    let response = service.clone().oneshot(request).await.unwrap();
    let verdict = Outcome::of(response.extensions()).unwrap().verdict();
    if let Some(field) = response.headers().get("set-cookie") {
        let field = field.to_str().unwrap().strip_prefix("sid=").unwrap();
        *token = Some(field.split(';').next().unwrap().to_owned());
    }
    (verdict, text(response).await)
}

/// The third line: what refuses is the backend; after a failed redial the next address is used, and the
/// pool and its sessions hear of it.
#[tokio::test]
async fn the_next_address_is_used_after_a_refused_redial() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let backends = Backends::new();
    let upstream = zone.upstream(&a).on_address_change(backends.address_listener("cart"));
    backends.insert("cart", upstream).unwrap();
    let service = service(&backends, Duration::from_millis(10));
    let (mut token, mut events) = (None, backends.events());
    assert_eq!(visit(&service, &mut token).await, (Verdict::Assigned, "127.0.0.1".into()));
    let (from, first) = (a.addr, token.clone());
    let _refusing = a.stop().await;
    // It waits for the return of its backend, which is the same one at another address.
    let visit = timeout(FOREVER, visit(&service, &mut token)).await.unwrap();
    assert_eq!(visit, (Verdict::Pinned, "127.0.0.2".into()));
    assert_ne!(token, first, "the token has a new epoch");
    let mut changes = Vec::new();
    while changes.len() < 3 {
        match timeout(FOREVER, events.next()).await.unwrap().unwrap() {
            Event::State { to, cause, .. } => changes.push(format!("{to} {cause}")),
            Event::AddressChanged { backend, from: old, to } => {
                assert_eq!((backend.as_str(), old, to), ("cart", from, b.addr));
                changes.push("address".into());
            }
            other => panic!("{other:?}"),
        }
    }
    let down = format!("{} {}", State::Suspect, Cause::ConnectFailed);
    let up = format!("{} {}", State::Ready, Cause::Connected);
    assert_eq!(changes, [down, "address".to_owned(), up]);
}

/// An address where connecting takes for ever: its queue of connections is full.
async fn black_hole(socket: TcpSocket) -> (TcpListener, Vec<TcpStream>) {
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(50), TcpStream::connect(addr)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued)
}

/// `connect_timeout` covers the attempts at all addresses together.
#[tokio::test]
async fn all_addresses_share_one_connect_timeout() {
    const LIMIT: Duration = Duration::from_millis(600);
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let upstream = zone.upstream(&a).max_idle(0).connect_timeout(LIMIT);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    let _first = black_hole(a.stop().await).await;
    let b = black_hole(b.stop().await).await;
    let begun = Instant::now();
    assert!(Redial::redial(&upstream).await.is_err());
    assert!(begun.elapsed() >= LIMIT, "the addresses get the whole time");
    assert!(begun.elapsed() < LIMIT * 3 / 2, "and not more than that");
    drop(b);
}

/// The address in use may not take the time of those that are tried after it.
#[tokio::test]
async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let upstream = zone.upstream(&a).connect_timeout(Duration::from_millis(600));
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    let _hole = black_hole(a.stop().await).await;
    Redial::redial(&upstream).await.expect("the next address is reached in time");
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.2");
}

/// A request does not go to the next address before a redial has: it might only be a restart.
#[tokio::test]
async fn a_request_alone_does_not_change_the_address() {
    let (a, b) = pair().await;
    let zone = Zone::new(&[&a, &b]);
    let upstream = zone.upstream(&a).max_idle(0);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    let refusing = a.stop().await;
    assert!(send(&upstream, get("/")).await.is_err());
    let a = Server::start(refusing.listen(64).unwrap(), false);
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "127.0.0.1");
    assert_eq!(b.accepted.load(SeqCst), 0);
    drop(a);
}
