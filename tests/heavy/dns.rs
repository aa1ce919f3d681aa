//! Backends from the domain name system: a real name server, real backends, requests through the
//! service.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

#[path = "dns/server.rs"]
mod server;

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
    BackendId, Backends, BoxError, Mode, NoInner, StickyLayer, StickyService,
    affinity::Cookie,
    discovery::{
        DiscoveryEnd, DiscoveryHandle, Dns,
        hickory_resolver::{
            TokioResolver,
            config::{ConnectionConfig, NameServerConfig, ResolverConfig},
            net::runtime::TokioRuntimeProvider,
            proto::{op::ResponseCode, rr::RecordType},
        },
    },
    proxy::Upstream,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{client::cookie, in_time, server::Server, until};

use self::server::{NameServer, Say};

const SHOP: &str = "shop.test.";
const SERVICE: &str = "_http._tcp.shop.test.";

/// Real backends that stand for addresses.
#[derive(Clone, Default)]
struct Park(Arc<Mutex<HashMap<IpAddr, Server>>>);

impl Park {
    fn with(addresses: &[&str]) -> Self {
        let park = Self::default();
        addresses.iter().for_each(|address| park.add(address));
        park
    }

    /// A backend that answers with the address for which it stands.
    fn add(&self, address: &str) {
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

    fn upstream(&self, _: &BackendId, address: SocketAddr) -> Result<Upstream, BoxError> {
        let park = self.0.lock().unwrap();
        let server = park.get(&address.ip()).ok_or("nobody stands for this address")?;
        Ok(server.upstream())
    }
}

struct Setup {
    names: NameServer,
    park: Park,
    backends: Backends<Upstream>,
    service: StickyService<Upstream, NoInner>,
    handle: DiscoveryHandle,
    feed: JoinHandle<DiscoveryEnd>,
}

/// Asks again as soon as it can.
fn eager(dns: Dns) -> Dns {
    dns.refresh(Duration::from_millis(10), Duration::from_millis(20))
}

impl Setup {
    async fn new(names: NameServer, park: Park, dns: Dns) -> Self {
        let backends = Backends::new();
        let dns = dns.name_servers([names.addr]);
        Self::with(names, park, backends, dns)
    }

    fn with(names: NameServer, park: Park, backends: Backends<Upstream>, dns: Dns) -> Self {
        let makers = park.clone();
        let feed = backends.follow_dns(dns, move |id, address| makers.upstream(id, address));
        let feed = feed.unwrap();
        let handle = feed.handle();
        let service = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
            .strategy(RoundRobin::new())
            .into_service();
        Self { names, park, backends, service, handle, feed: tokio::spawn(feed) }
    }

    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.backends.iter().map(|b| b.id.to_string()).collect();
        ids.sort();
        ids
    }

    async fn until_ids(&self, ids: &[&str]) {
        until(&format!("the backends are {ids:?}"), || self.ids() == ids).await;
    }

    /// Waits for whole look-ups that start after this call: the one under way may be older.
    async fn look_ups(&self, count: u64) {
        let sum = |stats: &tower_sticky::discovery::DiscoveryStats| stats.updates + stats.failures;
        let before = sum(&self.handle.stats());
        let wait = self.handle.wait_until(|stats| sum(stats) > before + count);
        in_time("more look-ups", wait).await;
    }

    /// Between any two answers since `start` at least `pause` has passed.
    fn spaced(&self, start: Instant, pause: Duration) {
        let stats = self.handle.stats();
        let answers = stats.updates.saturating_sub(stats.failures) as u32;
        assert!(answers >= 2, "it asked again: {stats:?}");
        // A timer counts whole milliseconds.
        let least = (pause - Duration::from_millis(1)) * (answers - 1);
        let took = start.elapsed();
        assert!(took >= least, "{answers} answers in {took:?}, and {pause:?} between any two");
    }

