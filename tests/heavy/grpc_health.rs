//! `GrpcProbe` with real servers that have Tonic's health service, over `Upstream` and Tonic's `Channel`.

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

/// A server with the health service.
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

struct Probed<S> {
    backends: Backends<S>,
    _layer: StickyLayer<S>,
}

/// Probes one backend every 20 ms, with this timeout.
fn probe_backend<S>(service: S, probe: impl Probe<S>, timeout: Duration) -> Probed<S>
where
    S: Service<Request<Body>> + Clone + Send + Sync + 'static,
{
    let backends = Backends::from_iter([("a", service)]);
    let interval = Duration::from_millis(20);
    let health = Health::new().probe(probe).probe_interval(interval).probe_timeout(timeout);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health);
    assert!(layer.start::<Request<Body>>());
    Probed { backends, _layer: layer }
}

/// A timeout for probes that are answered.
const LONG_TIMEOUT: Duration = Duration::from_secs(30);

impl<S> Probed<S> {
    fn state(&self) -> State {
        self.backends.get("a").unwrap().state
    }

    /// Waits for this state. Returns the failure of the last probe.
    async fn until(&self, state: State) -> String {
        until(&format!("the backend becomes {state}"), || self.state() == state).await;
        self.backends.get("a").unwrap().probe_failure.unwrap_or_default()
    }
}

/// Makes one probe.
async fn probe_once<S>(service: S, probe: impl Probe<S>) -> Result<(), BoxError> {
    probe.probe(service, &"a".parse().unwrap()).await
}

#[tokio::test]
async fn the_state_follows_the_status_of_the_service() {
    let server = Grpc::new().await;
    probe_once(server.upstream(), GrpcProbe::new())
        .await
        .expect("the server as a whole is serving");
    let probed =
        probe_backend(server.upstream(), GrpcProbe::new().service("shop.Cart"), LONG_TIMEOUT);
    let failure = probed.until(State::Down).await;
    assert_eq!(failure, "it does not know the service \"shop.Cart\"");
    server.reporter.set_service_status("shop.Cart", ServingStatus::Serving).await;
    assert_eq!(probed.until(State::Ready).await, "");
    server.reporter.set_service_status("shop.Cart", ServingStatus::NotServing).await;
    assert_eq!(probed.until(State::Down).await, "it is NOT_SERVING");
    server.reporter.set_service_status("shop.Cart", ServingStatus::Unknown).await;
    let unknown = || {
        let failure = probed.backends.get("a").unwrap().probe_failure;
        failure.is_some_and(|failure| failure.contains("UNKNOWN"))
    };
    until("the failure is UNKNOWN", unknown).await;
    assert_eq!(probed.state(), State::Down);
}

#[tokio::test]
async fn a_server_without_the_health_service_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_routes(Routes::default());
    let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let upstream = Upstream::new(&url).unwrap().http2(true);
    let failure = probe_backend(upstream, GrpcProbe::new(), LONG_TIMEOUT).until(State::Down).await;
    assert!(failure.contains("does not implement grpc.health.v1.Health"), "{failure}");
    serving.abort();
}

/// A listener that accepts connections and does not answer.
async fn hung_server() -> (String, JoinHandle<Infallible>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            connections.push(listener.accept().await);
        }
    });
    (url, serving)
}

#[tokio::test]
async fn an_ended_or_hung_server_is_down_over_an_upstream() {
    let server = Grpc::new().await;
    let (address, upstream) = (server.address, server.upstream());
    let probed = probe_backend(upstream, GrpcProbe::new(), LONG_TIMEOUT);
    drop(server);
    let failure = probed.until(State::Down).await;
    assert!(!failure.is_empty(), "the failure has a text");
    let _restarted = Grpc::at(address).await;
    probed.until(State::Ready).await;

    let (url, serving) = hung_server().await;
    let upstream = Upstream::new(&url).unwrap().http2(true);
    let probed = probe_backend(upstream, GrpcProbe::new(), Duration::from_millis(60));
    assert_eq!(probed.until(State::Down).await, "it did not answer within 60ms");
    serving.abort();
}

fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy()
}

fn channel_probe() -> GrpcProbe<Body> {
    GrpcProbe::new().map_body(Body::new)
}

#[tokio::test]
async fn a_channel_that_is_refused_is_ready_and_its_probe_fails() {
    let server = Grpc::new().await;
    let (address, url) = (server.address, server.url());
    drop(server);
    let mut refused = channel(&url);
    refused.ready().await.expect("a channel is always ready");

    let probed = probe_backend(refused, channel_probe(), LONG_TIMEOUT);
    let failure = probed.until(State::Down).await;
    assert!(failure.to_lowercase().contains("refused"), "the sources are included: {failure}");
    let _restarted = Grpc::at(address).await;
    probed.until(State::Ready).await;
}

#[tokio::test]
async fn the_probe_connects_a_lazy_channel() {
    let server = Grpc::new().await;
    let lazy = channel(&server.url());
    probe_once(lazy.clone().ready_oneshot().await.unwrap(), channel_probe()).await.unwrap();
    let probed = probe_backend(lazy, channel_probe(), LONG_TIMEOUT);
    server.reporter.set_service_status("", ServingStatus::NotServing).await;
    assert_eq!(probed.until(State::Down).await, "it is NOT_SERVING");
    server.reporter.set_service_status("", ServingStatus::Serving).await;
    probed.until(State::Ready).await;
}

#[tokio::test]
async fn a_hung_server_is_down_over_a_channel() {
    let (url, serving) = hung_server().await;
    let probed = probe_backend(channel(&url), channel_probe(), Duration::from_millis(60));
    probed.until(State::Down).await;
    serving.abort();
}
