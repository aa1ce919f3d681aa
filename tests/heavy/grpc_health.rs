//! `GrpcProbe` against real servers with Tonic's health service, over `Upstream` and over Tonic's own
//! `Channel`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::Request;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    body::Body,
    service::Routes,
    transport::{
        Channel, Endpoint,
        server::{Server, TcpIncoming},
    },
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt};
use tower_sticky::{
    Backends, BoxError, GrpcProbe, Health, Probe, State, StickyLayer, affinity::Cookie,
    proxy::Upstream,
};
use tower_sticky_heavy_tests::until;

/// A real server with the health service.
struct Grpc {
    address: SocketAddr,
    reporter: HealthReporter,
    serving: JoinHandle<()>,
}

impl Grpc {
    async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, service) = tonic_health::server::health_reporter();
        let server = Server::builder().add_service(service);
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { address, reporter, serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(&self.url()).unwrap().http2(true)
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Watched<S> {
    backends: Backends<S>,
    _layer: StickyLayer<S>,
}

/// Probes one backend often, each time for as long as `limit`.
fn watch<S>(service: S, probe: impl Probe<S>, limit: Duration) -> Watched<S>
where
    S: Service<Request<Body>> + Clone + Send + Sync + 'static,
{
    let backends = Backends::from_iter([("a", service)]);
    let often = Duration::from_millis(20);
    let health = Health::new().probe(probe).probe_interval(often).probe_timeout(limit);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health);
    assert!(layer.start::<Request<Body>>());
    Watched { backends, _layer: layer }
}

/// Time enough for a probe that is to be answered.
const PLENTY: Duration = Duration::from_secs(30);

impl<S> Watched<S> {
    fn state(&self) -> State {
        self.backends.get("a").unwrap().state
    }

    async fn becomes(&self, state: State) -> String {
        until(&format!("the backend becomes {state}"), || self.state() == state).await;
        self.backends.get("a").unwrap().probe_failure.unwrap_or_default()
    }
}

/// One probe by hand.
async fn probe_once<S>(service: S, probe: impl Probe<S>) -> Result<(), BoxError> {
    probe.probe(service, &"a".parse().unwrap()).await
}

#[tokio::test]
async fn serving_or_not_is_what_the_server_says() {
    let server = Grpc::new().await;
    probe_once(server.upstream(), GrpcProbe::new()).await.expect("a server serves as a whole");
    let watched = watch(server.upstream(), GrpcProbe::new().service("shop.Cart"), PLENTY);
    let said = watched.becomes(State::Down).await;
    assert_eq!(said, "it does not know the service \"shop.Cart\"");
    server.reporter.set_service_status("shop.Cart", ServingStatus::Serving).await;
    assert_eq!(watched.becomes(State::Ready).await, "");
    server.reporter.set_service_status("shop.Cart", ServingStatus::NotServing).await;
    assert_eq!(watched.becomes(State::Down).await, "it is NOT_SERVING");
    server.reporter.set_service_status("shop.Cart", ServingStatus::Unknown).await;
    let unknown = || {
        let failure = watched.backends.get("a").unwrap().probe_failure;
        failure.is_some_and(|said| said.contains("UNKNOWN"))
    };
    until("UNKNOWN is told", unknown).await;
    assert_eq!(watched.state(), State::Down);
}

#[tokio::test]
async fn a_server_without_the_health_service_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_routes(Routes::default());
    let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let upstream = Upstream::new(&url).unwrap().http2(true);
    let said = watch(upstream, GrpcProbe::new(), PLENTY).becomes(State::Down).await;
    assert!(said.contains("does not implement grpc.health.v1.Health"), "{said}");
    serving.abort();
}

/// A listener that accepts and says nothing.
async fn hung() -> (String, JoinHandle<Infallible>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await);
        }
    });
    (url, serving)
}

#[tokio::test]
async fn a_dead_or_hung_server_is_found_over_an_upstream() {
    let server = Grpc::new().await;
    let (address, upstream) = (server.address, server.upstream());
    let watched = watch(upstream, GrpcProbe::new(), PLENTY);
    drop(server);
    let said = watched.becomes(State::Down).await;
    assert!(!said.is_empty(), "it is told why");
    let _back = Grpc::at(address).await;
    watched.becomes(State::Ready).await;

    let (url, serving) = hung().await;
    let upstream = Upstream::new(&url).unwrap().http2(true);
    let watched = watch(upstream, GrpcProbe::new(), Duration::from_millis(60));
    assert_eq!(watched.becomes(State::Down).await, "it did not answer within 60ms");
    serving.abort();
}

fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy()
}

fn channel_probe() -> GrpcProbe<Body> {
    GrpcProbe::new().map_body(Body::new)
}

#[tokio::test]
async fn a_channel_to_a_dead_port_says_it_is_ready_and_the_probe_knows_better() {
    let server = Grpc::new().await;
    let (address, url) = (server.address, server.url());
    drop(server);
    let mut dead = channel(&url);
    dead.ready().await.expect("a channel is always ready");

    let watched = watch(dead, channel_probe(), PLENTY);
    let said = watched.becomes(State::Down).await;
    assert!(said.to_lowercase().contains("refused"), "the causes are told as well: {said}");
    let _back = Grpc::at(address).await;
    watched.becomes(State::Ready).await;
}

#[tokio::test]
async fn the_probe_drives_a_lazy_channel() {
    let server = Grpc::new().await;
    let lazy = channel(&server.url());
    probe_once(lazy.clone().ready_oneshot().await.unwrap(), channel_probe()).await.unwrap();
    let watched = watch(lazy, channel_probe(), PLENTY);
    server.reporter.set_service_status("", ServingStatus::NotServing).await;
    assert_eq!(watched.becomes(State::Down).await, "it is NOT_SERVING");
    server.reporter.set_service_status("", ServingStatus::Serving).await;
    watched.becomes(State::Ready).await;
}

#[tokio::test]
async fn a_hung_channel_is_found_down() {
    let (url, serving) = hung().await;
    let watched = watch(channel(&url), channel_probe(), Duration::from_millis(60));
    watched.becomes(State::Down).await;
    serving.abort();
}