    async fn send(&self, sid: Option<&str>) -> (String, Option<String>) {
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

#[tokio::test]
async fn the_addresses_of_a_host_are_backends_and_change_with_the_answers() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]);
    let setup = Setup::new(names, park, eager(Dns::host(SHOP, 8080))).await;
    setup.until_ids(&["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]).await;
    let (body, _) = setup.send(Some("[fd00::1]:8080")).await;
    assert_eq!(body, "fd00::1", "the id of an IPv6 address goes through a cookie");

    setup.names.addresses(SHOP, 0, &["10.0.0.2", "10.0.0.3"]);
    setup.until_ids(&["10.0.0.2:8080", "10.0.0.3:8080"]).await;
    let (body, token) = setup.send(Some("10.0.0.2:8080")).await;
    assert_eq!((body.as_str(), token), ("10.0.0.2", None), "a session of who stays is not moved");
    let requests = setup.backends.get("10.0.0.2:8080").unwrap().requests;
    setup.look_ups(3).await;
    let after = setup.backends.get("10.0.0.2:8080").unwrap();
    assert_eq!(after.requests, requests, "an answer that says nothing new changes nothing");
}

#[tokio::test]
async fn it_asks_again_when_the_ttl_has_passed_and_not_before() {
    for own_cache in [false, true] {
        let start = Instant::now();
        let names = NameServer::start().await;
        // The two kinds of address live for different times: the shorter one counts.
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap().into()];
        names.say(SHOP, RecordType::A, Say::Records(1, address("10.0.0.1")));
        names.say(SHOP, RecordType::AAAA, Say::Records(3600, address("fd00::1")));
        let dns = Dns::host(SHOP, 80).refresh(Duration::from_millis(1), Duration::from_secs(3600));
        let dns = if own_cache {
            dns.resolver(resolver(names.addr))
        } else {
            dns.name_servers([names.addr])
        };
        let park = Park::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        let setup = Setup::with(names, park, Backends::new(), dns);
        setup.until_ids(&["10.0.0.1:80", "[fd00::1]:80"]).await;
        setup.names.say(SHOP, RecordType::A, Say::Records(1, address("10.0.0.2")));
        setup.until_ids(&["10.0.0.2:80", "[fd00::1]:80"]).await;
        setup.spaced(start, Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_long_ttl_is_cut_and_a_short_one_stretched() {
    let (start, bound) = (Instant::now(), Duration::from_millis(300));
    let names = NameServer::start().await;
    names.addresses(SHOP, 3600, &["10.0.0.1"]);
    let dns = Dns::host(SHOP, 80).refresh(bound, bound);
    let setup = Setup::new(names, Park::with(&["10.0.0.1", "10.0.0.2"]), dns).await;
    setup.until_ids(&["10.0.0.1:80"]).await;
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_ids(&["10.0.0.2:80"]).await;
    setup.look_ups(2).await;
    setup.spaced(start, bound);
}

#[tokio::test]
async fn a_failure_of_whatever_kind_keeps_the_last_known_set() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "fd00::1"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let dns = eager(Dns::host(SHOP, 80)).timeout(Duration::from_millis(400));
    let setup = Setup::new(names, park, dns).await;
    let known = ["10.0.0.1:80", "[fd00::1]:80"];
    setup.until_ids(&known).await;
    for (what, say) in [
        ("an error of the server", Say::Code(ResponseCode::ServFail)),
        ("a refusal", Say::Code(ResponseCode::Refused)),
        ("silence", Say::Silence),
        ("no such name", Say::Code(ResponseCode::NXDomain)),
        ("no records", Say::Records(0, vec![])),
    ] {
        setup.names.say(SHOP, RecordType::A, say.clone());
        setup.names.say(SHOP, RecordType::AAAA, say);
        let failures = setup.handle.stats().failures;
        // The first one may be of a look-up that was under way.
        let failed = setup.handle.wait_until(|stats| stats.failures >= failures + 2);
        in_time(what, failed).await;
        assert_eq!(setup.ids(), known, "{what}");
        let (body, _) = setup.send(Some("10.0.0.1:80")).await;
        assert_eq!(body, "10.0.0.1", "{what}");
    }
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_ids(&["10.0.0.2:80"]).await;
}

#[tokio::test]
async fn half_an_answer_changes_half_of_the_set() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "fd00::1"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let setup = Setup::new(names, park, eager(Dns::host(SHOP, 80))).await;
    setup.until_ids(&["10.0.0.1:80", "[fd00::1]:80"]).await;
    setup.names.say(SHOP, RecordType::AAAA, Say::Code(ResponseCode::ServFail));
    let v4 = vec!["10.0.0.2".parse::<IpAddr>().unwrap().into()];
    setup.names.say(SHOP, RecordType::A, Say::Records(0, v4));
    setup.until_ids(&["10.0.0.2:80", "[fd00::1]:80"]).await;
    setup.look_ups(2).await;
    assert_eq!(setup.ids(), ["10.0.0.2:80", "[fd00::1]:80"], "of IPv6 nothing is known");
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_ids(&["10.0.0.2:80"]).await;
}

#[tokio::test]
async fn by_option_a_name_that_is_gone_empties_the_set() {
    for say in [Say::Code(ResponseCode::NXDomain), Say::Records(0, vec![])] {
        let names = NameServer::start().await;
        names.addresses(SHOP, 0, &["10.0.0.1"]);
        let dns = eager(Dns::host(SHOP, 80)).empty_when_gone(true);
        let setup = Setup::new(names, Park::with(&["10.0.0.1"]), dns).await;
        setup.until_ids(&["10.0.0.1:80"]).await;
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.say(SHOP, kind, Say::Code(ResponseCode::ServFail));
        }
        setup.look_ups(2).await;
        assert_eq!(setup.ids(), ["10.0.0.1:80"], "a failure still keeps it");
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.say(SHOP, kind, say.clone());
        }
        setup.until_ids(&[]).await;
    }
}

