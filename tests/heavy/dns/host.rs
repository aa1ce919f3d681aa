//! Backends from the addresses of a host, and the rules for all names.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;
use tower_sticky::{
    Backends,
    discovery::{
        DiscoveryEnd, Dns,
        hickory_resolver::proto::{op::ResponseCode, rr::RecordType},
    },
    proxy::Upstream,
};
use tower_sticky_heavy_tests::in_time;

use crate::{
    server::{NameServer, Reply},
    support::{SHOP, Servers, Setup, refresh_at_once, resolver},
};

#[tokio::test]
async fn the_addresses_of_a_host_are_its_backends() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]);
    let setup = Setup::new(names, servers, refresh_at_once(Dns::host(SHOP, 8080))).await;
    setup.until_ids(&["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]).await;
    let (body, _) = setup.send(Some("[fd00::1]:8080")).await;
    assert_eq!(body, "fd00::1", "the id of an IPv6 address is valid in a cookie");

    setup.names.addresses(SHOP, 0, &["10.0.0.2", "10.0.0.3"]);
    setup.until_ids(&["10.0.0.2:8080", "10.0.0.3:8080"]).await;
    let (body, token) = setup.send(Some("10.0.0.2:8080")).await;
    assert_eq!(
        (body.as_str(), token),
        ("10.0.0.2", None),
        "a session on a backend that stays is not moved"
    );
    let requests = setup.backends.get("10.0.0.2:8080").unwrap().requests;
    setup.until_look_ups(3).await;
    let after = setup.backends.get("10.0.0.2:8080").unwrap();
    assert_eq!(after.requests, requests, "an unchanged answer does not reset the backend");
}

#[tokio::test]
async fn a_name_is_resolved_again_after_its_ttl() {
    for own_cache in [false, true] {
        let start = Instant::now();
        let names = NameServer::start().await;
        // The TTLs of the two kinds of addresses differ: the shorter one is used.
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap().into()];
        names.set(SHOP, RecordType::A, Reply::Records(1, address("10.0.0.1")));
        names.set(SHOP, RecordType::AAAA, Reply::Records(3600, address("fd00::1")));
        let dns = Dns::host(SHOP, 80).refresh(Duration::from_millis(1), Duration::from_secs(3600));
        let dns = if own_cache {
            dns.resolver(resolver(names.addr))
        } else {
            dns.name_servers([names.addr])
        };
        let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        let setup = Setup::with(names, servers, Backends::new(), dns);
        setup.until_ids(&["10.0.0.1:80", "[fd00::1]:80"]).await;
        setup.names.set(SHOP, RecordType::A, Reply::Records(1, address("10.0.0.2")));
        setup.until_ids(&["10.0.0.2:80", "[fd00::1]:80"]).await;
        setup.assert_spaced(start, Duration::from_secs(1));
    }
}

#[tokio::test]
async fn ttls_are_limited_by_the_refresh_bounds() {
    let (start, bound) = (Instant::now(), Duration::from_millis(300));
    let names = NameServer::start().await;
    names.addresses(SHOP, 3600, &["10.0.0.1"]);
    let dns = Dns::host(SHOP, 80).refresh(bound, bound);
    let setup = Setup::new(names, Servers::with(&["10.0.0.1", "10.0.0.2"]), dns).await;
    setup.until_ids(&["10.0.0.1:80"]).await;
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_ids(&["10.0.0.2:80"]).await;
    setup.until_look_ups(2).await;
    setup.assert_spaced(start, bound);
}

