//! Real backends, and a pool that follows a name server.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{task::JoinHandle, time::Instant};
use tower::ServiceExt;
use tower_sticky::{
    BackendId, Backends, BoxError, NoInner, StickyLayer, StickyService,
    affinity::Cookie,
    discovery::{
        DiscoveryEnd, DiscoveryHandle, Dns,
        hickory_resolver::{
            TokioResolver,
            config::{ConnectionConfig, NameServerConfig, ResolverConfig},
            net::runtime::TokioRuntimeProvider,
        },
    },
    proxy::Upstream,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{client::cookie, in_time, server::Server, until};

use crate::server::NameServer;

pub const SHOP: &str = "shop.test.";
pub const SERVICE: &str = "_http._tcp.shop.test.";

/// Real backends on the loopback interface, by the address that the name server returns for them.
#[derive(Clone, Default)]
pub struct Servers(pub Arc<Mutex<HashMap<IpAddr, Server>>>);

impl Servers {
    pub fn with(addresses: &[&str]) -> Self {
        let servers = Self::default();
        addresses.iter().for_each(|address| servers.add(address));
        servers
    }

    /// Adds a backend that responds with its address.
    pub fn add(&self, address: &str) {
        let ip: IpAddr = address.parse().unwrap();
        let server = Server::start(move |socket| async move {
            let answer = service_fn(move |_| async move {
                let response = http::Response::new(Full::<Bytes>::from(ip.to_string()));
                Ok::<_, std::convert::Infallible>(response)
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
        self.0.lock().unwrap().insert(ip, server);
    }

    pub fn upstream(&self, _: &BackendId, address: SocketAddr) -> Result<Upstream, BoxError> {
        let servers = self.0.lock().unwrap();
        let server = servers.get(&address.ip()).ok_or("no server has this address")?;
        Ok(server.upstream())
    }
}

pub struct Setup {
    pub names: NameServer,
    pub servers: Servers,
    pub backends: Backends<Upstream>,
    pub service: StickyService<Upstream, NoInner>,
    pub handle: DiscoveryHandle,
    pub discovery: JoinHandle<DiscoveryEnd>,
}

/// Resolves again as soon as possible.
pub fn refresh_at_once(dns: Dns) -> Dns {
    dns.refresh(Duration::from_millis(10), Duration::from_millis(20))
}

impl Setup {
    pub async fn new(names: NameServer, servers: Servers, dns: Dns) -> Self {
        let backends = Backends::new();
        let dns = dns.name_servers([names.addr]);
        Self::with(names, servers, backends, dns)
    }

    pub fn with(
        names: NameServer,
        servers: Servers,
        backends: Backends<Upstream>,
        dns: Dns,
    ) -> Self {
        let makers = servers.clone();
        let discovery = backends.follow_dns(dns, move |id, address| makers.upstream(id, address));
        let discovery = discovery.unwrap();
        let handle = discovery.handle();
        let discovery = tokio::spawn(discovery);
        let service = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
            .strategy(RoundRobin::new())
            .into_service();
        Self { names, servers, backends, service, handle, discovery }
    }

    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.backends.iter().map(|b| b.id.to_string()).collect();
        ids.sort();
        ids
    }

    pub async fn until_ids(&self, ids: &[&str]) {
        until(&format!("the backends are {ids:?}"), || self.ids() == ids).await;
    }

    /// Waits for `count` look-ups that start after this call.
    pub async fn until_look_ups(&self, count: u64) {
        let sum = |stats: &tower_sticky::discovery::DiscoveryStats| stats.updates + stats.failures;
        // The look-up in flight may have started before.
        let before = sum(&self.handle.stats());
        let wait = self.handle.wait_until(|stats| sum(stats) > before + count);
        in_time("more look-ups", wait).await;
    }

    /// Asserts that at least `pause` has passed between any two answers since `start`.
    pub fn assert_spaced(&self, start: Instant, pause: Duration) {
        let stats = self.handle.stats();
        let answers = stats.updates.saturating_sub(stats.failures) as u32;
        assert!(answers >= 2, "the name was resolved again: {stats:?}");
        // Timers have a resolution of a millisecond.
        let least = (pause - Duration::from_millis(1)) * (answers - 1);
        let took = start.elapsed();
        assert!(took >= least, "{answers} answers in {took:?}, expected a pause of {pause:?}");
    }

    pub async fn send(&self, sid: Option<&str>) -> (String, Option<String>) {
        let mut request = Request::new(Full::<Bytes>::default());
        request.headers_mut().insert(header::HOST, "shop".parse().unwrap());
        if let Some(sid) = sid {
            request.headers_mut().insert(header::COOKIE, format!("sid={sid}").parse().unwrap());
        }
        let response = self.service.clone().oneshot(request).await.unwrap();
        let token = cookie(&response, "sid");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), token)
    }
}

/// A resolver with a cache, which a program may also use for other purposes.
pub fn resolver(server: SocketAddr) -> TokioResolver {
    let mut udp = ConnectionConfig::udp();
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
}