#[tokio::test]
async fn a_target_at_a_new_address_keeps_its_sessions() {
    let names = NameServer::start().await;
    names.service(SERVICE, &[(1, 5, 8080, "Node-A.shop.test."), (1, 0, 8080, "node-b.shop.test.")]);
    names.addresses("node-a.shop.test.", 0, &["10.0.0.1"]);
    names.addresses("node-b.shop.test.", 0, &["fd00::2"]);
    let park = Park::with(&["10.0.0.1", "fd00::2", "10.0.0.9"]);
    let setup = Setup::new(names, park, eager(Dns::srv(SERVICE))).await;
    let (a, b) = ("node-a.shop.test:8080", "node-b.shop.test:8080");
    setup.until_ids(&[a, b]).await;
    let weights = || [a, b].map(|id| setup.backends.get(id).unwrap().weight);
    assert_eq!(weights(), [5, 1], "of the records; 0 is the smallest share");
    let (_, token) = setup.send(None).await;
    let mut sid = token.unwrap();
    while sid != a {
        sid = setup.send(None).await.1.unwrap();
    }
    assert_eq!(setup.send(Some(&sid)).await, ("10.0.0.1".to_owned(), None));

    setup.backends.set_mode(a, Mode::Draining).unwrap();
    setup.backends.set_weight(b, 7).unwrap();
    setup.names.addresses("node-a.shop.test.", 0, &["10.0.0.9"]);
    let moved = async {
        while setup.send(Some(&sid)).await != ("10.0.0.9".to_owned(), None) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time("the session's backend answers at its new address", moved).await;
    let status = setup.backends.get(a).unwrap();
    assert!(status.requests >= 3, "its counters go on");
    assert_eq!(status.mode, Mode::Draining, "the operator's word holds");
    assert_eq!(weights(), [5, 7], "the record has not changed, so the operator's weight holds");

    setup
        .names
        .service(SERVICE, &[(1, 5, 8080, "node-a.shop.test."), (1, 3, 8080, "node-b.shop.test.")]);
    until("the new weight of b", || weights() == [5, 3]).await;
}

#[tokio::test]
async fn only_the_lowest_priority_counts() {
    let names = NameServer::start().await;
    let (a, b) = ("node-a.shop.test.", "node-b.shop.test.");
    names.service(SERVICE, &[(10, 1, 80, b), (5, 1, 80, a)]);
    names.addresses(a, 0, &["10.0.0.1"]);
    names.addresses(b, 0, &["10.0.0.2"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2"]);
    let setup = Setup::new(names, park, eager(Dns::srv(SERVICE))).await;
    setup.until_ids(&["node-a.shop.test:80"]).await;
    setup.look_ups(1).await;
    assert_eq!(setup.ids(), ["node-a.shop.test:80"]);
    setup.names.service(SERVICE, &[(10, 1, 80, b)]);
    setup.until_ids(&["node-b.shop.test:80"]).await;
    // "." as target: decidedly no service, which by default is taken for a mistake.
    setup.names.service(SERVICE, &[(0, 0, 0, ".")]);
    setup.look_ups(2).await;
    assert_eq!(setup.ids(), ["node-b.shop.test:80"]);
}

#[tokio::test]
async fn a_target_whose_address_cannot_be_had_stays_where_it_is() {
    let names = NameServer::start().await;
    let (a, b) = ("node-a.shop.test.", "node-b.shop.test.");
    names.service(SERVICE, &[(1, 1, 80, a)]);
    names.addresses(a, 0, &["10.0.0.3", "10.0.0.1"]);
    names.addresses(b, 0, &["10.0.0.2"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2"]);
    let setup = Setup::new(names, park, eager(Dns::srv(SERVICE))).await;
    setup.until_ids(&["node-a.shop.test:80"]).await;
    assert_eq!(setup.send(Some("node-a.shop.test:80")).await.0, "10.0.0.1", "the lowest one");
    // The one in use is kept, whatever else is listed.
    setup.names.addresses(a, 0, &["10.0.0.0", "10.0.0.1"]);
    setup.look_ups(2).await;
    assert_eq!(setup.handle.stats().skipped, 0, "nobody stands for the others");
    for say in [Say::Code(ResponseCode::ServFail), Say::Code(ResponseCode::NXDomain)] {
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.say(a, kind, say.clone());
        }
        setup.look_ups(2).await;
        assert_eq!(setup.ids(), ["node-a.shop.test:80"], "{say:?}");
    }
    setup.names.service(SERVICE, &[(1, 1, 80, a), (1, 1, 80, b)]);
    setup.until_ids(&["node-a.shop.test:80", "node-b.shop.test:80"]).await;
    assert_eq!(setup.send(Some("node-a.shop.test:80")).await.0, "10.0.0.1");
}

#[tokio::test]
async fn a_backend_that_cannot_be_made_is_left_out_and_tried_again() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2"]);
    let setup = Setup::new(names, Park::with(&["10.0.0.1"]), eager(Dns::host(SHOP, 80))).await;
    in_time("it is said", setup.handle.wait_until(|stats| stats.skipped >= 2)).await;
    assert_eq!(setup.ids(), ["10.0.0.1:80"]);
    setup.park.add("10.0.0.2");
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
}

#[tokio::test]
async fn a_backend_of_the_hand_is_left_alone_and_one_removed_by_hand_comes_back() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2"]);
    let park = Park::with(&["10.0.0.1", "10.0.0.2", "10.0.0.9"]);
    let backends = Backends::new();
    let hand = park.0.lock().unwrap()[&"10.0.0.9".parse::<IpAddr>().unwrap()].upstream();
    backends.insert("10.0.0.1:80", hand).unwrap();
    let dns = eager(Dns::host(SHOP, 80)).name_servers([names.addr]);
    let setup = Setup::with(names, park, backends, dns);
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    setup.look_ups(1).await;
    assert_eq!(setup.send(Some("10.0.0.1:80")).await.0, "10.0.0.9", "the hand's own");
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.look_ups(2).await;
    assert_eq!(setup.ids(), ["10.0.0.1:80", "10.0.0.2:80"]);
    setup.backends.remove("10.0.0.2:80").unwrap();
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
}

#[tokio::test]
async fn with_the_pool_the_feed_ends() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 3600, &["10.0.0.1"]);
    let dns = Dns::host(SHOP, 80);
    let Setup { backends, service, feed, handle, names: _names, .. } =
        Setup::new(names, Park::with(&["10.0.0.1"]), dns).await;
    in_time("the first answer", handle.wait_until(|stats| stats.updates == 1)).await;
    drop((backends, service));
    let end = in_time("the feed ends", feed).await.unwrap();
    assert!(matches!(end, DiscoveryEnd::PoolGone), "{end:?}");
}