#[tokio::test]
async fn the_backends_stay_after_any_kind_of_failure() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "fd00::1"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let dns = refresh_at_once(Dns::host(SHOP, 80)).timeout(Duration::from_millis(400));
    let setup = Setup::new(names, servers, dns).await;
    let known = ["10.0.0.1:80", "[fd00::1]:80"];
    setup.until_ids(&known).await;
    for (what, reply) in [
        ("a server failure", Reply::Code(ResponseCode::ServFail)),
        ("a refused query", Reply::Code(ResponseCode::Refused)),
        ("no reply", Reply::None),
        ("no such name", Reply::Code(ResponseCode::NXDomain)),
        ("no records", Reply::Records(0, vec![])),
    ] {
        setup.names.set(SHOP, RecordType::A, reply.clone());
        setup.names.set(SHOP, RecordType::AAAA, reply);
        let failures = setup.handle.stats().failures;
        // The first failure may be of a look-up that was in flight.
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
async fn a_failed_address_family_keeps_its_backends() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "fd00::1"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let setup = Setup::new(names, servers, refresh_at_once(Dns::host(SHOP, 80))).await;
    setup.until_ids(&["10.0.0.1:80", "[fd00::1]:80"]).await;
    setup.names.set(SHOP, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    let v4 = vec!["10.0.0.2".parse::<IpAddr>().unwrap().into()];
    setup.names.set(SHOP, RecordType::A, Reply::Records(0, v4));
    setup.until_ids(&["10.0.0.2:80", "[fd00::1]:80"]).await;
    setup.until_look_ups(2).await;
    assert_eq!(setup.ids(), ["10.0.0.2:80", "[fd00::1]:80"], "the AAAA query fails");
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_ids(&["10.0.0.2:80"]).await;
}

#[tokio::test]
async fn empty_when_gone_removes_all_backends() {
    for reply in [Reply::Code(ResponseCode::NXDomain), Reply::Records(0, vec![])] {
        let names = NameServer::start().await;
        names.addresses(SHOP, 0, &["10.0.0.1"]);
        let dns = refresh_at_once(Dns::host(SHOP, 80)).empty_when_gone(true);
        let setup = Setup::new(names, Servers::with(&["10.0.0.1"]), dns).await;
        setup.until_ids(&["10.0.0.1:80"]).await;
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.set(SHOP, kind, Reply::Code(ResponseCode::ServFail));
        }
        setup.until_look_ups(2).await;
        assert_eq!(setup.ids(), ["10.0.0.1:80"], "a failure does not remove it");
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.set(SHOP, kind, reply.clone());
        }
        setup.until_ids(&[]).await;
    }
}

#[tokio::test]
async fn a_backend_that_cannot_be_made_is_skipped_and_tried_again() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2"]);
    let setup =
        Setup::new(names, Servers::with(&["10.0.0.1"]), refresh_at_once(Dns::host(SHOP, 80))).await;
    in_time("the backend is skipped", setup.handle.wait_until(|stats| stats.skipped >= 2)).await;
    assert_eq!(setup.ids(), ["10.0.0.1:80"]);
    setup.servers.add("10.0.0.2");
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
}

#[tokio::test]
async fn a_manual_backend_is_not_changed_and_a_removed_one_is_added_again() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 0, &["10.0.0.1", "10.0.0.2"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "10.0.0.9"]);
    let backends = Backends::new();
    let manual = servers.0.lock().unwrap()[&"10.0.0.9".parse::<IpAddr>().unwrap()].upstream();
    backends.insert("10.0.0.1:80", manual).unwrap();
    let dns = refresh_at_once(Dns::host(SHOP, 80)).name_servers([names.addr]);
    let setup = Setup::with(names, servers, backends, dns);
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    setup.until_look_ups(1).await;
    assert_eq!(setup.send(Some("10.0.0.1:80")).await.0, "10.0.0.9", "the manual backend");
    setup.names.addresses(SHOP, 0, &["10.0.0.2"]);
    setup.until_look_ups(2).await;
    assert_eq!(setup.ids(), ["10.0.0.1:80", "10.0.0.2:80"]);
    setup.backends.remove("10.0.0.2:80").unwrap();
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
}

#[tokio::test]
async fn the_discovery_ends_with_the_pool() {
    let names = NameServer::start().await;
    names.addresses(SHOP, 3600, &["10.0.0.1"]);
    let dns = Dns::host(SHOP, 80);
    let Setup { backends, service, discovery, handle, names: _names, .. } =
        Setup::new(names, Servers::with(&["10.0.0.1"]), dns).await;
    in_time("the first answer", handle.wait_until(|stats| stats.updates == 1)).await;
    drop((backends, service));
    let end = in_time("the discovery ends", discovery).await.unwrap();
    assert!(matches!(end, DiscoveryEnd::PoolGone), "{end:?}");
}

#[tokio::test]
async fn invalid_options_are_errors() {
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
        let result = backends.follow_dns(dns, |_, _| Upstream::new("http://127.0.0.1"));
        let error = result.err().unwrap_or_else(|| panic!("expected an error with {expected:?}"));
        assert!(error.to_string().contains(expected), "{error} does not contain {expected:?}");
    }
}