#[tokio::test]
async fn what_cannot_work_is_said_when_it_is_built() {
    let backends = Backends::<Upstream>::new();
    let server = SocketAddr::from(([127, 0, 0, 1], 53));
    let second = Duration::from_secs(1);
    let host = || Dns::host(SHOP, 80).name_servers([server]);
    let cases = [
        (Dns::host("", 80).name_servers([server]), "empty"),
        (Dns::host("10.0.0.1", 80).name_servers([server]), "is an address and not a name"),
        (Dns::host("a..b", 80).name_servers([server]), "is not a domain name"),
        (host().name_servers([]), "there is no name server"),
        (host().refresh(2 * second, second), "bounds"),
        (host().refresh(Duration::ZERO, second), "bounds"),
        (host().timeout(Duration::ZERO), "the time for a look-up is 0"),
    ];
    for (dns, expected) in cases {
        let made = backends.follow_dns(dns, |_, _| Upstream::new("http://127.0.0.1"));
        let error = made.err().unwrap_or_else(|| panic!("{expected}: it has to be refused"));
        assert!(error.to_string().contains(expected), "{error} says {expected:?}");
    }
}

/// A resolver as a program may have one for all its purposes, with a cache.
fn resolver(server: SocketAddr) -> TokioResolver {
    let mut udp = ConnectionConfig::udp();
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
}
